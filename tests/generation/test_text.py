"""Text as it is made: what is shown when, and where it ends."""

from typing import SupportsIndex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.errors import UsageError
from scratchgpt.generation.sampler import Draw
from scratchgpt.generation.text import Stop, Text, grow, known_part, token_named
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.char import CharTokenizer

BYTES = train({}, 257)  # <|endoftext|>, 0, and the bytes


def shown(text: str, *strings: str) -> list[str]:
    """Feed a text byte by byte; return what is shown each time, and at the end."""
    grown = Text(BYTES, Stop(strings))
    return [*(grown.add(token) for token in BYTES.encode(text).tolist()), grown.finish()]


def test_no_half_characters() -> None:
    assert shown("aé€") == ["a", "", "é", "", "", "€", ""]
    grown = Text(BYTES)
    assert grown.add(int(BYTES.encode("é")[0])) == ""
    assert grown.finish() == "\ufffd"


@given(
    text=st.text("ab\né", max_size=12) | st.text("ab", max_size=40),
    strings=st.lists(st.text("ab\né", min_size=1, max_size=4) | st.text("ab", min_size=1, max_size=12), max_size=3),
)
def test_a_text_ends_where_the_first_string_is_complete(text: str, strings: list[str]) -> None:
    expected, end = text, "length"
    for n in range(1, len(text) + 1):
        places = [text[:n].find(string) for string in strings if string in text[:n]]
        if places:
            expected, end = text[: min(places)], "string"
            break
    grown = Text(BYTES, Stop(strings))
    pieces = [grown.add(token) for token in BYTES.encode(text).tolist()]
    for n in range(len(pieces) + 1):  # what was shown was never taken back
        assert expected.startswith("".join(pieces[:n]))
    assert "".join([*pieces, grown.finish()]) == grown.shown == expected
    assert grown.end == end
    assert grown.add(5) == grown.finish() == ""


def test_text_is_held_back_only_while_it_is_doubtful() -> None:
    assert shown("a\nb", "\n\n") == ["a", "", "\nb", ""]
    assert shown("a\n", "\n\n") == ["a", "", "\n"]
    assert shown("a\n\nb", "\n\n") == ["a", "", "", "", ""]


class _Counted(str):
    """A stop string that counts the accesses to its characters."""

    __slots__ = ("n_read",)
    n_read: int

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        self.n_read += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("text", ["b" * 300, "ab" * 150, "a" + "b" * 299, ("b" * 29 + "a") * 10])
@pytest.mark.parametrize("string", ["b" * 10**6, "ab" * 10**6, "b" * 200 + "c" * 10**6, "b" * 100, "b" * 29 + "a" * 2])
def test_the_cost_of_a_stop_string_does_not_grow_with_its_length(text: str, string: str) -> None:
    """At most six accesses a character: each either extends the match or shortens it."""
    counted = _Counted(string)
    counted.n_read = 0
    assert "".join(shown(text, counted)) == text.partition(string)[0]
    assert counted.n_read <= 6 * len(text)


def test_a_token_ends_a_text() -> None:
    grown = Text(BYTES, Stop(tokens=(0,)))
    assert [grown.add(token) for token in (*BYTES.encode("ab").tolist(), 0, 70)] == ["a", "b", "", ""]
    assert (grown.shown, grown.end, len(grown.tokens)) == ("ab", "token", 2)


def test_texts_grow_until_all_have_ended() -> None:
    vocabulary = CharTokenizer("abc")
    texts = [Text(vocabulary, Stop(tokens=(2,))) for _ in range(2)]
    logits = np.zeros((2, 3))
    given = (Draw(np.array(tokens), logits, range(2)) for tokens in ([0, 1], [2, 0], [1, 0], [0, 2], [0, 0]))
    assert list(grow(texts, given, log_probabilities=True)) == [["a", "b"], ["", "a"], ["", "a"], ["", ""]]
    assert [text.tokens for text in texts] == [[0], [1, 0, 0]]
    assert np.abs(np.array(texts[1].log_probabilities) + np.log(3)).max() <= 1e-12
    assert next(given).tokens.tolist() == [0, 0]


def test_draws_for_some_of_the_texts() -> None:
    vocabulary = CharTokenizer("abc")
    texts = [Text(vocabulary, Stop(tokens=(2,))) for _ in range(3)]
    rows = [([0, 2, 1], [0, 1, 2]), ([1, 0], [0, 2]), ([2], [2])]
    given = (Draw(np.array(tokens), np.zeros((len(tokens), 3)), places) for tokens, places in rows)
    assert list(grow(texts, given)) == [["a", "", "b"], ["b", "", "a"], ["", "", ""], ["", "", ""]]
    assert [text.end for text in texts] == ["length", "token", "token"]


def test_tokens_by_name() -> None:
    assert token_named("<|endoftext|>", BYTES) == 0
    assert token_named("a", BYTES) == BYTES.encode("a")[0]
    with pytest.raises(UsageError, match="not one token of this vocabulary; end texts"):
        token_named("ab", BYTES)
    with pytest.raises(UsageError, match="not one token"):
        token_named("<|endoftext|>", CharTokenizer("abc"))


def test_what_is_not_known_is_left_out() -> None:
    assert known_part("abdac!\ud800", CharTokenizer("abc")) == "abac"
    assert known_part("aé\ud800", BYTES) == "aé"
