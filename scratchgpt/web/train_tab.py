"""A run while it goes on: what it says, curves, texts, and buttons that command it; and others to compare."""

import asyncio
import json
import math
import time
from collections.abc import Iterable
from typing import Any

from nicegui import events, ui

from scratchgpt.errors import ScratchGPTError
from scratchgpt.web import charts
from scratchgpt.web.desk import RUNS, Desk
from scratchgpt.web.history import ALL, NOISY, History
from scratchgpt.web.jobs import Training
from scratchgpt.web.parts import card, failures_told

TICK = 1.0
LOOK_EVERY = 1.8
"""Seconds between two looks at logs: at every second tick."""
ZOOM_EVERY = 0.3
FRESH = 0.5
"""Seconds for which a log need not be read again."""
NO_RUN = "no run yet"
SMALL = {"lr": "Learning rate", "grad_norm": "Gradient norm", "tokens_per_s": "Tokens a second", "memory": "Memory, MB"}
FIGURES = ("step", "loss", "validation loss", "learning rate", "gradient norm", "tokens/s", "memory")
MOST_NOTES = 30


class TrainTab:
    """The tab."""

    def __init__(self, desk: Desk) -> None:
        """Lay out."""
        self._desk = desk
        self._drawn: Any = None  # which curves are on the page
        self._looked_at = -math.inf
        self._heard: Any = None  # how much of a training of ours
        self._said: Any = None  # which notes and texts are on the page
        self._training = desk.training if desk.training and desk.training.is_over else None  # the last that was shown
        self._is_busy = False
        self._zooms: dict[str, tuple[float, float]] = {}  # which part of its width a chart shows, from 0 to 1
        with card("Run"):
            with ui.element("div").classes("pair"):
                self._run = ui.select([], label="Watch", on_change=self._changed)
                self._others = ui.select([], label="Compare with", multiple=True, on_change=self._compare)
                self._others.props("use-chips")
            with ui.row().classes("line"):
                self._state = ui.label(NO_RUN).classes("chip").props('role="status"')
                self._bar = ui.linear_progress(0, show_value=False).classes("grow")
                self._bar.props('aria-label="Steps done" instant-feedback')  # to glide costs more than all curves
                self._left = ui.label().classes("soft")
            with ui.element("div").classes("figures"):
                self._figures = {name: self._lay_out_figure(name) for name in FIGURES}
            with ui.row().classes("line buttons") as self._buttons:
                self._pause = ui.button("Pause", icon="pause", on_click=self._pause_or_go_on)
                self._save = ui.button("Save", icon="save", on_click=lambda: self._tell("save")).props("outline")
                self._evaluate = ui.button("Evaluate", icon="rule", on_click=lambda: self._tell("evaluate"))
                self._sample = ui.button("Sample", icon="notes", on_click=self._ask_for_sample).props("outline")
                self._stop = ui.button("Stop", icon="stop", on_click=lambda: self._tell("stop"))
                self._go_on = ui.button("Go on", icon="play_arrow", on_click=self._resume)
                self._evaluate.props("outline")
                self._stop.props("outline color=negative")
            self._problem = ui.label().classes("bad").props('role="status"')
        with card("Loss"):
            self._loss = self._lay_out_chart("loss", "Loss")
        with ui.element("div").classes("quarters"):
            self._small = {}
            for column, title in SMALL.items():
                with card(title):
                    self._small[column] = self._lay_out_chart(column, title, has_legend=False).classes("small")
        with ui.element("div").classes("columns"):
            with card("Texts"):
                self._texts = ui.element("div").classes("texts").props('aria-live="polite"')
            with card("Notes"):
                self._notes = ui.element("div").classes("texts")
        ui.timer(TICK, self._tick)

    @staticmethod
    def _lay_out_figure(name: str) -> ui.label:
        with ui.element("div").classes("figure"):
            number = ui.label("–").classes("number")
            ui.label(name).classes("soft")
        return number

    def _lay_out_chart(self, column: str, title: str, *, has_legend: bool = True) -> ui.echart:
        async def zoom(event: events.GenericEventArguments) -> None:
            """Show the part that is looked at as fine as it can be."""
            part = event.args["batch"][0]
            self._zooms[column] = (part["start"] / 100, part["end"] / 100)
            if self._zooms[column] == (0, 1):
                del self._zooms[column]
            self._drawn, self._looked_at = None, -math.inf
            await self._tick()

        chart = ui.echart(charts.options([], has_legend=has_legend)).classes("chart")
        chart.props(f'role=img aria-label="{title} by step"')
        return chart.on("chart:datazoom", zoom, ["batch"], throttle=ZOOM_EVERY, leading_events=False)

    def _compare(self) -> None:
        self._zooms.clear()  # as a chart does that gets another number of curves
        self._changed()

    def _changed(self) -> None:
        self._drawn = self._said = None
        self._looked_at = -math.inf

    async def _tick(self) -> None:
        """Show what is new."""
        if self._is_busy:  # the last look takes long
            return
        self._is_busy = True
        try:
            await self._look()
        finally:
            self._is_busy = False

    async def _look(self) -> None:
        training = self._desk.training
        self._offer_runs(training)
        watched = self._run.value
        ours = self._desk.training_of(watched)
        self._show_buttons(self._commanded)
        if training and training.run is None and not training.is_over:
            self._show_words((training, training.n_changes), training.complaints, ())
            self._show_beginning(training)
            return
        heard = (ours, ours.n_changes if ours else 0)
        has_news = ours is not None and heard != self._heard  # then its log holds more
        self._heard = heard
        if watched is None:
            self._state.text = NO_RUN
        if watched is None or (time.monotonic() < self._looked_at + LOOK_EVERY and not has_news):
            return
        self._looked_at = time.monotonic()
        try:
            history = self._desk.history(watched)
            compared = {name: self._desk.history(name) for name in self._others.value if name != watched}
            for each in (history, *compared.values()):
                if each.read_at < time.monotonic() - FRESH or (has_news and each is history):
                    await asyncio.to_thread(each.refresh)  # unless it was just read for another page
        except ScratchGPTError as error:
            self._looked_at = -math.inf
            if not ours or ours.is_over or ours.last:  # else its log has not begun
                self._problem.text = str(error)
            return
        if watched != self._run.value:  # another one was chosen meanwhile
            return
        self._show_numbers(history, ours)
        journal = history.journal
        self._show_words((watched, journal, journal.version), journal.notes, journal.texts)
        drawn = (watched, history.version, *((name, other.version) for name, other in compared.items()))
        if drawn != self._drawn:
            self._drawn = drawn
            self._draw(watched, history, compared)

    def _offer_runs(self, training: Training | None) -> None:
        """Offer the runs that there are; a new training is what one wants to see."""
        names = self._desk.runs()
        if training and training.run and (training is not self._training or not self._run.value):
            self._training = training
            self._offer(names, training.run.name)
        elif names != self._run.options:
            self._offer(names, self._run.value if self._run.value in names else None)

    def _offer(self, names: list[str], chosen: str | None) -> None:
        if chosen is not None and chosen not in names:
            names = [chosen, *names]
        gone = self._run.value if self._run.value and self._run.value not in names else None
        self._run.set_options(names, value=chosen or next(iter(names), None))
        self._others.set_options(names, value=[name for name in self._others.value or [] if name in names])
        if gone:
            ui.notify(f"The run {gone} was removed.", type="warning")

    def _show_buttons(self, training: Training | None) -> None:
        """Show the buttons that a training of ours obeys now, and why it failed."""
        is_alive = training is not None and not training.is_over
        is_paused = is_alive and training is not None and training.state == "paused"
        for button in (self._pause, self._save, self._evaluate, self._sample, self._stop):
            button.visible = is_alive
        self._pause.text = "Resume" if is_paused else "Pause"
        self._pause.icon = "play_arrow" if is_paused else "pause"
        self._problem.text = training.failure if training else ""
        if training and training.failure and training.run is None:
            self._problem.text = f"The new training has not begun: {training.failure}"

    def _show_words(self, version: Any, notes: Iterable[str], texts: Iterable[tuple[int, str]]) -> None:
        """Show notes and texts, the newest first, unless this version of them is on the page."""
        if version == self._said:
            return
        self._said = version
        self._texts.clear()
        with self._texts:
            for step, text in reversed([*texts]):
                ui.label(f"step {step:,}").classes("soft")
                ui.label(text).classes("text")
            if not texts:
                ui.label("No texts yet: press Sample, or set sample_every.").classes("soft")
        self._notes.clear()
        with self._notes:
            for note in [*notes][: -MOST_NOTES - 1 : -1]:
                ui.label(note).classes("note")
            if not notes:
                ui.label("No notes.").classes("soft")

    def _show_beginning(self, training: Training) -> None:
        """Show nothing of another run, while one begins."""
        self._state.text = training.state
        self._bar.value, self._left.text, self._go_on.visible = 0, "", False
        self._buttons.visible = True
        for figure in self._figures.values():
            figure.text = "–"

    def _show_numbers(self, history: History, training: Training | None) -> None:
        step, steps = history.step, history.steps
        is_ours = training is not None and not training.is_over
        state = history.state
        is_alive = is_ours or state.is_alive
        self._state.text = f"{state.word} in another program" if is_alive else state.word
        if training and is_ours:
            self._state.text = training.state
        self._state.classes(replace=f"chip {'alive' if is_alive else ''}")
        self._go_on.visible = state.word == "stopped" and not is_alive
        self._buttons.visible = is_ours or self._go_on.visible
        self._bar.value = step / max(steps, 1)
        self._left.text = f"{training.time_left} left" if training and training.time_left else ""
        shown = {
            "step": f"{step:,} of {steps:,}",
            "loss": number(history.last("loss"), ".4f"),
            "validation loss": number(history.last_validation, ".4f"),
            "learning rate": number(history.last("lr"), ".2e"),
            "gradient norm": number(history.last("grad_norm"), ".3f"),
            "tokens/s": number(history.last("tokens_per_s"), ",.0f"),
            "memory": number(history.last("memory"), ",.0f") + " MB",
        }
        for name, text in shown.items():
            self._figures[name].text = text

    def _draw(self, name: str, history: History, compared: dict[str, History]) -> None:
        last = max(its.step for its in (history, *compared.values()))
        spans = {column: (low * last, high * last) for column, (low, high) in self._zooms.items()}
        span = spans.get("loss", ALL)
        blue, orange = charts.COLOURS[:2]
        series = [
            charts.line("each step", history.points("loss", span), blue, width=1, opacity=charts.FAINT),
            charts.line("training" if not compared else name, history.points("mean loss", span), blue),
            charts.line("validation", history.points("validation"), orange, has_dots=True),
        ]
        for shade, (other, its) in zip(charts.COLOURS[2:] * 20, compared.items(), strict=False):
            series.append(charts.line(other, its.points("mean loss", span), shade))
            validation = its.points("validation")
            series.append(charts.line(f"{other}, validation", validation, shade, has_dots=True, type="dashed"))
        self._loss.options["series"] = series
        self._loss.update()
        shades = (blue, *charts.COLOURS[2:] * 20)
        for column, chart in self._small.items():
            series, span = [], spans.get(column, ALL)
            for shade, (run_name, its) in zip(shades, ({name: history} | compared).items(), strict=False):
                if column in NOISY:
                    faint = charts.line(run_name, its.points(column, span), shade, width=1, opacity=charts.FAINT)
                    series += [faint, charts.line("mean", its.points(f"mean {column}", span), shade, width=1.5)]
                else:
                    series.append(charts.line(run_name, its.points(column, span), shade, width=1.5))
            chart.options["series"] = series
            chart.update()

    @property
    def _commanded(self) -> Training | None:
        """Return the training of ours that is watched, or that has no folder yet."""
        training = self._desk.training
        return training if training and training.run is None else self._desk.training_of(self._run.value)

    def _tell(self, line: str) -> None:
        if training := self._commanded:
            training.tell(line)
            self._looked_at = -math.inf

    def _pause_or_go_on(self) -> None:
        training = self._commanded
        self._tell("resume" if training and training.state == "paused" else "pause")

    def _ask_for_sample(self) -> None:
        n_texts = self._desk.history(self._run.value).journal.n_texts if self._run.value else 0
        self._tell(f"sample {json.dumps({'seed': n_texts})}")  # each another text

    def _resume(self) -> None:
        """Go on with a run that was stopped."""
        with failures_told():
            self._desk.train("--resume", str(RUNS / self._run.value))
            self._changed()


def number(value: float, form: str) -> str:
    """Return a number in this form, a dash if there is none."""
    return format(value, form) if math.isfinite(value) else "–"
