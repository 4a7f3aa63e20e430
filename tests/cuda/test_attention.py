"""The attention kernels against ops/attention.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import attention
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.chance import Place
from scratchgpt.ops import attention as reference
from scratchgpt.ops.array import Array
from scratchgpt.ops.attention import merge_heads, split_heads
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import Step
from tests import gradcheck
from tests.cuda.checks import SEEDS, assert_close, draw, needs_emulator
from tests.cuda.device import Emulated

pytestmark = needs_emulator

HEAD_SIZES = (16, 32, 48, 64, 96, 128)


LAYER = 3


def step(B: int, dropout: float) -> Step:
    """Return one whose masks differ from any other's."""
    return Step(dropout=dropout, seed=2**63 + 5, step=7, sequences=range(100, 100 + B))


def mask_of(at: Step) -> Mask:
    return Mask.of(at, LAYER, Place.ATTENTION)


def expect(qkv: Array, bias: Array | None, dheads: Array, H: int, at: Step) -> tuple[Array, Array, Array]:
    """Return heads, lse and dqkv by the reference."""
    T = qkv.shape[1]
    qkv = qkv.astype(float) + (0 if bias is None else bias.astype(float))
    q, k, v = (split_heads(part, H) for part in np.split(qkv, 3, axis=-1))
    heads, saved = reference.forward(q, k, v, dropout_mask(at, Place.ATTENTION, LAYER, (H, T, T), qkv))
    gradients = reference.backward(split_heads(dheads.astype(float), H), saved)
    scores = np.where(np.tri(T, dtype=bool), q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5, -np.inf)
    lse = np.logaddexp.reduce(scores, axis=-1)
    return merge_heads(heads), lse, np.concatenate([merge_heads(part) for part in gradients], axis=-1)


def check(qkv: Array, bias: Array | None, dheads: Array, H: int, at: Step, seed: int = 0) -> None:
    """Compare forward and backward with the reference's."""
    dtype, mask, device = str(qkv.dtype), mask_of(at), Emulated(seed=seed)
    heads, saved = attention.forward(device, qkv, bias, H, mask)
    dqkv = attention.backward(device, dheads, saved, bias, H, mask)
    expected_heads, expected_lse, expected_dqkv = expect(qkv, bias, dheads, H, at)
    assert_close(heads, expected_heads, dtype)
    # A logarithm near 0 is as exact as any other: its error is the relative one of probabilities.
    assert_close(saved.lse, expected_lse, dtype, largest=max(1, np.abs(expected_lse).max()))
    assert_close(dqkv, expected_dqkv, dtype)


def check_random(B: int, T: int, H: int, D: int, dtype: str, dropout: float, seed: int = 0) -> None:
    """Check normal numbers, with a bias where T is odd."""
    rng, C = np.random.default_rng([B, T, H, D]), H * D
    qkv, dheads = draw(rng, (B, T, 3 * C), dtype), draw(rng, (B, T, C), dtype)
    bias = draw(rng, (3 * C,), dtype) if T % 2 else None
    check(qkv, bias, dheads, H, step(B, dropout), seed)


@pytest.mark.parametrize(
    ("dtype", "D"), [(dtype, D) for dtype in ("float32", "float64") for D in HEAD_SIZES if attention.supports(dtype, D)]
)
def test_head_sizes(dtype: str, D: int) -> None:
    check_random(1, 37 if D > 32 else 65, 2 if D < 64 else 1, D, dtype, dropout=0.25)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("B", "T", "H", "D", "dropout"),
    [
        (3, 1, 2, 16, 0.0),
        (2, 1, 1, 32, 0.5),
        (2, 17, 3, 16, 0.1),
        (1, 32, 2, 32, 0.1),
        (2, 33, 1, 16, 0.5),
        (1, 61, 3, 16, 0.25),
        (2, 64, 1, 32, 0.25),
        (1, 64, 2, 16, 0.0),
        (1, 65, 1, 64, 0.1),
        (1, 127, 2, 16, 0.1),
        (1, 127, 1, 16, 0.0),
        (1, 200, 1, 16, 0.2),
    ],
)
def test_lengths(B: int, T: int, H: int, D: int, dropout: float, dtype: str) -> None:
    check_random(B, T, H, D, dtype, dropout, seed=1)


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 10), ("float64", 80)])
def test_large_scores(dtype: str, factor: int) -> None:
    """Exponentials overflow at 89 in float32 and at 710 in float64. These scores are larger, and exact."""
    rng, C = np.random.default_rng(0), 16
    qkv, dheads = rng.integers(-3, 4, (1, 70, 3 * C)).astype(dtype), draw(rng, (1, 70, C), dtype)
    qkv[..., :C] *= factor
    assert np.abs(expect(qkv, None, dheads, 1, step(1, 0.0))[1]).max() >= {"float32": 89, "float64": 710}[dtype]
    check(qkv, None, dheads, 1, step(1, 0.0))


def test_every_run_is_the_same() -> None:
    """Whatever the order of threads."""
    rng, mask = np.random.default_rng(0), mask_of(step(2, 0.25))
    qkv, dheads = draw(rng, (2, 70, 96), "float32"), draw(rng, (2, 70, 32), "float32")
    runs = []
    for seed in SEEDS:
        device = Emulated(seed=seed, checked=False)
        heads, saved = attention.forward(device, qkv, None, 2, mask)
        runs.append((heads, attention.backward(device, dheads, saved, None, 2, mask)))
    assert all(np.array_equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize(("B", "T", "H", "dropout"), [(1, 4, 1, 0.0), (2, 5, 1, 0.25), (1, 35, 2, 0.25)])
def test_gradient(B: int, T: int, H: int, dropout: float) -> None:
    rng, C = np.random.default_rng(T), 16 * H
    device, mask = Emulated(checked=False), mask_of(step(B, dropout))
    qkv, bias, dheads = rng.normal(size=(B, T, 3 * C)), rng.normal(size=3 * C), rng.normal(size=(B, T, C))

    def function(qkv: Array) -> Array:
        return attention.forward(device, qkv, bias, H, mask)[0]

    _, saved = attention.forward(device, qkv, bias, H, mask)
    dqkv = attention.backward(device, dheads, saved, bias, H, mask)
    gradcheck.check(function, [qkv], dheads, [dqkv], rng)


def test_supports() -> None:
    assert attention.supports("float32", 128)
    assert not attention.supports("float64", 128)
    assert not attention.supports("float32", 65)
