"""From tokens to text as they are made: never half a character, never the beginning of a string that ends the text."""

import codecs
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from scratchgpt.errors import UsageError
from scratchgpt.generation.sampler import Draw, Sampling, draws
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer.base import Tokenizer, end_of_text
from scratchgpt.tokenizer.bpe import END_OF_TEXT


class Stop(NamedTuple):
    """What ends a text before it has all its tokens, and is not part of it."""

    strings: Sequence[str] = ()
    token: int | None = None


NEVER = Stop()
"""A text has all its tokens, whatever they are."""


@functools.lru_cache(2**16)
def bytes_of(token: int, decode_bytes: Callable[[Sequence[int]], bytes]) -> bytes:
    """Return what a vocabulary's token stands for. The same ones are asked for again and again."""
    return decode_bytes([token])


class Text:
    """A text that grows token by token."""

    def __init__(self, vocabulary: Tokenizer, stop: Stop = NEVER) -> None:
        """Begin with nothing."""
        self.shown = ""
        self.tokens: list[int] = []  # all but one that has ended the text
        self.log_probabilities: list[float] = []  # of these, if they are asked for
        self.end: str | None = None  # by what the text ended: "length", "token" or "string"
        self._vocabulary, self._stop = vocabulary, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be half a character
        self._held = ""

    def add(self, token: int, log_probability: float | None = None) -> str:
        """Return what another token adds to what can be shown: perhaps nothing, and always so after the end."""
        if self.end:
            return ""
        if token == self._stop.token:
            return self._finish("token")
        self.tokens.append(token)
        if log_probability is not None:
            self.log_probabilities.append(log_probability)
        return self._show(self._decoder.decode(bytes_of(token, self._vocabulary.decode_bytes)))

    def text_of(self, token: int) -> str:
        """Return what a token stands for by itself, U+FFFD for parts of characters."""
        return bytes_of(token, self._vocabulary.decode_bytes).decode("utf-8", "replace")

    def finish(self) -> str:
        """Return what was held back, as no more tokens will follow."""
        return "" if self.end else self._finish("length")

    def _finish(self, end: str) -> str:
        shown = self._show(self._decoder.decode(b"", final=True))
        if not self.end:
            shown += self._held
            self.shown += self._held
            self.end = end
        return shown

    def _show(self, more: str) -> str:
        """Return what of the text held back and of `more` is sure to stand before the end."""
        if not self._stop.strings:  # usually so, and a server does this for every token
            self.shown += more
            return more
        held = self._held + more
        places = [held.find(string) for string in self._stop.strings if string in held]
        if places:
            self.end = "string"
        n_shown = min(places, default=len(held) - self._n_doubtful(held))
        self.shown += held[:n_shown]
        self._held = held[n_shown:]
        return held[:n_shown]

    def _n_doubtful(self, held: str) -> int:
        """Return how many characters at the end may be the beginning of a string that ends the text."""
        lengths = (n for string in self._stop.strings for n in range(1, len(string)) if held.endswith(string[:n]))
        return max(lengths, default=0)


def grow(texts: Sequence[Text], draws: Iterable[Draw], *, log_probabilities: bool = False) -> Iterator[list[str]]:
    """Add the draws to their texts until these have ended; yield what each time can be shown of each."""
    for draw in draws:
        likely = draw.log_probabilities().tolist() if log_probabilities else [None] * len(draw.places)
        shown = [""] * len(texts)
        for place, *added in zip(draw.places, draw.tokens.tolist(), likely, strict=True):
            shown[place] = texts[place].add(*added)
        yield shown
        if all(text.end for text in texts):
            return
    yield [text.finish() for text in texts]


def default_prompt(vocabulary: Tokenizer) -> str:
    """Return what a text begins with if nobody says: a newline, or the first token where there is none."""
    return "\n" if "\n" in vocabulary else vocabulary.decode([0])


def write(
    model: GPT, vocabulary: Tokenizer, prompt: str, n_tokens: int, sampling: Sampling, *, sample: int = 0
) -> Iterator[str]:
    """Yield the prompt and what `draws` makes of it, piece by piece, in whole characters.

    Raises UsageError if the prompt is empty, DataError if the vocabulary cannot say it.
    """
    ids = vocabulary.encode(prompt).tolist()
    yield prompt
    for (shown,) in grow([Text(vocabulary)], draws(model, ids, n_tokens, sampling, samples=[sample])):
        yield shown


def token_named(name: str, vocabulary: Tokenizer) -> int:
    """Return the id of a token, given its text or <|endoftext|>. Raises UsageError if there is no such token."""
    special = end_of_text(vocabulary) if name == END_OF_TEXT else None
    if special is not None:
        return special
    try:
        (index,) = vocabulary.encode(name).tolist()
    except (UsageError, ValueError) as error:  # unknown characters, or several tokens
        raise UsageError(f"{name!r} is not one token of this vocabulary; end texts with --stop instead.") from error
    return int(index)


def known_part(text: str, vocabulary: Tokenizer) -> str:
    """Return a text without the characters that the vocabulary cannot express."""

    def is_known(character: str) -> bool:
        try:
            vocabulary.encode(character)
        except UsageError:
            return False
        return True

    known = {character for character in set(text) if is_known(character)}
    return "".join(character for character in text if character in known)
