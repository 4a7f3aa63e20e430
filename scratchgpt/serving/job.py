"""A text that a request asks for, from both sides: the engine's thread writes, a reader takes."""

import codecs
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.generation import Sampling, Stop, Text
from scratchgpt.generation.sampler import likeliest
from scratchgpt.generation.text import bytes_of
from scratchgpt.tokenizer import Tokenizer

CONTINUING = {bytes([byte]) for byte in range(0x80, 0xC0)}
"""What UTF-8 has inside a character."""


class Likely(NamedTuple):
    """The log-probability of a token."""

    token: str  # its text, or bytes:\x.. if it is a part of a character
    offset: int  # characters of prompt and text before it
    log_probability: float | None  # None for the first token of a prompt
    top: dict[str, float] | None  # of the likeliest tokens, and of this one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted: a text that continues a prompt."""

    prompt: Sequence[int]  # texts with the same object share what can be shared
    n_tokens: int
    sampling: Sampling
    number: int = 0  # the text's among those of the seed
    stop: Stop
    n_top: int | None = None  # how many of the likeliest tokens to name next to each; None: no log-probabilities
    has_echo: bool = False  # whether the prompt's tokens get theirs, too; the prompt must fit into block_size
    n_before: int = 0  # characters of the prompt, from whose beginning offsets count
    seconds: float  # that it may take, waiting included


class Scored:
    """Tokens with their log-probabilities, and where the next one stands. A copy goes on by itself."""

    def __init__(self, vocabulary: Tokenizer, n_top: int, offset: int) -> None:
        """Begin behind `offset` characters."""
        self.entries: deque[Likely] = deque()
        self._vocabulary, self._n_top, self._offset = vocabulary, n_top, offset
        self._unused = list(vocabulary.unused)  # ids that are not named
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int, scores: npt.NDArray[np.float64] | None) -> None:
        """Append a token, given the log-probabilities of all tokens (V,); None where nothing stands before it."""
        name, data = self._name(token), bytes_of(token, self._vocabulary.decode_bytes)
        if self.decoder.getstate()[0] and data[:1] not in CONTINUING:  # the character before stays incomplete
            self._offset += len(self.decoder.decode(b"", final=True))
        if scores is None:
            self.entries.append(Likely(name, self._offset, None, None))
        else:
            known = scores
            if self._unused:
                known = scores.copy()
                known[self._unused] = -math.inf
            others = [other for other in likeliest(known, self._n_top) if known[other] > -math.inf]
            top = {self._name(other): float(scores[other]) for other in (*others, token)}
            self.entries.append(Likely(name, self._offset, float(scores[token]), top))
        self._offset += len(self.decoder.decode(data))

    def copied(self) -> "Scored":
        """Return a copy, which shares the entries so far."""
        other = Scored(self._vocabulary, self._n_top, self._offset)
        other.entries.extend(self.entries)
        other.decoder.setstate(self.decoder.getstate())
        return other

    def _name(self, token: int) -> str:
        """Return a token's text as OpenAI writes it."""
        data = bytes_of(token, self._vocabulary.decode_bytes)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Job:
    """A text in the making: the engine's thread writes, a reader takes."""

    def __init__(self, wish: Wish, vocabulary: Tokenizer, tell: "Callable[[Job], None]") -> None:
        """Begin; `tell` is called from another thread whenever there may be something to take."""
        self.wish, self._tell = wish, tell
        self.n_made = 0  # tokens, one that ended the text included
        self.end: Literal["stop", "length"] | None = None
        self.error: Exception | None = None  # why there is no end
        self.is_cancelled = False
        self.deadline = time.monotonic() + wish.seconds
        self._news: deque[tuple[str, list[Likely]]] = deque()
        self._text = Text(vocabulary, wish.stop)
        # Of tokens in text that is held back, or not shown yet:
        self._scored = None if wish.n_top is None else Scored(vocabulary, wish.n_top, wish.n_before)

    @property
    def is_over(self) -> bool:
        """Whether nothing follows except what can be taken."""
        return self.end is not None or self.error is not None

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of the text so far."""
        return self._text.tokens

    def take(self) -> tuple[str, list[Likely]]:
        """Return what is new: text, and the log-probabilities of its tokens if they are wanted."""
        news = [self._news.popleft() for _ in range(len(self._news))]
        return "".join(text for text, _ in news), [likely for _, several in news for likely in several]

    def tell(self) -> None:
        """Notify the reader that there may be something to take."""
        self._tell(self)

    def fail(self, error: Exception) -> None:
        """End with an error, unless the text has ended, and notify the reader."""
        if not self.is_over:
            self.error = error
            self.tell()

    def echo(self, scored: Scored) -> None:
        """Begin with the log-probabilities of the prompt."""
        self._scored = scored.copied()

    def add(self, token: int, scores: npt.NDArray[np.float64] | None) -> None:
        """Add a token that was drawn, given the log-probabilities of all tokens (V,) if they are wanted."""
        self.n_made += 1
        shown = self._text.add(token)
        if self._scored and self._text.end != "token":
            self._scored.add(token, scores)
        if self.n_made == self.wish.n_tokens:
            shown += self._text.finish()
        self._hand_over(shown)

    def finish(self) -> None:
        """End a text that has all its tokens."""
        self._hand_over(self._text.finish())

    def _hand_over(self, shown: str) -> None:
        """Give the reader text, and the log-probabilities of its tokens: nothing that stands after the end."""
        has_ended_before = self._text.end == "string"
        limit = math.inf if self._text.end and not has_ended_before else self.wish.n_before + self._text.n_shown
        likely = []
        while self._scored and self._scored.entries and self._scored.entries[0].offset < limit:
            likely.append(self._scored.entries.popleft())
        if shown or likely:
            self._news.append((shown, likely))
        if self._text.end:
            self.end = "length" if self._text.end == "length" else "stop"
