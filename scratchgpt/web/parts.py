"""Pieces that several tabs are made of. Whatever comes from data is shown as text, never as HTML."""

import contextlib
from collections.abc import Iterator

from nicegui import ui

from scratchgpt.errors import ScratchGPTError
from scratchgpt.web.jobs import Task


@contextlib.contextmanager
def card(title: str, about: str = "") -> Iterator[None]:
    """Lay out a part of a tab, under its title."""
    with ui.element("section").classes("part"):
        ui.label(title).classes("title").props('role="heading" aria-level="2"')
        if about:
            ui.label(about).classes("soft")
        yield


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Show an error of ours as the sentence that it is."""
    try:
        yield
    except ScratchGPTError as error:
        tell_failure(str(error))
    except OSError as error:
        tell_failure(f"{error.strerror}: {error.filename}" if error.filename else str(error))


def tell_failure(sentence: str) -> None:
    """Show a sentence about what has failed, until it is put away."""
    ui.notify(sentence, type="negative", timeout=0, close_button="Close", multi_line=True)


class Progress:
    """How far a task is."""

    def __init__(self) -> None:
        """Lay out, hidden."""
        with ui.row().classes("line") as self._row:
            self._bar = ui.linear_progress(0, show_value=False).classes("grow")
            self._words = ui.label().classes("soft")
        self._row.visible = False

    def show(self, task: Task | None) -> None:
        """Show it, if it runs."""
        self._row.visible = task is not None and not task.is_over
        if task and self._row.visible:
            self._bar.props(remove="indeterminate") if task.stage else self._bar.props("indeterminate")
            self._bar.value = task.done
            self._words.text = f"{task.stage} {task.done:.0%}" if task.stage else "Starting"
