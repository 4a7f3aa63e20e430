"""The kernels that move heads against the views of ops/sublayers.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import heads
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [(1, 1, 1, 1), (1, 17, 1, 3), (2, 5, 3, 8), (1, 61, 2, 16), (3, 3, 5, 2), (2, 7, 3, 20), (1, 2, 12, 64)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize(("B", "T", "H", "D"), SHAPES)
def test_split_and_join(B: int, T: int, H: int, D: int, K: int, dtype: str, seed: int) -> None:
    device, rng = Emulated(seed=seed), np.random.default_rng([B, T, H, D])
    rows, bias = draw(rng, (B, T, K * H * D), dtype), draw(rng, (K * H * D,), wide(dtype))
    parts = heads.split(device, rows, None, K, H)
    assert np.array_equal(parts, rows.reshape(B, T, K, H, D).transpose(2, 0, 3, 1, 4))
    assert np.array_equal(heads.join(device, parts), rows)
    expected = (rows.astype(float) + bias).reshape(B, T, K, H, D).transpose(2, 0, 3, 1, 4)
    assert_close(heads.split(device, rows, bias, K, H), expected, dtype)
