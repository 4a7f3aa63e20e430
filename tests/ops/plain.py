"""Every op once more, as plainly as it can be written: the values that the ops must have.

Loops over Python numbers, taken from the formulas in the papers and the docstrings, sharing nothing with the code
under test. Nothing here is fast.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scratchgpt.ops.adamw import Settings
from scratchgpt.ops.array import Array

Row = list[float]


def _each_row(function: Callable[[Row], Row], x: Array) -> Array:
    """Apply a function of one row to all rows of x (..., N)."""
    y = np.array([function(row) for row in x.reshape(-1, x.shape[-1]).tolist()])
    return y.reshape(*x.shape[:-1], y.shape[-1])


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Each output is a sum over the inputs, and its bias."""
    columns = weight.T.tolist()
    offsets = [0.0] * len(columns) if bias is None else bias.tolist()

    def function(row: Row) -> Row:
        return [
            sum(a * w for a, w in zip(row, column, strict=True)) + offset
            for column, offset in zip(columns, offsets, strict=True)
        ]

    return _each_row(function, x)


def layernorm(x: Array, gain: Array, bias: Array | None = None, epsilon: float = 1e-5) -> Array:
    """Each row less its mean, over its standard deviation; ε = 1e-5 is GPT-2's."""

    def function(row: Row) -> Row:
        return list((np.array(row) - np.mean(row)) / np.sqrt(np.var(row) + epsilon))

    return _each_row(function, x) * gain + (0 if bias is None else bias)


def rmsnorm(x: Array, gain: Array, bias: Array | None = None, epsilon: float = 1e-5) -> Array:
    """Each row over its root mean square; ε = 1e-5 is Llama's."""
    roots = _each_row(lambda row: [math.sqrt(math.fsum(a * a for a in row) / len(row) + epsilon)] * len(row), x)
    return x / roots * gain + (0 if bias is None else bias)


def gelu(x: Array) -> Array:
    """The tanh form."""
    return _each_row(
        lambda row: [0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) for a in row], x
    )


def relu(x: Array) -> Array:
    """What is above 0."""
    return _each_row(lambda row: [max(a, 0.0) for a in row], x)


def softmax_row(row: Row) -> Row:
    """Exponentials, made to sum to 1; a factor common to all of them changes nothing."""
    exps = [math.exp(a - max(row)) for a in row]
    return [e / sum(exps) for e in exps]


def softmax(x: Array) -> Array:
    """Of each row."""
    return _each_row(softmax_row, x)


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Each position takes the mean of the values up to it, weighted by how its query matches their keys."""
    y = np.zeros(q.shape)
    B, H, T, D = q.shape
    for b, h, t in np.ndindex(B, H, T):
        scores = [sum(q[b, h, t, i] * k[b, h, s, i] for i in range(D)) / math.sqrt(D) for s in range(t + 1)]
        for s, weight in enumerate(softmax_row(scores)):
            kept = 1 if mask is None else mask[b, h, t, s]
            y[b, h, t] += weight * kept * v[b, h, s]
    return y


def embedding(tokens: Array, token_table: Array, position_table: Array) -> Array:
    """A row of each table for every place."""
    return np.array([[token_table[token] + position_table[t] for t, token in enumerate(row)] for row in tokens])


def cross_entropy(logits: Array, targets: Array) -> Array:
    """-log of the probability given to the target, one for each row."""
    losses = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        largest = max(row)
        total = sum(math.exp(a - largest) for a in row)
        losses.append(largest - row[target] + math.log(total))
    return np.array(losses)


# ----------------------------------------------------------------------------------------------- update


def norm(grads: Row) -> float:
    """The Euclidean norm."""
    return math.sqrt(math.fsum(g * g for g in grads))


def adamw(
    params: Row, grads: Row, first: Row, second: Row, settings: Settings, learning_rate: float, update_number: int
) -> tuple[Row, Row, Row]:
    """AdamW, one scalar after another -> new params, first and second moments."""
    beta1, beta2, weight_decay, epsilon = settings
    first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, grads, strict=True)]
    second = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(second, grads, strict=True)]
    moved = []
    for p, m, v in zip(params, first, second, strict=True):
        corrected = (m / (1 - beta1**update_number)) / (math.sqrt(v / (1 - beta2**update_number)) + epsilon)
        moved.append(p - learning_rate * (corrected + weight_decay * p))
    return moved, first, second


# ---------------------------------------------------------------------------------------------- dropout

WORD = 2**64


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """One block of Philox 4x64-10: ten rounds of multiply, exchange halves and xor, the key growing between them."""
    c0, c1, c2, c3 = counter
    for n in range(10):
        k0 = (key[0] + n * 0x9E3779B97F4A7C15) % WORD
        k1 = (key[1] + n * 0xBB67AE8584CAA73B) % WORD
        high0, low0 = divmod(c0 * 0xD2E7470EE14C6C93, WORD)
        high1, low1 = divmod(c2 * 0xCA5A826395121157, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def random_words(place: int, *, seed: int, step: int = 0, sequence: int = 0, layer: int = 0) -> Iterator[int]:
    """Block after block; NumPy counts up before it makes the first."""
    block = 1
    while True:
        yield from philox((seed, step), (block, sequence, layer, place))
        block += 1


def dropout_mask(
    rate: float, *, seed: int, step: int, sequences: Sequence[int], layer: int, place: int, shape: tuple[int, ...]
) -> Array:
    """1 / P(kept) wherever a byte reaches the threshold, else 0 -> (B, *shape)."""
    threshold = round(rate * 256)
    mask = np.zeros((len(sequences), *shape))
    for b, sequence in enumerate(sequences):
        words = random_words(place, seed=seed, step=step, sequence=sequence, layer=layer)
        stream = (byte for word in words for byte in word.to_bytes(8, "little"))
        for index in np.ndindex(shape):
            if next(stream) >= threshold:
                mask[b, *index] = 256 / (256 - threshold)
    return mask
