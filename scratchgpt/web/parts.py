"""Pieces that several tabs are made of. Whatever comes from data is shown as text, never as HTML."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from nicegui import ui

from scratchgpt.errors import ScratchGPTError, UsageError, for_page
from scratchgpt.web.desk import Desk
from scratchgpt.web.jobs import Task
from scratchgpt.web.memory import Memory
from scratchgpt.wording import shown


@contextlib.contextmanager
def card(title: str, about: str = "") -> Iterator[ui.element]:
    """Lay out a part of a tab, under its title."""
    with ui.element("section").classes("part") as part:
        ui.label(title).classes("title").props('role="heading" aria-level="2"')
        if about:
            ui.label(about).classes("soft")
        yield part


@contextlib.contextmanager
def failures_told(where: ui.label | None = None) -> Iterator[None]:
    """Show an error of ours as the sentence that it is: in a label, if there is one for it."""
    try:
        yield
    except (ScratchGPTError, OSError, MemoryError) as error:
        if where:
            where.text = shown(for_page(error))
        else:
            tell_failure(shown(for_page(error)))


def tell_failure(sentence: str) -> None:
    """Show a sentence about what has failed, until it is put away."""
    ui.notify(sentence, type="negative", timeout=0, close_button="Close", multi_line=True)


def number(value: float, form: str) -> str:
    """Return a number in this form, a dash if there is none."""
    return format(value, form) if math.isfinite(value) else "–"


def explain(field: ui.element, sentence: str) -> None:
    """Show what a field means: under the pointer, below the field that has the focus, and to screen readers."""
    with field:
        ui.tooltip(sentence)
    field.classes("explained").props["hide-hint"] = True
    field.props["hint"] = field.props["aria-description"] = sentence


def scrolling(name: str) -> ui.element:
    """Return a region that scrolls, by keyboard as well."""
    region = ui.element("div").props("tabindex=0 role=region")
    region.props["aria-label"] = name
    return region


def number_field(
    label: str,
    value: float | None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    step: float = 1,
    is_whole: bool = False,
    is_optional: bool = False,
) -> ui.number:
    """Lay out a field for a number, which says what is wrong and never changes what was typed."""

    def problem(typed: float | None) -> str | None:
        """Return what is wrong with a number."""
        if typed is None:
            return None if is_optional else f"{label}: a number is needed."
        if is_whole and typed != round(typed):
            return f"{label} must be a whole number, not {typed:g}."
        if not low <= typed <= high:
            limits = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
            return f"{label} must be {' and '.join(limits)}, not {typed:g}."
        return None

    field = ui.number(label, value=value, step=step, validation=problem)
    field.validate(return_result=False)
    return field


def number_in(field: ui.number) -> float:
    """Return what was typed. Raises UsageError if it cannot be meant."""
    if not field.validate():
        raise UsageError(str(field.error))
    return float(field.value or 0)


class ModelChoice:
    """Which model to use: the last checkpoint of a run, or its best one."""

    def __init__(
        self,
        desk: Desk,
        memory: Memory,
        key: str,
        on_change: Callable[[], Any] | None = None,
        *,
        label: str = "Model",
        none: str = "",
    ) -> None:
        """Lay out; if `none` is a text, it is a choice, too, and comes first."""
        self._desk, self._memory, self._key = desk, memory, key
        self._none = {"": none} if none else {}
        self._offered = self._none | desk.models()
        first = next(iter(self._offered), None)
        self._select = ui.select(self._offered, label=label, value=first, on_change=on_change).classes("wide")
        self._hint()
        memory.keep(key, self._select)
        ui.timer(2, self._offer)

    @property
    def value(self) -> str | None:
        """Return its path, None if there is none."""
        return self._select.value or None

    def _offer(self) -> None:
        """Offer the models that there are."""
        models = self._none | self._desk.models()
        if models != self._offered:
            self._offered = models
            self._hint()
            self._memory.offer(self._key, models)

    def _hint(self) -> None:
        self._select.props(remove="hint") if self._offered else self._select.props('hint="none yet: train one first"')


class Progress:
    """How far a task is, and a button that ends it."""

    def __init__(self, name: str) -> None:
        """Lay out, hidden; `name` is what the task is called."""
        self._task: Task | None = None
        with ui.row().classes("line") as self._row:
            self._bar = ui.linear_progress(0, show_value=False).classes("grow")
            self._bar.props["aria-label"] = name
            self._words = ui.label().classes("soft")
            ui.button("Stop", icon="stop", on_click=self._stop).props("outline color=negative")
        self._row.visible = False

    def _stop(self) -> None:
        if self._task:
            self._task.stop()

    def show(self, task: Task | None) -> None:
        """Show it, if it runs."""
        self._task = task
        self._row.visible = task is not None and not task.is_over
        if task and self._row.visible:
            self._bar.props(remove="indeterminate") if task.stage else self._bar.props("indeterminate")
            self._bar.value = task.done
            self._words.text = f"{task.stage} {task.done:.0%}" if task.stage else "Starting"
