"""A run while it goes on: what it says, curves, texts, and buttons that command it; and others to compare."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nicegui import ui

from scratchgpt.errors import ScratchGPTError, UsageError, for_page
from scratchgpt.training.places import RUNS
from scratchgpt.web.address import MOST_COMPARED
from scratchgpt.web.curves import Curves
from scratchgpt.web.desk import Desk
from scratchgpt.web.history import History
from scratchgpt.web.jobs import Training
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import card, failures_told, number, scrolling

TICK = 1.0
LOOK_EVERY = 1.8
"""Seconds between two looks at logs: at every second tick."""
FRESH = 0.5
"""Seconds for which a log need not be read again."""
NO_RUN = "There is no run yet. Prepare a text in the tab Data, then press Start training in the tab Model."
FIGURES = ("step", "loss", "validation loss", "learning rate", "gradient norm", "tokens/s", "memory")
MOST_NOTES = 30


class TrainTab:
    """The tab."""

    def __init__(
        self,
        desk: Desk,
        memory: Memory,
        on_choice: Callable[..., None],
        run: str,
        compare: Sequence[str],
    ) -> None:
        """Lay out, and show a run and others; call `on_choice(run, others, is_chosen=...)` when others are shown."""
        self._desk, self._on_choice = desk, on_choice
        self._looked_at = -math.inf
        self._heard: Any = None  # how much of a training of ours
        self._said: Any = None  # which notes and texts are on the page
        self._training = desk.training if desk.training and desk.training.is_over else None  # the last that was shown
        self._is_busy = self._is_offering = False
        with card("Run"):
            self._empty = ui.label(NO_RUN)
            with ui.element("div").classes("rows") as self._there:
                self._lay_out_run()
            self._problem = ui.label().classes("bad").props('role="status"')
        self._curves = Curves(memory)
        with ui.element("div").classes("columns") as self._words:
            with card("Texts"):
                self._texts = scrolling("Texts").classes("texts").props('aria-live="polite"')
            with card("Notes"):
                self._notes = scrolling("Notes").classes("texts")
        self.show(run, compare)
        self._offer_runs(desk.training)
        self._show_parts()
        ui.timer(TICK, self._tick)

    def _lay_out_run(self) -> None:
        with ui.element("div").classes("pair"):
            self._run = ui.select([], label="Watch", on_change=self._changed)
            self._others = ui.select([], label="Compare with", multiple=True, on_change=self._changed)
            self._others.props(f"use-chips max-values={MOST_COMPARED}")
        with ui.row().classes("line"):
            self._state = ui.label().classes("chip").props('role="status"')
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
            self._continue = ui.button("Continue from checkpoint", icon="play_arrow", on_click=self._resume)
            self._evaluate.props("outline")
            self._stop.props("outline color=negative")
        self._buttons.visible = False

    @staticmethod
    def _lay_out_figure(name: str) -> ui.label:
        with ui.element("div").classes("figure"):
            figure = ui.label("–").classes("number")
            ui.label(name).classes("soft")
        return figure

    def _changed(self) -> None:
        self._said = None
        self._looked_at = -math.inf
        self._offer_others()
        self._on_choice(self._run.value or "", self._others.value, is_chosen=not self._is_offering)

    def show(self, run: str, compare: Sequence[str]) -> None:
        """Show a run, and those to compare with it, as far as they exist."""
        names = self._desk.runs()
        if run in names:
            self._training = self._desk.training  # which does not replace a run that was asked for
            self._offer(names, run)
            self._others.value = [name for name in compare if name in self._others.options]

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
        self._show_parts()
        if training and training.run is None and not training.is_over:
            self._show_words((training, training.n_changes), training.complaints, ())
            self._show_beginning(training)
            return
        heard = (ours, ours.n_changes if ours else 0)
        has_news = ours is not None and heard != self._heard  # then its log holds more
        self._heard = heard
        if watched is None or (time.monotonic() < self._looked_at + LOOK_EVERY and not has_news):
            return
        self._looked_at = time.monotonic()
        try:
            history = self._desk.history(watched)
            compared = {name: self._desk.history(name) for name in self._others.value}
            for each in (history, *compared.values()):
                if each.read_at < time.monotonic() - FRESH or (has_news and each is history):
                    await asyncio.to_thread(each.refresh)  # unless it was just read for another page
        except ScratchGPTError as error:
            self._looked_at = -math.inf
            if not ours or ours.is_over or ours.last:  # else its log has not begun
                self._problem.text = for_page(error)
            return
        if watched != self._run.value:  # another one was chosen meanwhile
            return
        self._show_numbers(history, ours)
        journal = history.journal
        self._show_words((watched, journal, journal.version), journal.notes, journal.texts)
        self._curves.show({watched: history} | compared)

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
        self._is_offering = True  # what the page shows by itself is no step to go back to
        self._run.set_options(names, value=chosen or next(iter(names), None))
        self._is_offering = False
        self._offer_others()
        if gone:
            ui.notify(f"The run {gone} was removed.", type="warning")

    def _offer_others(self) -> None:
        """Offer all runs but the watched one to compare with it."""
        names = [name for name in self._run.options if name != self._run.value]
        if names != self._others.options:
            self._others.set_options(names, value=[name for name in self._others.value if name in names])

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

    def _show_parts(self) -> None:
        """Show only what there is: without a run, a sentence that says how to get one."""
        training = self._commanded
        has_run = self._run.value is not None or (training is not None and not training.is_over)
        self._empty.visible = not has_run
        self._there.visible = self._words.visible = has_run
        if not self._run.value:
            self._curves.hide()

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
                ui.label("No texts. Press Sample during a training, or set sample_every before it.").classes("soft")
        self._notes.clear()
        with self._notes:
            for note in [*notes][: -MOST_NOTES - 1 : -1]:
                ui.label(note).classes("note")
            if not notes:
                ui.label("No notes.").classes("soft")

    def _show_beginning(self, training: Training) -> None:
        """Show nothing of another run, while one begins."""
        self._state.text = training.state
        self._bar.value, self._left.text, self._continue.visible = 0, "", False
        self._buttons.visible = True
        self._curves.hide()
        for figure in self._figures.values():
            figure.text = "–"

    def _show_numbers(self, history: History, training: Training | None) -> None:
        step, steps = history.step, history.steps
        is_ours = training is not None and not training.is_over
        if training and is_ours and training.last:
            step = training.last.step  # as the header says it; a log is looked at only now and then
        state = history.state
        is_alive = is_ours or state.is_alive
        self._state.text = f"{state.word} in another program" if is_alive else state.word
        if training and is_ours:
            self._state.text = training.state
        self._state.classes(replace=f"chip {'alive' if is_alive else ''}")
        self._continue.visible = state.word == "stopped" and not is_alive
        self._buttons.visible = is_ours or self._continue.visible
        self._bar.value = step / max(steps, 1)
        self._left.text = f"{training.time_left} left" if training and training.time_left else ""
        shown = {
            "step": f"{step:,} of {steps:,}" if steps else f"{step:,}",
            "loss": number(history.last("loss"), ".4f"),
            "validation loss": number(history.last_validation, ".4f"),
            "learning rate": number(history.last("lr"), ".2e"),
            "gradient norm": number(history.last("grad_norm"), ".3f"),
            "tokens/s": number(history.last("tokens_per_s"), ",.0f"),
            "memory": number(history.last("memory"), ",.0f") + " MB",
        }
        for name, text in shown.items():
            self._figures[name].text = text

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
            if not self._run.value:
                raise UsageError("There is no run yet; start one in the tab Model.")
            self._desk.train("--resume", str(RUNS / self._run.value))
            self._changed()
