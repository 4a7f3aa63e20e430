"""Learning a vocabulary: the merges that counting anew each time would give, and those of the tokenizers library."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scratchgpt.errors import UsageError
from scratchgpt.tokenizer import END_OF_TEXT, BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.byte_characters import ALPHABET
from scratchgpt.tokenizer.counting import count_pieces
from tests.strategies import settled_texts

TEXT = "the cat sat on the mat — that cat's hat, aaaaaaa 😀\n  and  the  hats 12 123 1234 aaaaa aaaaaaaaa" * 3


def train_plainly(text: str, n_merges: int) -> list[tuple[int, int]]:
    """Return the merges as the definition has them: all pairs counted anew for every merge."""
    words = [
        ([ALPHABET.index(bytes([byte])) for byte in piece.encode()], n) for piece, n in count_pieces([text]).items()
    ]
    merges = []
    for new in range(256, 256 + n_merges):
        counts: Counter[tuple[int, int]] = Counter()
        for word, n in words:
            for pair in itertools.pairwise(word):
                counts[pair] += n
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word, _ in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [new]
                at += 1
    return merges


def largest(text: str, special: Sequence[str] = ()) -> BPETokenizer:
    """Return the largest vocabulary that a text gives."""
    return train(count_pieces([text]), 100_000, special=special)


def test_the_example_of_wikipedia() -> None:
    bpe = train(count_pieces(["aaabdaaabac"]), 259, special=())
    assert bpe.tokens[256:] == [b"aa", b"ab", b"aaab"]
    assert [bpe.tokens[index] for index in bpe.encode("aaabdaaabac")] == [b"aaab", b"d", b"aaab", b"a", b"c"]


@given(text=st.text("aab c", max_size=60) | st.text(max_size=20))
@example(TEXT)
@example("a" * 50)
def test_counting_as_one_goes_is_counting_anew(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    bpe = largest(text)
    plain = train_plainly(text, 300)
    if bpe.vocab_size == 256 + len(bpe.merges):  # the plain one knows nothing of two ways to one token
        assert bpe.merges[:300] == plain


def test_special_tokens_come_first() -> None:
    bpe = train(count_pieces([TEXT]), 270, special=("<s>", END_OF_TEXT))
    assert bpe.special == {"<s>": 0, END_OF_TEXT: 1}
    assert bpe.tokens[2:258] == ALPHABET


def test_every_merge_is_told_but_not_each_for_itself() -> None:
    text = " ".join(map(str, range(2000)))
    for n_merges, expected in ((0, [0]), (13, [13]), (250, [100, 100, 50])):
        told: list[int] = []
        train(count_pieces([text]), 257 + n_merges, progress=told.append)
        assert told == expected


def test_no_piece_reaches_into_the_next_text() -> None:
    assert count_pieces(["ab", "ab", "ab"]) == {"ab": 3}


def test_a_vocabulary_that_is_too_small() -> None:
    with pytest.raises(UsageError, match="256 tokens is too small: the 256 bytes and 1 special token make 257"):
        train(count_pieces([TEXT]), 256)
    assert train(count_pieces([TEXT]), 257).merges == []


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("", []),
        ("a", []),
        ("ab", [b"ab"]),
        ("abc abc", [b"ab", b"abc", b" abc"]),
        ("aaaa", [b"aa", b"aaaa"]),
        ("é", ["é".encode()]),
        ("1 1 2", [b" 1", b" 2"]),
    ],
)
def test_a_small_text_gives_what_it_has(text: str, merged: list[bytes]) -> None:
    bpe = train(count_pieces([text]), 1000, special=("<s>",))
    assert bpe.tokens[257:] == merged


@pytest.mark.parametrize("name", ["a", "cat"])
def test_a_special_token_with_the_name_of_another(name: str) -> None:
    with pytest.raises(UsageError, match=rf"do not fit the vocabulary: its added token '{name}' is written as"):
        train(count_pieces(["cat cat cat"]), 260, special=(name,))


def test_half_a_character_is_refused() -> None:
    with pytest.raises(UsageError, match=r"surrogate U\+D83D\) at position 2"):
        train({"ab\ud83d": 1}, 260)


@pytest.mark.oracle
@given(text=st.text("aab c\n", max_size=60) | settled_texts)
@example(TEXT)
def test_the_tokenizers_library_learns_the_same(text: str) -> None:
    library = pytest.importorskip("tokenizers")
    theirs = library.Tokenizer(library.models.BPE())
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    vocabulary = theirs.get_vocab()
    ours = train(count_pieces([text]), len(vocabulary))
    assert ours.to_json()["model"]["vocab"] == vocabulary
    ids = ours.encode(text)
    assert theirs.encode(text.replace(END_OF_TEXT, "")).ids == ids.tolist()
