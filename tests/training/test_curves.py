"""Curves: the axes, the mean, and thinning that loses no spike."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.errors import DataError
from scratchgpt.training.curves import STRETCHES, Curve, outline, read, smoothed, sparse

NAN = float("nan")


def write(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "log.jsonl").write_text(lines, encoding="utf-8", newline="\n")


@pytest.mark.parametrize(
    ("against", "at"), [("steps", (0, 1, 2, 3)), ("tokens", (0, 96, 192, 300)), ("time", (0, 0.5, 0.75, 2.75))]
)
def test_axes(against: str, at: tuple[float, ...], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 0, "val_loss": 4.5, "val_whole": False},
        {"step": 1, "loss": 4.0, "step_ms": 500, "tokens": 96},
        {"step": 2, "loss": None, "step_ms": 250, "tokens_per_s": 384.0},  # an older version's
        {"step": 2, "val_loss": 3.5, "val_whole": False},
        {"step": 3, "loss": 3.0, "step_ms": 2000, "tokens": 108},
        {"step": 3, "val_loss": 3.25, "val_whole": True},  # which is not comparable
    ]
    write(tmp_path, rows)
    curves = read(tmp_path, against)
    np.testing.assert_array_equal(curves.training, [at[1:], [4.0, NAN, 3.0]])
    np.testing.assert_array_equal(curves.validation, [[at[0], at[2]], [4.5, 3.5]])


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read(tmp_path, "steps")
    write(tmp_path, [])
    assert [len(curve.x) for curve in read(tmp_path, "steps")] == [0, 0]
    for act in (outline, sparse, lambda curve: smoothed(curve, 5)):
        assert len(act(read(tmp_path, "steps").training).x) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 10, 1000])
def test_the_mean_over_the_points_around(width: int) -> None:
    y = np.array([1, 2, NAN, 4, np.inf, 6, 7, NAN, NAN, NAN, 11])
    means = smoothed(Curve(np.arange(11.0), y), width).y
    for index, mean in enumerate(means):
        around = y[max(0, index - (width - 1) // 2) : index + width // 2 + 1]
        expected = around[np.isfinite(around)]
        np.testing.assert_allclose(mean, expected.mean() if expected.size else NAN, rtol=1e-12)


def test_an_outline_keeps_every_spike() -> None:
    n = 100_000
    y = np.ones(n)
    y[[3, 50_000, n - 1]] = 100, -100, 77
    y[10_000:20_000] = NAN
    thin = outline(Curve(np.arange(float(n)), y))
    assert len(thin.x) == 2 * STRETCHES
    assert {100, -100, 77} <= set(thin.y.tolist())
    assert np.isnan(thin.y[(thin.x >= 10_000) & (thin.x < 19_900)]).all()
    assert (np.diff(thin.x) >= 0).all()


def test_a_sparse_curve_keeps_its_ends() -> None:
    x = np.arange(100_000.0)
    thin = sparse(Curve(x, 2 * x))
    assert len(thin.x) == 2 * STRETCHES
    assert (thin.x[0], thin.x[-1]) == (0, 99_999)
    np.testing.assert_array_equal(thin.y, 2 * thin.x)


def test_a_short_curve_is_drawn_as_it_is() -> None:
    curve = Curve(np.arange(2000.0), np.arange(2000.0))
    assert outline(curve) is curve
    assert sparse(curve) is curve
