"""Vocabularies whose merges cross spaces and lines: whatever encodes in pieces gives the ids of the whole text."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchgpt import tokenizer as tokenizers
from scratchgpt.cli import encode, options
from scratchgpt.data import documents, plain, unpacking, work
from scratchgpt.data.mix import find_sources
from scratchgpt.data.prepare import prepare
from scratchgpt.data.vocabulary import Given
from scratchgpt.tokenizer import BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.cutting import GPT4_PATTERNS

LINES = "the cat sat on the mat. The hats, 12 of 345!\nA cat\n\nis that cat; it's\r\n the 1 cat.\n"
WHOLE = train(Counter([LINES]), 330).to_json()
"""Learnt from a text as one piece: many of its merges cross spaces and line ends."""

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


STEPS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "digits": [{"type": "Digits", "individual_digits": True}],
    "lines": [split(r"\n")],
    "sentences": [split(r"[^.]+\.\s*")],
    "two words": [split(r" ?\w+ \w+")],
    "lookahead": [split(r"t(?=\s)")],
    "GPT-4": [split(max(GPT4_PATTERNS, key=len))],
    "Llama 3": [split(min(GPT4_PATTERNS, key=len))],
    "digits, then GPT-2": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL | {"use_regex": True}],
}


def content(name: str) -> dict[str, Any]:
    """Return a tokenizer.json that splits in this way."""
    steps = STEPS[name] if STEPS[name][-1:] == [BYTE_LEVEL | {"use_regex": True}] else [*STEPS[name], BYTE_LEVEL]
    return WHOLE | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}


@pytest.mark.oracle
@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=40)
@given(lines=st.lists(st.sampled_from(LINES.splitlines(keepends=True)) | st.text("the ca\n1.", max_size=9), min_size=9))
def test_pieces_give_the_ids_of_the_whole(name: str, lines: list[str]) -> None:
    library = pytest.importorskip("tokenizers")
    tokenizer = BPETokenizer.from_json(content(name))
    text = "".join(lines)
    expected = library.Tokenizer.from_str(json.dumps(content(name))).encode(text).ids
    pieces = documents.whole_words(iter(lines), tokenizer.cut, "text")
    assert [index for piece in pieces for index in tokenizer.encode(piece).tolist()] == expected


@pytest.mark.oracle
@pytest.mark.parametrize("name", STEPS)
def test_files_and_pipes_give_the_ids_of_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("tokenizers")
    for module, block in ((plain, "CHUNK"), (unpacking, "PIECE"), (work, "BLOCK"), (options, "BLOCK")):
        monkeypatch.setattr(module, block, 50)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content(name)), encoding="utf-8")
    theirs = library.Tokenizer.from_str(json.dumps(content(name)))
    text = LINES * 20
    piped = CliRunner().invoke(encode.command, ("--tokenizer", str(tmp_path)), input=text)
    assert piped.output.split() == [str(index) for index in theirs.encode(text).ids]
    for part, share in (("train", text[: len(text) // 2]), ("val", text[len(text) // 2 :])):
        (tmp_path / part).write_text(share, encoding="utf-8", newline="")
    (source,), (val,) = (find_sources([tmp_path / part]) for part in ("train", "val"))
    prepare([source], tmp_path / "data", vocabulary=Given(tokenizers.load(tmp_path)), val=val)
    for part in ("train", "val"):
        ids = np.fromfile(tmp_path / "data" / f"{part}.bin", "<u2").tolist()
        assert ids == theirs.encode((tmp_path / part).read_bytes().decode("utf-8")).ids
