"""Choosing the next token, again and again, for several texts at once."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place, philox
from scratchgpt.errors import DataError, UsageError
from scratchgpt.generation.decoder import Decoder, seen
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array

BELOW_ONE = 1 - 2**-52
"""A factor that keeps a product with a random number below 1 from being rounded up to what it is a part of."""

LARGEST_PENALTY = 1e9
"""More would change no text, and make numbers infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose among the possible next tokens. What is None or 0 (penalties: 1 and 0) changes nothing."""

    temperature: float = 0.8  # the logits are divided by it; 0: always the likeliest
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the fewest likeliest whose probabilities add up to p
    min_p: float | None = None  # only those at least p times as likely as the likeliest
    repetition_penalty: float = 1.0  # logits of tokens that the text has: divided by it, or multiplied if negative
    frequency_penalty: float = 0.0  # taken off a token's logit for each time that the text has it
    presence_penalty: float = 0.0  # taken off the logit of a token that the text has, however often
    logit_bias: tuple[tuple[int, float], ...] = ()  # ids of tokens, and what is added to their logits
    seed: int = 1337

    def __post_init__(self) -> None:
        """Raise UsageError if a value cannot be meant."""
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"The temperature must be 0 or more, not {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, not {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must be above 0 and at most 1, not {self.top_p}.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p must be from 0 to 1, not {self.min_p}.")
        if not 1 / LARGEST_PENALTY <= self.repetition_penalty <= LARGEST_PENALTY:
            bounds = f"from {1 / LARGEST_PENALTY:g} to {LARGEST_PENALTY:g}"
            raise UsageError(f"The repetition penalty must be {bounds}, not {self.repetition_penalty}.")
        added = {"frequency penalty": self.frequency_penalty, "presence penalty": self.presence_penalty}
        added |= {f"logit bias of token {token}": bias for token, bias in self.logit_bias}
        for name, value in added.items():
            if not abs(value) <= LARGEST_PENALTY:
                raise UsageError(f"The {name} must be from {-LARGEST_PENALTY:g} to {LARGEST_PENALTY:g}, not {value}.")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"The seed must be 0 or more and below 2**63, not {self.seed}.")

    @property
    def has_penalties(self) -> bool:
        """Whether logits change before a token is chosen."""
        return bool(self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty or self.logit_bias)


class Draw(NamedTuple):
    """The next token of each of B texts."""

    tokens: npt.NDArray[np.int64]  # (B,)
    logits: Array  # (B, V): what the model said, before any filter; overwritten by the next draw
    places: Sequence[int]  # (B,): where these texts stand among all that were begun together

    def log_probabilities(self) -> npt.NDArray[np.float64]:
        """Return how likely each token was to the model (B,), as a natural logarithm."""
        return log_probabilities(self.logits)[np.arange(len(self.tokens)), self.tokens]


def log_probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """Return how likely each token is to the model (B, V), as a natural logarithm, given logits (B, V)."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def likeliest(scores: npt.NDArray[np.float64], n: int) -> list[int]:
    """Return the ids of the n highest scores (V,), the highest first; of equal ones, the lower id. Linear in V."""
    if not n:
        return []
    V = len(scores)
    candidates = np.arange(V) if n >= V else np.flatnonzero(scores >= np.partition(scores, V - n)[V - n])
    order = np.argsort(-scores[candidates], kind="stable")[:n]
    return [int(token) for token in candidates[order]]


@np.errstate(over="ignore", under="ignore")  # at a tiny temperature all but the likeliest go to -inf
def weights(logits: Array, sampling: Sampling) -> npt.NDArray[np.float64]:
    """Return what is proportional to the probabilities of being chosen (B, V), 0 for what is filtered out.

    The filters work on what the ones before have left, in the order of the fields of `Sampling`. Tokens as likely as
    the last one that a filter lets pass do so too. Raises DataError if there are no likeliest ones.
    """
    w = logits.astype(np.float64)
    largest = w.max(axis=-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise DataError("The model gives no numbers: its weights are damaged, or its training has diverged.")
    w -= largest
    w /= sampling.temperature
    np.exp(w, out=w)
    V = w.shape[-1]
    if sampling.top_k is not None and sampling.top_k < V:
        least = np.partition(w, V - sampling.top_k, axis=-1)[:, V - sampling.top_k, None]
        w[w < least] = 0
    if sampling.top_p is not None and sampling.top_p < 1:
        for row in w:
            _keep_fewest(row, sampling.top_p)
    if sampling.min_p is not None:
        w[w < sampling.min_p] = 0  # the likeliest one's is 1
    return w


def _keep_fewest(w: npt.NDArray[np.float64], p: float) -> None:
    """Set weights (V,) to 0, but for the fewest largest ones that make up the part p of all.

    Weights below (1 - p) / V of the total make up less than 1 - p of it all together: only what is above has to be
    sorted, of a large vocabulary often a hundredth.
    """
    total = w.sum()
    ordered = np.sort(w[w >= (1 - p) * total / len(w)])[::-1]
    n_before = int(np.searchsorted(ordered.cumsum(), p * total))
    w[w < ordered[min(n_before, len(ordered) - 1)]] = 0


def choose(logits: Array, sampling: Sampling, uniforms: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the next tokens' ids (B,), given logits (B, V), a NumPy array, and random numbers (B,) in [0, 1).

    The tokens stand in a row, each as wide as its probability; a random number points at one.
    """
    if sampling.temperature == 0:
        return logits.argmax(axis=-1)
    reached = weights(logits, sampling).cumsum(axis=-1)
    points = np.asarray(uniforms)[:, None] * BELOW_ONE * reached[:, -1:]
    return (reached > points).argmax(axis=-1)


def without(logits: Array, unused: Sequence[int]) -> Array:
    """Return logits (B, V) with which ids that are unused are not chosen; a model may have rows for such ids."""
    if not unused:
        return logits
    logits = logits.copy()
    logits[:, list(unused)] = -math.inf
    return logits


class Penalties:
    """Changes of logits: a bias for some tokens, and penalties for tokens that a text has.

    A token j with the logit μ_j, which the text (prompt included) has c_j times, gets the logit

        r(μ_j + bias_j) - c_j α_frequency - [c_j > 0] α_presence

    where r divides by the repetition penalty if c_j > 0 and the logit is positive, multiplies by it if c_j > 0 and the
    logit is negative, and changes nothing if c_j = 0. The sum is OpenAI's
    (https://platform.openai.com/docs/api-reference/completions, frequency_penalty, presence_penalty and logit_bias),
    r is from CTRL (https://arxiv.org/abs/1909.05858, section 4.1).
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], shape: tuple[int, int]) -> None:
        """Begin with the prompt, for logits of this shape (B, V)."""
        self._sampling = sampling
        self._counts = np.zeros(shape)
        self._counts += np.bincount(prompt, minlength=shape[1])
        self._bias = np.zeros(shape[1])
        for token, bias in sampling.logit_bias:
            self._bias[token] = bias

    def count(self, tokens: npt.NDArray[np.int64]) -> None:
        """Count one more token of each text (B,)."""
        self._counts[np.arange(len(tokens)), tokens] += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all but some of the texts."""
        self._counts = self._counts[rows]

    def applied(self, logits: Array) -> Array:
        """Return other logits (B, V), float64: in float32 they could become infinite."""
        sampling, wide, is_there = self._sampling, logits.astype(np.float64) + self._bias, self._counts > 0
        repeated = np.where(wide > 0, wide / sampling.repetition_penalty, wide * sampling.repetition_penalty)
        taken_off = sampling.frequency_penalty * self._counts + sampling.presence_penalty * is_there
        return np.where(is_there, repeated, wide) - taken_off


def draws(
    model: GPT,
    prompt: Sequence[int],
    n_tokens: int,
    sampling: Sampling,
    *,
    samples: Sequence[int] = (0,),
    unused: Sequence[int] = (),
    has_ended: Callable[[int], bool] = lambda _: False,
) -> Iterator[Draw]:
    """Yield `n_tokens` draws for B texts that begin with the prompt. Raises UsageError if that is empty.

    `samples` are the texts' B numbers: seed and number determine a text's chance, whatever else is in the batch. Ids
    that are `unused` are not drawn.
    After each draw, `has_ended` is asked for each text, by its place among these; one that has takes no further part.

    Of a longer prompt the model sees the last block_size tokens. Where a text has filled block_size, its last half
    is computed anew, and the text goes on from there (cache.md).
    """
    if not len(prompt):
        raise UsageError("The prompt is empty; give at least one character.")
    B, block_size = len(samples), model.config.block_size
    generators = [np.random.Generator(philox(Place.SAMPLE, seed=sampling.seed, sequence=number)) for number in samples]
    penalties = Penalties(sampling, prompt, (B, model.config.vocab_size)) if sampling.has_penalties else None
    prompt = prompt[-block_size:]
    decoder = Decoder(model, B, len(prompt) + n_tokens)
    places: Sequence[int] = range(B)
    recent: list[npt.NDArray[np.int64]] = [np.full(B, token) for token in prompt]  # what the model sees
    logits = _begin(decoder, np.array([prompt]), B)
    for number in range(1, n_tokens + 1):
        uniforms = [generator.random() for generator in generators]
        penalised = penalties.applied(logits) if penalties else logits
        tokens = choose(without(penalised, unused), sampling, uniforms)
        yield Draw(tokens, logits, places)
        rows = [row for row, place in enumerate(places) if not has_ended(place)]
        if number == n_tokens or not rows:
            return
        if penalties:
            penalties.count(tokens)
        recent.append(tokens)
        if len(rows) < len(places):
            decoder.cache.only(rows)
            if penalties:
                penalties.keep(rows)
            generators, places = [generators[row] for row in rows], [places[row] for row in rows]
            recent = [tokens[rows] for tokens in recent]
        n_recent, recent = len(recent), seen(recent, block_size)
        if len(recent) == n_recent:
            logits = decoder.step(recent[-1])
        else:
            logits = _begin(decoder, np.stack(recent, axis=1), len(rows))


def _begin(decoder: Decoder, tokens: npt.NDArray[np.int64], B: int) -> Array:
    """Fill the first B slots with tokens (B, T), or (1, T) for all; return the logits (B, V) of what follows."""
    cache, slots, model = decoder.cache, range(B), decoder.model
    cache.n_used = B
    cache.lengths[:B] = [0] * B
    logits = model.backend.to_numpy(model.logits(decoder.extend(slots, tokens, 1)[:, 0]))
    return logits.repeat(B // len(logits), axis=0)


def generate(model: GPT, prompt: Sequence[int], n_tokens: int, sampling: Sampling, *, sample: int = 0) -> Iterator[int]:
    """Yield `n_tokens` ids that continue the prompt, as `draws` does for one text. Raises UsageError if it is empty."""
    for draw in draws(model, prompt, n_tokens, sampling, samples=[sample]):
        yield int(draw.tokens[0])
