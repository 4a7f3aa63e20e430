"""Charts in a terminal: at every size, a label stands where its value is drawn."""

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.cli.axis import horizontal, vertical

pytest.importorskip("textual_plotext")
from textual_plotext.plot import Plot

from scratchgpt.cli.chart import AXIS_ROWS, Picture, Series, prepare

RANGES = [
    (1.17, 3.55),
    (0.0, 1.0),
    (2.24, 3.49),
    (3.0001, 3.0004),
    (0.0, 3e-4),
    (18_000.0, 81_234.5),
    (-1.0, 1.0),
    (5, 5),
]
HEIGHTS = range(5, 61)
WIDTHS = (16, 17, 25, 40, 60, 80, 81, 120, 200)


def drawn(picture: Picture, width: int, height: int) -> list[str]:
    """Return the rows of a chart."""
    plot = Plot()
    prepare(plot, picture, width, height)
    plot.plotsize(width, height)
    plot._set_size(width, height)  # noqa: SLF001 - as the widget does it
    rows = re.sub(r"\x1b\[[0-9;]*m", "", plot.build()).split("\n")[:height]
    assert {len(row) for row in rows} == {width}
    return rows


def number(label: str) -> float:
    return float(label.replace(",", ""))


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_each_label_stands_in_the_row_of_its_value(low: float, high: float, *, is_log: bool) -> None:
    if is_log:
        low, high = abs(low) + 1e-3, abs(high) + 2e-3
    for height in HEIGHTS:
        rows = drawn(Picture(low, high, [Series([0, 9], [low, high], "x", "red")], is_log=is_log), 40, height)
        labelled = {n: number(text.partition("┤")[0]) for n, text in enumerate(rows) if "┤" in text}
        assert len(labelled) >= (2 if height >= 6 else 1), rows
        assert len({below - above for above, below in itertools.pairwise(labelled)}) <= 1, "not at equal distances"
        values = Series([*range(len(labelled))], [*labelled.values()], "x", "red")
        marked = drawn(Picture(low, high, [values], is_log=is_log), 40, height)
        assert [n for n, text in enumerate(marked) if "x" in text] == [*labelled], (rows, marked)


def test_equal_distances_have_equal_differences() -> None:
    for (low, high), height in itertools.product(RANGES, HEIGHTS):
        axis = vertical(low, high, height - AXIS_ROWS)
        assert axis.low <= low + 1e-9 * abs(low)
        assert axis.high >= high - 1e-9 * abs(high)
        values = [number(label) for label in axis.labels]
        assert values == pytest.approx(axis.ticks, rel=1e-9, abs=1e-12)
        differences = [after - before for before, after in itertools.pairwise(values)]
        assert differences == pytest.approx([differences[0]] * len(differences) if differences else [])
        assert max(map(len, axis.labels)) <= 10, axis.labels


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 1), (7, 9), (1, 2000), (999, 1001), (0, 1_000_000), (123_456, 9_876_543)]
)
def test_each_step_stands_in_its_column(first: int, last: int) -> None:
    for width in WIDTHS:
        series = Series([first, last], [1.0, 2.0], "x", "red")
        *_, line, labels = drawn(Picture(1.0, 2.0, [series]), width, 12)
        ticks = [column for column, letter in enumerate(line) if letter == "┬"]
        found = [*re.finditer(r"[\d,]+", labels)]
        assert len(found) == len(ticks)
        assert ticks or width < 40
        assert all(label.start() - 1 <= tick <= label.end() for tick, label in zip(ticks, found, strict=True))
        values = Series([int(number(label[0])) for label in found], [1.5] * len(found), "o", "red")
        marked = "".join(text for text in drawn(Picture(1.0, 2.0, [series, values]), width, 12) if "o" in text)
        assert [column for column, letter in enumerate(marked) if letter == "o"] == ticks


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 60))
def test_an_axis_shows_all_that_it_should(low: float, span: float, n_rows: int) -> None:
    axis = vertical(low, low + span, n_rows)
    change = (axis.high - axis.low) / (n_rows - 1)
    assert axis.low <= low + 1e-5 * change
    assert axis.high >= low + span - 1e-5 * change
    assert 1 <= len(axis.ticks) == len(axis.labels) <= n_rows
    if span > 1e-6 * abs(low):
        assert axis.high - axis.low <= 4 * span + 4 * change


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(2, 300))
def test_steps_have_room(first: int, length: int, n_columns: int) -> None:
    axis = horizontal(first, first + length, n_columns)
    columns = [(tick - axis.low) / (axis.high - axis.low) * (n_columns - 1) for tick in axis.ticks]
    assert all(after - before >= len(axis.labels[-1]) + 2 for before, after in itertools.pairwise(columns))
    assert all(math.isclose(number(label), tick) for label, tick in zip(axis.labels, axis.ticks, strict=True))
