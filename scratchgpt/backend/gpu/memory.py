"""How much memory training takes on a GPU, by counting what the sublayers keep."""

import math

from scratchgpt.backend.gpu.linear import CHUNK
from scratchgpt.backend.precision import Precision
from scratchgpt.config import ModelConfig

LOGIT_BYTES = 2**28
"""Of logits that exist at once. For each such chunk, the gradient of all V rows is read and written."""

TILE = 128
"""Rows that a block of cuBLAS's often computes: none of its work is in vain where their number is a multiple of it."""

ALIGNMENT = 8
"""Rows of logits begin at multiples of so many, 16 bytes at least."""

WIDE = 4
"""Bytes of a number of the residual stream, and of a parameter."""

MOST_BLOCKS = 65_535
"""Of a CUDA grid, along its second and its third axis: there are sequences, and chunks of rows of all of them."""

PARTIALS = 16
"""Every so many rows, at most, sums of columns leave a row of their own."""


UNIT = 512
"""Bytes: CuPy's pool gives multiples of it."""


def most_sequences(model: ModelConfig) -> int:
    """Return how many sequences our kernels can compute at once, whatever memory there is."""
    return max(1, min(MOST_BLOCKS, MOST_BLOCKS * CHUNK // model.block_size))


def state_bytes(n_parameters: int, precision: Precision, n_slots: int) -> int:
    """Return the bytes of parameters, gradients, the optimiser's slots, and rounded copies if there are any."""
    return n_parameters * ((2 + n_slots) * WIDE + (precision.itemsize if precision.keeps_copies else 0))


def logits_shape(n_tokens: int, V: int, itemsize: int) -> tuple[int, int]:
    """Return of how many tokens the logits exist at once, and how many numbers apart they begin."""
    stride = math.ceil(V / ALIGNMENT) * ALIGNMENT
    fitting = max(1, LOGIT_BYTES // (stride * itemsize))
    return min(n_tokens, fitting - fitting % TILE or fitting), stride


def activation_bytes(model: ModelConfig, n_tokens: int, precision: Precision, *, is_fused: bool) -> int:
    """Return the bytes of what exists at once, at most, while so many tokens are computed.

    Each layer keeps xhat, qkv and heads, then xhat and hidden, two reciprocal deviations, and of attention a number for
    each head or, where it is not fused, all probabilities. On top are the token and its target, the residual stream and
    its gradient, and what one sublayer works on:

    - the head: normed, its gradient, xhat and the logits of some rows;
    - the MLP's backward: the gradients of its output and of normed, normed, active, and the gradient of hidden;
    - attention's backward: the gradients of its output and of heads, those once more by heads, and both forms of dqkv.

    At the end of each array some bytes stay unused.
    """
    C, H, K, qkv, size = model.n_embd, model.n_head, model.inner_size, model.qkv_size, precision.itemsize
    probabilities = 0 if is_fused else H * model.block_size * size
    kept = model.n_layer * ((C + qkv + C + C + K) * size + (2 + H) * WIDE + probabilities)
    rows, stride = logits_shape(n_tokens, model.vocab_size, size)
    working = max(
        n_tokens * (C + C + C) * size + rows * stride * size,
        n_tokens * (C + C + C + K + K) * size,
        n_tokens * ((C + C + C + qkv + qkv) * size + 2 * probabilities),
    )
    unused = UNIT * (6 * model.n_layer + 20)
    return n_tokens * (16 + kept + 2 * C * WIDE + C * WIDE // PARTIALS) + working + unused
