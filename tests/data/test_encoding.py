"""Blocks to ids, in one process and in several: the same, in order, whatever happens to a process."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data import encoding
from scratchgpt.data.encoding import BORDER, BlockEncoder, encode_blocks, n_processes
from scratchgpt.data.shards import Tokens
from scratchgpt.errors import UsageError
from scratchgpt.tokenizer import CharTokenizer, Tokenizer
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.counting import PieceCounter

TEXT = "The wind doth blow, the rain – 日本の雨 – doth fall; it's cold!\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer's files."""
    counter = PieceCounter()
    counter.add(TEXT)
    tokenizers.save(train(counter.total(), 270), tmp_path)
    return tmp_path


def blocks(number: int) -> Iterator[tuple[str, bytes]]:
    for at in range(number):
        yield ("train", "val")[at % 3 == 2], BORDER * (at > 0) + f"{at} {TEXT * (at % 5)}".encode() + BORDER + b"more"


def lists(encoded: Iterator[tuple[str, Tokens]]) -> list[tuple[str, list[int]]]:
    return [(name, ids.tolist()) for name, ids in encoded]


def test_a_block_is_documents_with_a_separator_between(folder: Path) -> None:
    tokenizer = tokenizers.load(folder)
    ids = BlockEncoder(tokenizer)(BORDER.join(text.encode() for text in ("", "one", "two", "")))
    end = tokenizer.to_json()["added_tokens"][0]["id"]
    assert ids.tolist() == [end, *tokenizer.encode("one"), end, *tokenizer.encode("two"), end]


def test_several_processes_give_the_same_in_the_same_order(folder: Path) -> None:
    tokenizer = tokenizers.load(folder)
    expected = lists(encode_blocks(blocks(40), tokenizer, folder, 1))
    assert lists(encode_blocks(blocks(40), tokenizer, folder, 2)) == expected


def test_what_a_process_cannot_encode_is_an_error_here(tmp_path: Path) -> None:
    tokenizer: Tokenizer = CharTokenizer("abc")
    tokenizers.save(tokenizer, tmp_path)
    texts = [("train", text) for text in (b"abc", b"cab", b"a rat", b"bca")]
    got: list[list[int]] = []
    with pytest.raises(UsageError, match="character ' '"):
        got.extend(ids.tolist() for _, ids in encode_blocks(texts, tokenizer, tmp_path, 2))
    assert got == [[0, 1, 2], [2, 0, 1]]


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a signal")
def test_a_process_that_is_killed_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers.load(folder)
    expected = lists(encode_blocks(blocks(30), tokenizer, folder, 1))
    processes = []

    class Remembered(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Remembered)
    encoded = encode_blocks(blocks(30), tokenizer, folder, 2)
    got = [next(encoded) for _ in range(3)]
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    assert lists(iter([*got, *encoded])) == expected
    assert all(process.returncode is not None for process in processes)


def test_processes_end_when_nobody_wants_more(folder: Path) -> None:
    encoded = encode_blocks(blocks(10**9), tokenizers.load(folder), folder, 2)
    _, ids = next(encoded)
    assert isinstance(ids, np.ndarray)
    encoded.close()  # type: ignore[attr-defined]  # it is a generator


def test_how_many_processes_a_text_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "usable_cores", lambda: 4)
    assert [n_processes(size) for size in (0, 2**24, 2**25, 2**26, 2**40)] == [1, 1, 2, 4, 4]
    monkeypatch.setattr(encoding, "usable_cores", lambda: 192)
    assert n_processes(2**40) == 8
