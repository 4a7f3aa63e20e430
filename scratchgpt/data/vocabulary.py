"""Where a prepared folder's tokenizer comes from: characters or byte pairs of the texts, or a given one."""

import hashlib
import json
from typing import Protocol

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.documents import Count
from scratchgpt.tokenizer.bpe_training import N_BEFORE_MERGES, require_room, train
from scratchgpt.tokenizer.counting import PieceCounter
from scratchgpt.tokenizer.cutting import Cut, before_white_space


class Vocabulary(Protocol):
    """Where the tokenizer comes from: learnt from the texts, or there before."""

    @property
    def name(self) -> str:
        """What tells it from others: texts prepared again with the same name give the same tokens."""

    def see(self, text: str) -> None:
        """Learn from a piece of text."""

    @property
    def cut(self) -> Cut | None:
        """Where a long text may be cut without a change of its tokens; None if only the whole text gives them."""

    @property
    def n_steps(self) -> int:
        """How many steps `tokenizer` takes, if they are worth counting."""

    def tokenizer(self, progress: Count, /) -> tokenizers.Tokenizer:
        """Return the tokenizer, after all pieces were seen; `progress` is told how many steps were done."""


class Characters:
    """Learns the characters of the texts."""

    name = "char"
    n_steps = 0
    cut = staticmethod(before_white_space)

    def __init__(self) -> None:
        """Begin with none."""
        self._characters: set[str] = set()

    def see(self, text: str) -> None:
        """Add the characters of a piece."""
        self._characters.update(text)

    def tokenizer(self, _: Count, /) -> tokenizers.Tokenizer:
        """Return the tokenizer of all characters seen."""
        return tokenizers.CharTokenizer(self._characters)


class Pieces:
    """Learns a byte-level BPE from how often each piece occurs."""

    cut = staticmethod(before_white_space)  # the vocabulary will have GPT-2's pattern

    def __init__(self, vocab_size: int) -> None:
        """Learn up to `vocab_size` tokens. Raises UsageError if they are too few."""
        require_room(vocab_size)
        self.name = f"bpe {vocab_size}"
        self.vocab_size = vocab_size
        self._counter = PieceCounter()

    def see(self, text: str) -> None:
        """Count the pieces of a piece of text."""
        self._counter.add(text)

    @property
    def n_steps(self) -> int:
        """How many merges there are to learn at most."""
        return self.vocab_size - N_BEFORE_MERGES

    def tokenizer(self, progress: Count, /) -> tokenizers.Tokenizer:
        """Return the tokenizer of what was counted; a small text gives fewer tokens. Raises UsageError."""
        return train(self._counter.total(), self.vocab_size, progress=progress)


class Given:
    """A tokenizer that is there before."""

    n_steps = 0

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Take the tokenizer."""
        self._tokenizer = tokenizer
        self.cut = tokenizer.cut
        content = json.dumps(tokenizer.to_json(), sort_keys=True)
        self.name = f"given {hashlib.sha256(content.encode('ascii')).hexdigest()}"

    def see(self, text: str) -> None:
        """Learn nothing."""

    def tokenizer(self, _: Count, /) -> tokenizers.Tokenizer:
        """Return it."""
        return self._tokenizer
