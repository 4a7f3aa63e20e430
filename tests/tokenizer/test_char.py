"""The character tokenizer: nothing is lost, and the same characters have the same ids everywhere and always."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt import tokenizer as tokenizers
from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer import CharTokenizer

TEXT = "the cat\r\n\tsat — 𝄞 é e\u0301 😀"

texts = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates are no text: UTF-8 cannot hold them


@given(text=texts)
def test_a_text_comes_back(text: str) -> None:
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint32
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert set(ids.tolist()) == set(range(tokenizer.vocab_size))


@given(text=texts, rng=st.randoms())
def test_ids_follow_the_code_points(text: str, rng: Any) -> None:
    shuffled = rng.sample(text, len(text))
    assert CharTokenizer(shuffled).characters == CharTokenizer(text).characters == "".join(sorted(set(text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cab!", r"The character '!' \(U\+0021, at position 5\) is not in the vocabulary, which has 4 .*:  abc\."),
        ("é", r"'é' \(U\+00E9, at position 0\)"),
        ("ab😀c😀", r"'😀' \(U\+1F600, at position 2\)"),
        ("a\nb", r"'\\n' \(U\+000A, at position 1\)"),
        ("\ud83d", r"'\\ud83d' \(U\+D83D, at position 0\)"),
    ],
)
def test_an_unknown_character_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CharTokenizer("abc ").encode(text)


def test_a_long_vocabulary_is_cut_and_made_printable() -> None:
    with pytest.raises(UsageError, match=r"has 202 characters: \\n\\x7f一.*\.\.\.\.$"):
        CharTokenizer("\n\x7f" + "".join(map(chr, range(0x4E00, 0x4E00 + 200)))).encode("?")


@given(text=texts.filter(bool))
def test_json_round_trip(text: str) -> None:
    content = json.loads(json.dumps(CharTokenizer(text).to_json()))
    assert CharTokenizer.from_json(content).characters == CharTokenizer(text).characters


def test_files_round_trip(tmp_path: Path) -> None:
    tokenizers.save(CharTokenizer(TEXT), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(tokenizers.FILES)
    loaded = tokenizers.load(tmp_path)
    assert loaded.vocab_size == len(set(TEXT))
    assert loaded.decode(CharTokenizer(TEXT).encode(TEXT)) == TEXT


def file_of(vocabulary: Any, **parts: Any) -> bytes:
    """Return a tokenizer.json that is right, save perhaps for its vocabulary and some parts."""
    content = CharTokenizer("abc").to_json() | parts
    content["model"]["vocab"] = vocabulary
    return json.dumps(content).encode()


DAMAGED = {
    "truncated": file_of({"a": 0, "b": 1})[:-1],
    "not UTF-8": b"\xff",
    "not an object": b"[]",
    "too deep": b"[" * 100_000,
    "half a character": file_of({"\ud800": 0}),
    "without a model": b"{}",
    "model not an object": b'{"model": 3}',
    "vocabulary not an object": file_of(3),
    "vocabulary a list": file_of(["a", "b"]),
    "no tokens": file_of({}),
    "two characters": file_of({"a": 0, "bc": 1}),
    "no character": file_of({"": 0, "a": 1}),
    "ids out of order": file_of({"a": 1, "b": 0}),
    "gap in the ids": file_of({"a": 0, "b": 2}),
    "ids not numbers": file_of({"a": 0, "b": "1"}),
    "another pre-tokenizer": file_of({"a": 0, "b": 1}, pre_tokenizer={"type": "Whitespace"}),
    "a normalizer": file_of({"a": 0, "b": 1}, normalizer={"type": "Lowercase"}),
    "another decoder": file_of({"a": 0, "b": 1}, decoder=None),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(file_of({"a": 0, "b": 1}))
    assert tokenizers.load(tmp_path).vocab_size == 2
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json (is damaged|cannot be used)"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("ids", [[-1], [0, 3], [2**40]])
def test_ids_outside_the_vocabulary(ids: list[int]) -> None:
    with pytest.raises(UsageError, match="outside the vocabulary of 3"):
        CharTokenizer("abc").decode(ids)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no vocabulary, neither tokenizer\.json nor"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("added", "is_right"),
    [
        ({"id": 0, "content": "a", "special": True}, True),  # as transformers writes a character that pads
        ({"id": 1, "content": "a", "special": True}, False),
        ({"id": 0, "content": "a", "rstrip": True}, False),
        ({"id": 2, "content": "[PAD]", "special": True}, False),
        ({"id": 2, "content": "ab", "special": False}, False),
    ],
)
def test_added_tokens_next_to_characters(added: dict[str, Any], *, is_right: bool) -> None:
    content = CharTokenizer("ab").to_json() | {"added_tokens": [added], "padding": {"pad_id": 0}}
    if is_right:
        assert CharTokenizer.from_json(content).encode("ab").tolist() == [0, 1]
    else:
        with pytest.raises(ValueError, match=r"its added token '.*' is not supported next to characters"):
            CharTokenizer.from_json(content)
