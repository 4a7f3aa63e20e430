"""Counting pieces on arrays gives what counting them one by one gives, however often the table is emptied."""

from collections import Counter

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scratchgpt.errors import UsageError
from scratchgpt.tokenizer import bpe_arrays, counting
from scratchgpt.tokenizer.counting import count_pieces
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

TEXT = "the cat\r\n\tsat — 𝄞 é e\u0301 \0 a\0 😀  the cat's   don't 1234\n\nan extraordinarily-long " + "=" * 40
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ethca s'\n\t1,", max_size=60)


def plainly(texts: list[str]) -> Counter[str]:
    return Counter(piece for text in texts for piece in regex.findall(GPT2_PATTERN, text))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(texts, max_size=4))
def test_arrays_count_what_there_is(parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "SMALL", 0)
    monkeypatch.setattr(counting, "TABLE_BITS", 8)
    assert count_pieces([*parts, TEXT]) == plainly([*parts, TEXT])


@pytest.mark.parametrize("text", ["ab\ud83d", "a" * 2 * counting.SMALL + "\ud83d"], ids=["short", "long"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"surrogate U\+D83D\) at position {len(text) - 1}; UTF-8 cannot hold it"):
        count_pieces(["good", text])


def test_a_table_that_is_full_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "TABLE_BITS", 10)
    monkeypatch.setattr(bpe_arrays, "CHUNK", 1024)
    text = " ".join(str(number * number) for number in range(10_000)) + TEXT
    assert count_pieces([text, "few", text]) == plainly([text, "few", text])
