"""A hundred thousand nasty strings under GPT-2's vocabulary: the ids are tiktoken's, and every byte comes back.

Hypothesis would take minutes for as many; a seeded generator makes these. Characters of which Python's Unicode knows
nothing are left out where tiktoken is asked: it and `regex` may know different versions.
"""

import random
import unicodedata

import pytest

from tests.tokenizer.test_bpe_arrays import PARTS, gpt2

N_STRINGS = 100_000

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


def nasty_strings() -> list[str]:
    """Return strings of what has rules of its own, of any characters, and of repetitions."""
    rng = random.Random(0)  # noqa: S311 - no secret
    assigned = [chr(point) for point in range(0x110000) if unicodedata.category(chr(point)) not in ("Cs", "Cn")]

    def part() -> str:
        match rng.randrange(4):
            case 0:
                return rng.choice(assigned)
            case 1:
                return rng.choice(PARTS) * rng.randrange(40)
            case _:
                return rng.choice(PARTS)

    return ["".join(part() for _ in range(rng.randrange(12))) for _ in range(N_STRINGS)]


def test_every_string_has_the_ids_of_tiktoken_and_comes_back() -> None:
    """All of them, ten to a text, and every fifth for itself, which takes longer."""
    ours, theirs = gpt2()
    strings = nasty_strings()
    for text in ["".join(strings[at : at + 10]) for at in range(0, N_STRINGS, 10)] + strings[::5]:
        data = text.encode("utf-8")
        ids = ours.encode_bytes(data)
        assert ids.tolist() == theirs.encode_ordinary(text), text
        assert ours.decode_bytes(ids) == data, text


def test_every_byte_string_has_the_ids_of_tiktoken_and_comes_back() -> None:
    """UTF-8 or not: as one piece."""
    ours, theirs = gpt2()
    rng = random.Random(1)  # noqa: S311 - no secret
    pieces = [rng.randbytes(rng.randrange(1, 40)) for _ in range(N_STRINGS)]
    ids = ours.encode_pieces(pieces)
    assert ids.tolist() == [token for piece in pieces for token in theirs._encode_single_piece(piece)]  # noqa: SLF001
    assert ours.decode_bytes(ids) == b"".join(pieces)
    for piece in pieces[:: N_STRINGS // 1000]:
        assert ours.decode_bytes(ours.encode_pieces([piece])) == piece
