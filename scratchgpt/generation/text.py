"""From tokens to text as they are made: never half a character, never the beginning of a string that ends the text."""

import codecs
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from scratchgpt.errors import UsageError
from scratchgpt.generation.sampler import Draw, Sampling, draws
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer.base import Tokenizer


class Stop(NamedTuple):
    """What ends a text before it has all its tokens, and is not part of it."""

    strings: Sequence[str] = ()
    tokens: Collection[int] = ()


NEVER = Stop()
"""A text has all its tokens, whatever they are."""


@functools.lru_cache(2**16)
def bytes_of(token: int, decode_bytes: Callable[[Sequence[int]], bytes]) -> bytes:
    """Return what a vocabulary's token stands for. The same ones are asked for again and again."""
    return decode_bytes([token])


class _Match:
    """How much of a stop string's beginning a growing text ends with (the algorithm of Knuth, Morris and Pratt).

    A character costs constant time on average, however long the string is. The table of borders grows only as far as
    the text has matched.
    """

    def __init__(self, string: str) -> None:
        self.string, self.length = string, 0
        self._borders = [0, 0]  # by n: the longest proper beginning of the first n characters that also ends them

    def add(self, character: str) -> bool:
        """Return whether the string is now complete."""
        string = self.string
        self.length = self._extended(self.length, character)
        if self.length == len(self._borders) and self.length < len(string):
            self._borders.append(self._extended(self._borders[-1], string[self.length - 1]))
        return self.length == len(string)

    def _extended(self, length: int, character: str) -> int:
        """Return the length of the longest match that ends with another character."""
        while length and self.string[length] != character:
            length = self._borders[length]
        return length + (self.string[length] == character)


class Text:
    """A text that grows token by token."""

    def __init__(self, vocabulary: Tokenizer, stop: Stop = NEVER) -> None:
        """Begin with nothing."""
        self.n_shown = 0  # characters
        self.tokens: list[int] = []  # all but one that has ended the text
        self.log_probabilities: list[float] = []  # of these, if they are asked for
        self.end: str | None = None  # by what the text ended: "length", "token" or "string"
        self._vocabulary, self._stop = vocabulary, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be half a character
        self._pieces: list[str] = []  # of what is shown
        self._held = ""
        self._matches = [_Match(string) for string in stop.strings]

    @property
    def shown(self) -> str:
        """The text that is sure to stand before the end."""
        return "".join(self._pieces)

    def add(self, token: int, log_probability: float | None = None) -> str:
        """Return what another token adds to what can be shown: perhaps nothing, and always so after the end."""
        if self.end:
            return ""
        if token in self._stop.tokens:
            return self._finish("token")
        self.tokens.append(token)
        if log_probability is not None:
            self.log_probabilities.append(log_probability)
        return self._release(self._decoder.decode(bytes_of(token, self._vocabulary.decode_bytes)))

    def text_of(self, token: int) -> str:
        """Return what a token stands for by itself, U+FFFD for parts of characters."""
        return bytes_of(token, self._vocabulary.decode_bytes).decode("utf-8", "replace")

    def finish(self) -> str:
        """Return what was held back, as no more tokens will follow."""
        return "" if self.end else self._finish("length")

    def _finish(self, end: str) -> str:
        shown = self._release(self._decoder.decode(b"", final=True))
        if not self.end:
            shown += self._show(self._held)
            self.end = end
        return shown

    def _show(self, piece: str) -> str:
        self._pieces.append(piece)
        self.n_shown += len(piece)
        return piece

    def _release(self, more: str) -> str:
        """Show what of the text held back and of `more` is sure to stand before the end, and return it."""
        if not self._matches:  # usually so, and a server does this for every token
            return self._show(more)
        held = self._held + more
        starts = [start for match in self._matches if (start := _start(match, more, len(held))) is not None]
        if starts:
            self.end = "string"
        n_shown = min(starts, default=len(held) - max(match.length for match in self._matches))
        self._held = held[n_shown:]
        return self._show(held[:n_shown])


def _start(match: _Match, more: str, n_held: int) -> int | None:
    """Return where a stop string starts in the text held back if `more`, the end of it, completes the string."""
    for n, character in enumerate(more, 1):
        if match.add(character):
            return n_held - len(more) + n - len(match.string)
    return None


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
    """Return the prompt to use if there is none: a newline, or the first token if the vocabulary has no newline."""
    return "\n" if "\n" in vocabulary else vocabulary.decode([0])


def write(
    model: GPT, vocabulary: Tokenizer, prompt: str, n_tokens: int, sampling: Sampling, *, sample: int = 0
) -> Iterator[str]:
    """Yield the prompt and what `draws` makes of it, piece by piece, in whole characters.

    Raises UsageError if the prompt is empty, DataError if the vocabulary cannot say it.
    """
    ids = vocabulary.encode(prompt).tolist()
    unused = vocabulary.padded(model.config.vocab_size).unused
    yield prompt
    drawn = draws(model, ids, n_tokens, sampling, samples=[sample], unused=unused)
    for (shown,) in grow([Text(vocabulary)], drawn):
        yield shown


def token_named(name: str, vocabulary: Tokenizer) -> int:
    """Return the id of a token, given its text or its name. Raises UsageError if there is no such token."""
    if name in vocabulary.special:
        return vocabulary.special[name]
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
