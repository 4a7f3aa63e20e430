"""Mixtures: the ratio that was asked for, in tokens, from as much text as it allows; no character cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data import plain
from scratchgpt.data.dataset import token_dtype
from scratchgpt.data.mix import Source, amounts, find_sources, looks_weighted
from scratchgpt.data.prepare import prepare
from scratchgpt.data.prepared import Prepared
from scratchgpt.data.shards import PARTS, ShardReader
from scratchgpt.data.vocabulary import Given
from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer import END_OF_TEXT
from scratchgpt.tokenizer.cutting import before_white_space

END = 256


class Bytes:
    """A tokenizer whose tokens are bytes and <|endoftext|>, so that many a token is part of a character."""

    cut = staticmethod(before_white_space)
    unused = ()

    vocab_size = 257
    special: Mapping[str, int] = MappingProxyType({END_OF_TEXT: END})

    def padded(self, vocab_size: int) -> "Bytes":
        """Return itself: no test needs more ids."""
        assert vocab_size == self.vocab_size
        return self

    def __contains__(self, token: str) -> bool:
        """Tell whether this is a token."""
        return len(token.encode("utf-8")) == 1 or token == END_OF_TEXT

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:  # noqa: ARG002
        """Return the bytes."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the bytes of each."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text; the separator shows as a line."""
        pieces = [b"\n--\n" if token == END else bytes([token]) for token in np.asarray(ids).tolist()]
        return b"".join(pieces).decode("utf-8", "replace")

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return bytes."""
        return self.decode(ids).encode("utf-8")

    def to_json(self) -> dict[str, Any]:
        """Return something to be told from others by."""
        return {"kind": type(self).__name__}


class Words(Bytes):
    """Tokens that depend on what stands together: a word's length, or a character that is no letter."""

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:  # noqa: ARG002
        """Return the ids."""
        spaced = "".join(c if c.isalpha() else f"\0{ord(c) % 100 + 100}\0" for c in text).split("\0")
        return np.array([len(word) if word.isalpha() else int(word) for word in spaced if word], np.uint32)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A folder of two weighted sub-folders."""
    for name, files in (("25_lovecraft", 3), ("75_shakespeare", 2)):
        (tmp_path / "mix" / name).mkdir(parents=True)
        for number in range(files):
            text = f"{name} {number}: Cthulhu fhtagn – Ïa! 日本\n" * 50
            (tmp_path / "mix" / name / f"{number}.txt").write_text(text, encoding="utf-8")
    return tmp_path / "mix"


def tokens(prepared: Prepared) -> list[list[int]]:
    """Return the ids of both parts."""
    dtype = token_dtype(prepared.meta["vocab_size"])
    files = (ShardReader(prepared.folder, part, dtype) for part in PARTS)
    return [file.read(0, file.size).tolist() for file in files]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "CHUNK", 100)


def test_the_ratio_is_the_one_asked_for(mixture: Path, tmp_path: Path) -> None:
    prepared = prepare(find_sources([mixture], mix_folders=True), tmp_path / "out", vocabulary=Given(Bytes()))
    lovecraft, shakespeare = prepared.meta["parts"]
    assert abs(lovecraft["kept_tokens"] / (lovecraft["kept_tokens"] + shakespeare["kept_tokens"]) - 0.25) <= 0.001
    assert lovecraft["documents"] == 3
    assert shakespeare["kept_tokens"] == shakespeare["tokens"]  # as much as the ratio allows
    for part in tokens(prepared):
        text = Bytes().decode(part)
        assert "\ufffd" not in text
        assert part.count(END) >= 1
        taken = len(text.encode("utf-8").split(b"\n--\n75_")[0])
        assert taken <= len(part) * 0.27 + 5


def test_characters_mix_too(mixture: Path, tmp_path: Path) -> None:
    meta = prepare(find_sources([mixture], mix_folders=True), tmp_path / "out").meta
    kept = [part["kept_tokens"] for part in meta["parts"]]
    assert abs(kept[0] / sum(kept) - 0.25) <= 0.001
    assert meta["train_tokens"] + meta["val_tokens"] == sum(kept) + 2  # a newline between the sources
    assert [source["weight"] for source in meta["asked"]["sources"]] == [25, 75]
    assert [len(source["files"]) for source in meta["asked"]["sources"]] == [3, 2]


def test_a_mixture_with_a_text_for_validation(mixture: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("Cthulhu", encoding="utf-8")
    (val,) = find_sources([tmp_path / "val.txt"])
    prepared = prepare(find_sources([mixture], mix_folders=True), tmp_path / "out", val=val)
    lovecraft, shakespeare, held_out = prepared.meta["parts"]
    assert shakespeare["kept_tokens"] == shakespeare["tokens"]
    assert lovecraft["kept_tokens"] == round(shakespeare["tokens"] / 3)
    assert prepared.meta["val_tokens"] == held_out["kept_tokens"] == 7


@given(
    available=st.lists(st.integers(1, 10**12), min_size=2, max_size=5),
    weights=st.lists(st.floats(0.01, 1e6), min_size=5, max_size=5),
)
def test_amounts(available: list[int], weights: list[float]) -> None:
    sources = [Source(str(n), [], weight) for n, weight in enumerate(weights[: len(available)])]
    try:
        taken = amounts(available, sources)
    except DataError:
        assert min(available) < 2 * max(weights) / min(weights)
        return
    total = sum(weights[: len(available)])
    for n_tokens, limit, weight in zip(taken, available, weights, strict=False):
        assert 0 < n_tokens <= limit
        assert abs(n_tokens - sum(taken) * weight / total) <= len(available)
    assert any(n_tokens == limit for n_tokens, limit in zip(taken, available, strict=True))


def test_typed_weights(mixture: Path) -> None:
    sources = find_sources([mixture], ["25_lovecraft=1", "75_shakespeare=3.5"])
    assert [(source.name, source.weight) for source in sources] == [("25_lovecraft", 1), ("75_shakespeare", 3.5)]
    files = sorted((mixture / "25_lovecraft").iterdir())[:2]
    assert [source.weight for source in find_sources(files, ["1=9", "0=3"])] == [3, 9]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (["25_lovecraft=1"], "must weigh each source once: 25_lovecraft, 75_shakespeare"),
        (["25_lovecraft=1", "75_shakespeare=1", "poe=1"], "must weigh each source once"),
        (["25_lovecraft=1", "25_lovecraft=2", "75_shakespeare=1"], "twice"),
        (["25_lovecraft"], "NAME=WEIGHT"),
        (["25_lovecraft=0", "75_shakespeare=1"], "above 0"),
        (["25_lovecraft=-1", "75_shakespeare=1"], "above 0"),
        (["25_lovecraft=nan", "75_shakespeare=1"], "above 0"),
        (["25_lovecraft=inf", "75_shakespeare=1"], "above 0"),
        (["25_lovecraft=1e308", "75_shakespeare=1e308"], "from 1e-09 to 1e[+]09"),
        (["25_lovecraft=5e-324", "75_shakespeare=5e-324"], "from 1e-09 to 1e[+]09"),
        (["25_lovecraft=much", "75_shakespeare=1"], "above 0"),
    ],
)
def test_weights_that_are_refused(mix: list[str], message: str, mixture: Path) -> None:
    with pytest.raises(UsageError, match=message):
        find_sources([mixture], mix)


@pytest.mark.parametrize("name", ["poe", "0_poe", "-5_poe", "nan_poe"])
def test_folders_that_are_refused(name: str, mixture: Path) -> None:
    (mixture / name).mkdir()
    (mixture / name / "a.txt").write_text("raven", encoding="utf-8")
    with pytest.raises(UsageError, match="poe"):
        find_sources([mixture], mix_folders=True)


def test_an_empty_source_is_refused(mixture: Path, tmp_path: Path) -> None:
    (mixture / "5_poe").mkdir()
    with pytest.raises(DataError, match="5_poe holds no files"):
        find_sources([mixture], mix_folders=True)
    (mixture / "5_poe" / "raven.txt").touch()
    with pytest.raises(DataError, match="poe is empty"):
        prepare(find_sources([mixture], mix_folders=True), tmp_path / "out")


def test_a_ratio_without_room(mixture: Path, tmp_path: Path) -> None:
    sources = find_sources([mixture], ["25_lovecraft=1", "75_shakespeare=1000000"])
    with pytest.raises(DataError, match="no room for even one token of 25_lovecraft"):
        prepare(sources, tmp_path / "out")


@pytest.mark.parametrize(
    "names",
    [
        ["01_start", "02_middle", "10_end"],
        ["1_a", "2_a"],
        ["25_lovecraft", "75_shakespeare"],
        ["2023_12_notes", "2024_01_notes"],
        ["0_zero", "-5_minus", "+7_plus", "0.5_half"],
        ["3_only"],
        ["10_poems", "others"],
    ],
)
def test_numbers_in_names_drop_no_text(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text(f"{name}\n" * len(name) ** 2, encoding="utf-8")
    (part,) = prepare(tmp_path / "texts", tmp_path / "out").meta["parts"]
    assert part["kept_tokens"] == part["tokens"] >= sum((len(name) + 1) * len(name) ** 2 for name in names)
    assert looks_weighted([tmp_path / "texts"])
    assert not looks_weighted([tmp_path / "texts" / names[0]])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.txt", "b/x.txt"], ["a/x.txt", "b/x.txt"]),
        (["x.txt", "x.jsonl", "y.txt"], ["x.txt", "x.jsonl", "y.txt"]),
        (["a/x.txt", "b/y.txt"], ["x", "y"]),
        (["1/a/x.txt", "2/a/x.txt"], ["1/a/x.txt", "2/a/x.txt"]),
        (["x.txt", "a/x.txt"], ["x.txt", "a/x.txt"]),
        (["x.txt.gz", "x.txt.zst"], ["x.txt.gz", "x.txt.zst"]),
        (["a=b/x.txt", "a=c/x.txt"], ["a=b/x.txt", "a=c/x.txt"]),
    ],
)
def test_texts_of_one_name_in_a_mixture(
    paths: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")
    sources = find_sources(list(map(Path, paths)), [f"{name}={place + 1}" for place, name in enumerate(names)])
    assert [(source.name, source.weight) for source in sources] == [(name, n + 1) for n, name in enumerate(names)]


def test_one_text_twice_in_a_mixture(mixture: Path) -> None:
    with pytest.raises(UsageError, match="is named twice"):
        find_sources([mixture / "25_lovecraft"] * 2, ["25_lovecraft=1"])


def test_sub_folders_of_one_name(tmp_path: Path) -> None:
    for name in ("25_poems", "75_poems"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text("text", encoding="utf-8")
    assert [source.name for source in find_sources([tmp_path / "texts"], mix_folders=True)] == ["25_poems", "75_poems"]


def test_mix_folders_wants_one_folder(mixture: Path) -> None:
    with pytest.raises(UsageError, match="one folder"):
        find_sources([mixture, mixture], mix_folders=True)
    with pytest.raises(UsageError, match="use one of them"):
        find_sources([mixture], ["25_lovecraft=1"], mix_folders=True)


def test_a_folder_without_weights_is_one_source(mixture: Path) -> None:
    (source,) = find_sources([mixture / "25_lovecraft"])
    assert (source.name, len(source.files), source.weight) == ("25_lovecraft", 3, None)


@given(words=st.lists(st.text("aé日", max_size=4), min_size=1, max_size=40), chunk=st.integers(20, 40))
def test_pieces_do_not_change_the_tokens(
    words: list[str], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("words")
    text = "ab " + " ab ".join(words)
    held_out = folder.with_suffix(".txt")
    for path in (folder / "a.txt", folder / "b.txt", held_out):
        path.write_text(text, encoding="utf-8")
    out = folder.with_name(f"{folder.name}-out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "CHUNK", chunk)
        prepared = prepare(folder, out, vocabulary=Given(Words()), val=find_sources([held_out])[0])
    ids = Words().encode(text).tolist()
    assert tokens(prepared) == [[*ids, END, *ids], ids]
