"""Attention by products of matrices against ops/attention.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import products
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.chance import Place
from scratchgpt.ops import attention
from scratchgpt.ops.array import Array
from scratchgpt.ops.attention import merge_heads, split_heads
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import Step
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [(1, 1, 1, 1), (2, 17, 3, 5), (1, 61, 2, 16), (2, 64, 1, 8), (1, 65, 2, 6)]


def step(B: int, dropout: float) -> Step:
    return Step(dropout=dropout, seed=3, step=2**40, sequences=range(2, 2 + B))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [0, 0.2])
@pytest.mark.parametrize(("B", "T", "H", "D"), SHAPES)
def test_attention(B: int, T: int, H: int, D: int, dropout: float, dtype: str, seed: int) -> None:
    device, rng, given = Emulated(seed=seed), np.random.default_rng([B, T, H, D]), step(B, dropout)
    mask = Mask.of(given, 1, Place.ATTENTION)
    qkv, bias, dy = (
        draw(rng, (B, T, 3 * H * D), dtype),
        draw(rng, (3 * H * D,), wide(dtype)),
        draw(rng, (B, T, H * D), dtype),
    )
    has_bias = bool(T % 2)
    inputs = qkv.astype(float) + bias * has_bias
    q, k, v = (split_heads(part, H) for part in np.split(inputs, 3, axis=-1))
    expected, expected_saved = attention.forward(q, k, v, dropout_mask(given, Place.ATTENTION, 1, (H, T, T), q))
    expected_parts = attention.backward(split_heads(dy.astype(float), H), expected_saved)

    y, saved = products.forward(device, qkv, bias if has_bias else None, H, mask)
    assert_close(y, merge_heads(expected), dtype)
    dqkv = products.backward(device, dy, saved, None, H, mask)
    assert_close(dqkv, np.concatenate([merge_heads(part) for part in expected_parts], axis=-1), dtype)


@pytest.mark.parametrize("dropout", [0, 0.2])
def test_gradient(dropout: float) -> None:
    rng, mask = np.random.default_rng(0), Mask.of(step(2, dropout), 1, Place.ATTENTION)
    qkv, dy = draw(rng, (2, 3, 12), "float64"), draw(rng, (2, 3, 4), "float64")

    def attend(qkv: Array) -> Array:
        return products.forward(Emulated(), qkv, None, 2, mask)[0]

    _, saved = products.forward(Emulated(), qkv, None, 2, mask)
    gradcheck.check(attend, [qkv], dy, [products.backward(Emulated(), dy, saved, None, 2, mask)], rng)
