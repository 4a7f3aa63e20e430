"""Talk to a model: a prompt, all ways to choose, and the text as it comes."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

from nicegui import ui

from scratchgpt.errors import UsageError
from scratchgpt.generation import Sampling
from scratchgpt.training.journal import printable
from scratchgpt.web.desk import Desk
from scratchgpt.web.jobs import Task
from scratchgpt.web.parts import ModelChoice, card, explain, failures_told

TICK = 0.15
LONGEST_PROMPT = 100_000
"""Characters; any model sees the last few thousand."""
ABOUT = {
    "temperature": "0: always the likeliest; 1: as learnt.",
    "top_k": "Only the k likeliest; empty: all.",
    "top_p": "Only the fewest that add up to p; empty: all.",
    "min_p": "Only those at least p times as likely as the likeliest; empty: all.",
    "repetition_penalty": "Above 1: tokens that the text has are less likely.",
    "frequency_penalty": "Above 0: the same, the more often the text has them.",
    "presence_penalty": "Above 0: the same, however often the text has them.",
    "seed": "The same seed gives the same text.",
}


class GenerateTab:
    """The tab."""

    def __init__(self, desk: Desk) -> None:
        """Lay out."""
        self._desk = desk
        self._task: Task | None = None
        self._shown: str | None = None  # of the output
        self._asked = ""
        with ui.element("div").classes("columns"):
            with card("Prompt"):
                self._model = ModelChoice(desk)
                self._prompt = ui.textarea("Prompt", placeholder="left empty: a newline").classes("wide")
                self._prompt.props(f'autogrow maxlength={LONGEST_PROMPT} input-class="text"')
                self._prompt.on("keydown.ctrl.enter", self._generate)
                with ui.element("div").classes("fields"):
                    self._n_tokens = ui.number("tokens", value=300, min=1, step=50, precision=0)
                    self._stop_at = ui.input("stop before")
                    self._skip = ui.checkbox("leave out unknown characters")
                with ui.row().classes("line"):
                    self._button = ui.button("Generate", icon="play_arrow", on_click=self._generate)
                    self._end = ui.button("Stop", icon="stop", on_click=self._stop).props("outline color=negative")
                    ui.label("Ctrl+Enter").classes("soft wide-only")
            with card("How to choose"), ui.element("div").classes("fields"):
                self._how: dict[str, Any] = {}
                usual = Sampling()
                for field in [field for field in dataclasses.fields(Sampling) if field.name in ABOUT]:
                    is_whole = int in (field.type, *typing.get_args(field.type))
                    name = field.name.replace("_", " ")
                    element = ui.number(name, step=1 if is_whole else 0.1, precision=0 if is_whole else None)
                    element.value = getattr(usual, field.name)
                    explain(element, ABOUT[field.name])
                    self._how[field.name] = element
        with card("Text"):
            self._problem = ui.label().classes("bad").props('role="status"')
            with ui.element("div").classes("output").props('aria-live="polite"'):
                self._said = ui.label().classes("text prompt")
                self._text = ui.label().classes("text")
        ui.timer(TICK, self._tick)
        ui.context.client.on_delete(self._stop)

    def _generate(self) -> None:
        with failures_told():
            if not self._model.value:
                raise UsageError("There is no trained model yet; train one first.")
            if self._task and not self._task.is_over:
                raise UsageError("A text is being made; stop it first.")
            prompt = self._prompt.value or ""
            if len(prompt) > LONGEST_PROMPT:
                raise UsageError(f"The prompt has {len(prompt):,} characters; give at most {LONGEST_PROMPT:,}.")
            values = {name: element.value for name, element in self._how.items() if element.value is not None}
            whole = {"top_k", "seed"}
            values = {name: int(value) if name in whole else float(value) for name, value in values.items()}
            Sampling(**values)  # to refuse at once what cannot be meant
            options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
            options.append(f"--tokens={self._n_tokens.value or 1:.0f}")
            if self._stop_at.value:
                options.append(f"--stop={self._stop_at.value}")
            if self._skip.value:
                options.append("--skip-unknown")
            if prompt:
                options.append("--prompt-file=-")
            model = self._desk.inside(Path(self._model.value))
            self._task = Task("generate", *options, "--", str(model), standard_input=prompt)
            self._asked, self._shown = prompt, None
            self._said.text = self._text.text = self._problem.text = ""

    def _stop(self) -> None:
        if self._task:
            self._task.stop()

    def _tick(self) -> None:
        """Show what has been written since the last time."""
        task = self._task
        is_alive = task is not None and not task.is_over
        self._button.props(add="loading" if is_alive else "", remove="" if is_alive else "loading")
        self._end.visible = is_alive
        if task is None:
            return
        if task.output is not self._shown:
            self._shown = task.output
            text = printable(self._shown)
            n_prompt = len(self._asked) if text.startswith(printable(self._asked)) else 0
            self._said.text = text[:n_prompt]
            self._text.text = text[n_prompt:] if n_prompt else text.lstrip("\n")
        self._problem.text = task.failure
