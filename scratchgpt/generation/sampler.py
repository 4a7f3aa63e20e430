"""Choosing the next token, again and again."""

import codecs
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from scratchgpt.chance import Place, philox
from scratchgpt.errors import UsageError
from scratchgpt.model.gpt import GPT
from scratchgpt.ops import softmax
from scratchgpt.ops.array import Array
from scratchgpt.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose among the possible next tokens."""

    temperature: float = 0.8  # the logits are divided by it; 0: always the likeliest
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the fewest likeliest whose probabilities add up to p
    seed: int = 1337

    def __post_init__(self) -> None:
        """Raise UsageError if a value cannot be meant."""
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"The temperature must be 0 or more, not {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, not {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must be above 0 and at most 1, not {self.top_p}.")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"The seed must be 0 or more and below 2**63, not {self.seed}.")


def choose(logits: Array, sampling: Sampling, uniform: float) -> int:
    """Return the next token's id, given logits (V,), a NumPy array, and a random number in [0, 1).

    The tokens stand in a row from likeliest to least likely, each as wide as its probability; `uniform` points at one.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    scores = logits[order].astype(np.float64)
    with np.errstate(over="ignore"):  # at a tiny temperature all but the likeliest go to -inf
        probabilities, _ = softmax.forward((scores - scores[0]) / sampling.temperature)
    reached = np.cumsum(probabilities)
    if sampling.top_p is not None:
        n_kept = int(np.searchsorted(reached, sampling.top_p)) + 1
        reached = reached[:n_kept]
    position = int(np.searchsorted(reached, uniform * reached[-1], side="right"))
    return int(order[min(position, len(reached) - 1)])


def generate(model: GPT, prompt: Sequence[int], n_tokens: int, sampling: Sampling, *, sample: int = 0) -> Iterator[int]:
    """Yield `n_tokens` ids that continue the prompt. Raises UsageError if the prompt is empty.

    The model sees the last block_size tokens. Another `sample` number gives another text from the same seed.
    """
    if not len(prompt):
        raise UsageError("The prompt is empty; give at least one character.")
    tokens = list(prompt)
    generator = np.random.Generator(philox(Place.SAMPLE, seed=sampling.seed, sequence=sample))
    for _ in range(n_tokens):
        tokens = tokens[-model.config.block_size :]
        x = model.hidden(np.array([tokens]))
        logits = model.backend.to_numpy(model.logits(x[0, -1]))
        token = choose(logits, sampling, generator.random())
        tokens.append(token)
        yield token


def default_prompt(vocabulary: Tokenizer) -> str:
    """Return what a text begins with if nobody says: a newline, or the first token where there is none."""
    return "\n" if "\n" in vocabulary else vocabulary.decode([0])


def write(
    model: GPT, vocabulary: Tokenizer, prompt: str, n_tokens: int, sampling: Sampling, *, sample: int = 0
) -> Iterator[str]:
    """Yield the prompt and what `generate` makes of it, piece by piece, in whole characters.

    Raises UsageError if the prompt is empty, DataError if the vocabulary cannot say it.
    """
    ids = vocabulary.encode(prompt).tolist()
    yield prompt
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be half a character
    for token in generate(model, ids, n_tokens, sampling, sample=sample):
        yield decoder.decode(vocabulary.decode_bytes([token]))
    yield decoder.decode(b"", final=True)
