"""The kernels of attention on tensor cores against ops/attention.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import attention
from tests.cuda.checks import draw, needs_emulator
from tests.cuda.device import Emulated
from tests.cuda.test_attention import check, mask_of, step

pytestmark = needs_emulator


def check_random(
    B: int, T: int, H: int, D: int, dropout: float, seed: int, scores: float = 1, gradients: float = 1
) -> None:
    """Check normal numbers, for scores and gradients of about these sizes, with a bias where T is odd."""
    rng, C = np.random.default_rng([B, T, H, D]), H * D
    qkv, dheads = draw(rng, (B, T, 3 * C), "float16"), draw(rng, (B, T, C), "float16")
    qkv[..., :C] *= np.float16(scores)
    dheads *= np.float16(gradients)
    bias = draw(rng, (3 * C,), "float32") if T % 2 else None
    check(qkv, bias, dheads, H, step(B, dropout), seed)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("D", [16, 32, 48, 64, 96, 128])
def test_head_sizes(D: int, dropout: float) -> None:
    check_random(1, 65, 2, D, dropout, seed=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("B", "T", "H", "D", "dropout"),
    [
        (3, 1, 2, 16, 0.0),
        (2, 1, 1, 32, 0.5),
        (2, 17, 3, 16, 0.1),
        (2, 31, 1, 48, 0.0),
        (1, 61, 3, 16, 0.25),
        (2, 64, 1, 32, 0.25),
        (1, 127, 2, 16, 0.1),
        (1, 127, 1, 64, 0.0),
        (1, 200, 1, 32, 0.2),
    ],
)
def test_attention(B: int, T: int, H: int, D: int, dropout: float, seed: int) -> None:
    check_random(B, T, H, D, dropout, seed)


@pytest.mark.parametrize(("T", "D", "dropout"), [(127, 96, 0.1), (127, 128, 0.0), (200, 64, 0.0), (200, 48, 0.25)])
def test_large_heads_in_several_tiles(T: int, D: int, dropout: float) -> None:
    check_random(1, T, 1, D, dropout, seed=1)


@pytest.mark.parametrize("scores", [0.01, 10])
@pytest.mark.parametrize("gradients", [1e-3, 1e2])
def test_sizes(scores: float, gradients: float) -> None:
    check_random(1, 70, 1, 32, 0.1, seed=0, scores=scores, gradients=gradients)


def test_what_overflows_is_noticed() -> None:
    rng, device, none = np.random.default_rng(1), Emulated(), mask_of(step(1, 0))
    qkv = draw(rng, (1, 20, 48), "float16")
    dheads = np.full((1, 20, 16), 6e4, np.float16)
    heads, saved = attention.forward(device, qkv, None, 1, none)
    assert np.isfinite(heads).all()
    assert not np.isfinite(attention.backward(device, dheads, saved, None, 1, none)).all()


def test_results_are_the_same_whatever_the_order_of_threads() -> None:
    rng, mask = np.random.default_rng(1), mask_of(step(1, 0.2))
    qkv, dheads = draw(rng, (1, 140, 96), "float16"), draw(rng, (1, 140, 32), "float16")
    results = []
    for seed in range(2):
        device = Emulated(seed=seed)
        heads, saved = attention.forward(device, qkv, None, 1, mask)
        results.append([heads, saved.lse, attention.backward(device, dheads, saved, None, 1, mask)])
    for first, second in zip(*results, strict=True):
        assert np.array_equal(first, second)


def test_supported_heads() -> None:
    assert [D for D in range(200) if attention.supports("float16", D)] == [16, 32, 48, 64, 96, 128]
