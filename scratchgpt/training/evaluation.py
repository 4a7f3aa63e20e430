"""How well a model predicts a text: measured over all of it, in parts that one can watch."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scratchgpt.data.dataset import Batch
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer import Tokenizer, token_bytes


class Measured(NamedTuple):
    """Sums over the targets measured so far."""

    nats: float = 0.0
    n_correct: int = 0
    n_targets: int = 0
    n_bytes: int = 0  # of the text that the targets stand for

    @property
    def loss(self) -> float:
        """Mean in nats a token."""
        return self.nats / max(self.n_targets, 1)

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model seems to choose."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float:
        """What the text would take if it were packed by the model's predictions: comparable across vocabularies."""
        return self.nats / math.log(2) / max(self.n_bytes, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of targets that were the likeliest token."""
        return self.n_correct / max(self.n_targets, 1)


def measure(model: GPT, tokenizer: Tokenizer, batches: Iterable[Batch]) -> Iterator[Measured]:
    """Yield the sums after each batch; the last of them are those of all."""
    lengths = token_bytes(tokenizer)
    measured = Measured()
    for tokens, targets in batches:
        score = model.score(tokens, targets)
        measured = Measured(
            measured.nats + score.loss,
            measured.n_correct + score.n_correct,
            measured.n_targets + score.n_targets,
            measured.n_bytes + int(lengths[targets].sum()),
        )
        yield measured
