"""The embedding kernels against ops/embedding.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import embedding
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.chance import Place
from scratchgpt.ops import embedding as reference
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import Step
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [  # B, T, C, V
    *((1, 1, 1, 1), (1, 17, 17, 65), (2, 61, 6, 3), (3, 64, 48, 65), (1, 65, 65, 65), (5, 127, 8, 7)),
    *((2, 200, 24, 200), (11, 200, 1, 2), (1, 5, 257, 3), (1, 31, 1600, 65), (3, 33, 9, 50257)),
]


def step(B: int, rate: float) -> Step:
    return Step(dropout=rate, seed=11, step=3, sequences=range(6, 6 + B))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "T", "C", "V"), SHAPES)
def test_embedding(B: int, T: int, C: int, V: int, dtype: str) -> None:
    device, rng = Emulated(seed=(B + T) % len(SEEDS)), np.random.default_rng([B, T, C, V])
    at, P = step(B, 0.1 * (B % 3)), T + T % 3
    tokens = rng.integers(V, size=(B, T))
    token_table, position_table = draw(rng, (V, C), dtype), draw(rng, (P, C), dtype)
    dx, dtoken_table, dposition_table = (draw(rng, shape, wide(dtype)) for shape in [(B, T, C), (V, C), (P, C)])
    drawn = dropout_mask(at, Place.EMBEDDING, 0, (T, C), np.zeros(0))
    factor = np.ones((B, T, C)) if drawn is None else drawn
    expected, saved = reference.forward(tokens, token_table.astype(float), position_table.astype(float))
    increments = reference.backward(dx.astype(float) * factor, saved)
    expected_tables = [table + by for table, by in zip((dtoken_table, dposition_table), increments, strict=True)]

    mask = Mask.of(at, 0, Place.EMBEDDING)
    assert_close(embedding.forward(device, tokens, token_table, position_table, mask), expected * factor, dtype)
    embedding.backward(device, dx, tokens, mask, dtoken_table, dposition_table, dtype)
    assert_close(dtoken_table, expected_tables[0], dtype)
    assert_close(dposition_table, expected_tables[1], dtype)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "lengths",
    [[1], [32], [33], [64, 1], [1, 64], [31, 1, 32, 1], [31, 33], [5] * 20, [100, 1, 100], [1025], [1024, 1024]],
)
def test_runs_of_equal_tokens(lengths: list[int], seed: int) -> None:
    """Wherever runs begin and end among the chunks, and at however many levels sums are carried."""
    tokens = np.repeat(np.arange(len(lengths)), lengths)
    rng = np.random.default_rng(seed)
    rng.shuffle(tokens)
    dx, table = rng.normal(size=(1, len(tokens), 2)), rng.normal(size=(len(lengths), 2))
    expected = table.copy()
    np.add.at(expected, tokens, dx[0])
    mask = Mask.of(step(1, 0), 0, Place.EMBEDDING)
    embedding.backward(Emulated(seed=seed), dx, tokens[None], mask, table, np.zeros((len(tokens), 2)), "float64")
    assert_close(table, expected, "float64")


def test_sums_do_not_depend_on_the_order_of_threads() -> None:
    rng, mask = np.random.default_rng(0), Mask.of(step(4, 0.2), 0, Place.EMBEDDING)
    dx, tokens = draw(rng, (4, 100, 12), "float32"), rng.integers(3, size=(4, 100))

    def tables(seed: int) -> Array:
        rows = np.zeros((103, 12), np.float32)
        embedding.backward(Emulated(seed=seed), dx, tokens, mask, rows[:3], rows[3:], "float32")
        return rows

    assert np.array_equal(tables(0), tables(1))


@pytest.mark.parametrize("C", [3, 4])
def test_gradients(C: int) -> None:
    rng, mask = np.random.default_rng(C), Mask.of(step(2, 0.2), 0, Place.EMBEDDING)
    tokens, dx = rng.integers(4, size=(2, 5)), rng.normal(size=(2, 5, C))
    tables = [rng.normal(size=(4, C)), rng.normal(size=(6, C))]
    gradients = [np.zeros((4, C)), np.zeros((6, C))]

    def function(token_table: Array, position_table: Array) -> Array:
        return embedding.forward(Emulated(), tokens, token_table, position_table, mask)

    embedding.backward(Emulated(), dx, tokens, mask, gradients[0], gradients[1], "float64")
    gradcheck.check(function, tables, dx, gradients, rng)
