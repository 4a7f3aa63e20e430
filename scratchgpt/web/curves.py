"""Curves of runs in the same pictures, how they are drawn, and a table of these runs."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from nicegui import events, ui

from scratchgpt.web.charts import N_SHADES, Curve, Picture
from scratchgpt.web.history import ALL, NOISY, Axis, History, Points
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import card, number, scrolling
from scratchgpt.web.recipe import written

AXES: dict[Axis, str] = {"step": "steps", "tokens": "tokens", "time": "training time"}
SMOOTHING = {0: "none", 200: "a little", 50: "medium", 12: "strong"}
"""Means are taken over one part in so many of a run."""
SCALES = ("linear", "logarithmic")
WHOLE = (0.0, 1.0)
PARTS = {
    WHOLE: "the whole run",
    (0.0, 0.1): "the first tenth",
    (0.5, 1.0): "the second half",
    (0.9, 1.0): "the last tenth",
}
SMALL = {"lr": "Learning rate", "grad_norm": "Gradient norm", "tokens_per_s": "Tokens a second", "memory": "Memory, MB"}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
MOST_UNITS = 300
"""Seconds and minutes on an axis, before it has minutes and hours."""
COLUMNS = ("Run", "Step", "Loss", "Validation", "Best validation", "Settings that differ")
LEAST_PART = 1e-3
"""Of a run's width, that can be shown."""


class Curves:
    """All charts of the runs that are watched."""

    def __init__(self, memory: Memory) -> None:
        """Lay out, hidden until there is something to draw."""
        self._runs: dict[str, History] = {}
        self._span = WHOLE
        self._drawn: Any = None  # which runs, and which versions of them
        self._cells: list[list[ui.label]] = []  # of the table, without names
        with ui.element("div").classes("rows") as self._all:
            with card("Loss, nats a token"):
                self._lay_out_choices(memory)
                self._loss = self._lay_out_chart()
                with ui.row().classes("line"):
                    ui.label("Drag across a chart to look closer.").classes("soft pointer-only")
                    self._reset = ui.button(
                        "Show the whole run", icon="zoom_out_map", on_click=partial(self._zoom, WHOLE)
                    )
                    self._reset.props("outline dense").visible = False
                    save = ui.button("Save picture", icon="download").props("flat dense")
                    save.on("click", js_handler=f"() => getElement({self._loss.id}).save('loss.png')")
                self._table = scrolling("Runs").classes("table")
            self._small = {}
            with ui.element("div").classes("quarters"):
                for column, title in SMALL.items():
                    with card(title):
                        self._small[column] = self._lay_out_chart().classes("small")
        self._all.visible = False

    def _lay_out_choices(self, memory: Memory) -> None:
        with ui.element("div").classes("fields"):
            self._axis = ui.select(AXES, label="Over", value="step", on_change=self._draw)
            self._smoothing = ui.select(SMOOTHING, label="Smoothing", value=50, on_change=self._draw)
            self._scale = ui.select([*SCALES], label="Loss axis", value=SCALES[0], on_change=self._draw)
            self._part = ui.select({}, label="Part", on_change=lambda change: self._zoom(change.value))
        for key, field in (("over", self._axis), ("smoothing", self._smoothing), ("scale", self._scale)):
            memory.keep(f"curves.{key}", field)
        self._offer_parts()

    def _lay_out_chart(self) -> Picture:
        def zoom(event: events.GenericEventArguments) -> None:
            """Show in all charts the part that is looked at in one."""
            start, end = event.args
            if end - start >= LEAST_PART:
                self._zoom((float(start), float(end)))

        return Picture().on("zoom", zoom)

    def _zoom(self, span: tuple[float, float]) -> None:
        if span != self._span:
            self._span = span
            self._offer_parts()
            self._reset.visible = span != WHOLE
            self._draw()

    def _offer_parts(self) -> None:
        self._part.set_options(PARTS | {self._span: PARTS.get(self._span, "a part of it")}, value=self._span)

    def show(self, runs: Mapping[str, History]) -> None:
        """Show these runs, the one that is watched first; draw them if they look different."""
        if [*runs] != [*self._runs]:
            self._runs = dict(runs)
            self._zoom(WHOLE)
            self._lay_out_table()
        self._fill_table()
        drawn = [(name, its.version) for name, its in runs.items()]
        if drawn != self._drawn:
            self._drawn = drawn
            self._draw()

    def hide(self) -> None:
        """Show nothing."""
        self._runs, self._drawn = {}, None
        self._all.visible = False

    def _draw(self) -> None:
        last = max((its.width(self._axis.value) for its in self._runs.values()), default=0)
        self._all.visible = last > 0
        if not last:
            return
        x, unit = axis_title(self._axis.value, last)
        how: dict[str, Any] = {"x": x, "span": self._span}
        curves = self._curves("loss", last, unit)
        is_logarithmic = self._scale.value == "logarithmic"
        self._loss.show_curves("Loss", curves, is_logarithmic=is_logarithmic, is_large=True, **how)
        for column, chart in self._small.items():
            chart.show_curves(SMALL[column], self._curves(column, last, unit), **how)

    def _curves(self, column: str, last: float, unit: float) -> list[Curve]:
        """Return the curves of one chart."""
        low, high = self._span
        how: dict[str, Any] = {
            "axis": self._axis.value,
            "span": (low * last, high * last) if self._span != WHOLE else ALL,
        }
        scale = np.array([1 / unit, 1], np.float32)
        is_smooth, is_loss = column in NOISY and bool(self._smoothing.value), column == "loss"
        curves = []
        for number_of, (name, its) in enumerate(self._runs.items(), 1):
            run = name if len(self._runs) > 1 else ""

            def curve(what: str, points: Points, number_of: int = number_of, run: str = run) -> Curve:
                return Curve(number_of, run, what, points * scale)

            what = "training" if is_loss else ""
            if is_smooth:
                if number_of == 1 or not is_loss:
                    curves.append(curve("each step", its.points(column, **how)))
                curves.append(curve(what, its.points(f"mean {column}", smoothing=self._smoothing.value, **how)))
            else:
                curves.append(curve(what, its.points(column, **how)))
            if is_loss:
                curves.append(curve("validation", its.points("validation", **how)))
        return curves

    def _lay_out_table(self) -> None:
        """Lay out a row for each run; one alone needs no table."""
        self._table.visible = len(self._runs) > 1
        self._table.clear()
        self._cells = []
        with self._table, ui.element("table"):
            with ui.element("tr"):
                for title in COLUMNS:
                    cell(title, "col")
            for number_of, name in enumerate(self._runs, 1):
                with ui.element("tr").style(f"--shade: var(--curve-{(number_of - 1) % N_SHADES + 1})"):
                    cell(f"{number_of} {name}", "row")
                    self._cells.append([cell() for _ in COLUMNS[1:]])

    def _fill_table(self) -> None:
        """Write what the runs have reached, and what differs in their settings."""
        if len(self._runs) < 2:
            return
        histories = [*self._runs.values()]
        for cells, its, different in zip(self._cells, histories, differences(histories), strict=True):
            best_step, best = its.best_validation
            texts = (
                f"{its.step:,}",
                number(its.last("loss"), ".4f"),
                number(its.last_validation, ".4f"),
                f"{best:.4f} at step {best_step:,}" if math.isfinite(best) else "–",
                different,
            )
            for label, text in zip(cells, texts, strict=True):
                label.text = text


def cell(text: str = "", scope: str = "") -> ui.label:
    """Lay out a cell of a table, or a heading of a row or a column; return the text in it."""
    with ui.element("th" if scope else "td").props(f"scope={scope}" if scope else ""):
        return ui.label(text)


def axis_title(axis: Axis, last: float) -> tuple[str, float]:
    """Return what stands below an axis that ends at `last`, and how large its unit is."""
    if axis != "time":
        return axis, 1
    unit = next((unit for unit, seconds in UNITS.items() if last <= MOST_UNITS * seconds), "h")
    return f"training time, {unit}", UNITS[unit]


def differences(histories: Sequence[History]) -> list[str]:
    """Return for each run those of its settings that are not the same in all of them."""
    every = [history.settings for history in histories]
    names = dict.fromkeys(name for settings in every for name in settings)
    varied = [name for name in names if any(settings.get(name) != every[0].get(name) for settings in every)]
    return [", ".join(f"{name} {written(settings[name])}" for name in varied if name in settings) for settings in every]
