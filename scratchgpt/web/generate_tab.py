"""Talk to a model: a prompt, all ways to choose, and the text as it comes; and the last texts."""

import dataclasses
import json
import time
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from scratchgpt.errors import UsageError
from scratchgpt.generation import Sampling
from scratchgpt.web.desk import Desk
from scratchgpt.web.jobs import LONGEST_OUTPUT, Generation
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import ModelChoice, card, explain, failures_told, number_field, number_in, scrolling
from scratchgpt.wording import printable

TICK = 0.15
LONGEST_PROMPT = 100_000
"""Characters; any model sees the last few thousand."""
MOST_TOKENS = 10**6
LETTERS_PER_S = 100_000
"""That a page is sent while a text is written: always all of it, as it may be changed at its beginning."""
MOST_EARLIER = 10
"""Texts of the past that are remembered."""
SNIPPET = 160
"""Characters that are shown of each."""
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

    def __init__(self, desk: Desk, memory: Memory, window: Callable[[], str | None]) -> None:
        """Lay out; `window` returns which window of a browser this is, once it is connected."""
        self._desk, self._memory, self._window = desk, memory, window
        self._shown: tuple[Generation, str, bool] | None = None  # its output, and whether it is over
        self._earlier: list[Any] | None = None
        self._next_look = 0.0
        with ui.element("div").classes("columns"):
            with card("Prompt"):
                self._model = ModelChoice(desk, memory, "generate.model")
                self._prompt = ui.textarea("Prompt", placeholder="left empty: a newline").classes("wide")
                self._prompt.props(f'autogrow maxlength={LONGEST_PROMPT} input-class="text"')
                self._prompt.on("keydown.ctrl.enter", self._generate)
                memory.keep("generate.prompt", self._prompt, longest=LONGEST_PROMPT)
                with ui.element("div").classes("fields"):
                    self._n_tokens = number_field("tokens", 300, low=1, high=MOST_TOKENS, step=50, is_whole=True)
                    self._stop_at = ui.input("stop before")
                    self._skip = ui.checkbox("leave out unknown characters")
                with ui.row().classes("line"):
                    self._button = ui.button("Generate", icon="play_arrow", on_click=self._generate)
                    self._end = ui.button("Stop", icon="stop", on_click=self._stop).props("outline color=negative")
                    self._end.visible = False
                    ui.label("Ctrl+Enter").classes("soft wide-only")
            with card("How to choose"), ui.element("div").classes("fields"):
                settings = [field for field in dataclasses.fields(Sampling) if field.name in ABOUT]
                self._how = {field.name: self._lay_out_setting(field) for field in settings}
        self._settings: dict[str, Any] = self._how | {
            "tokens": self._n_tokens,
            "stop": self._stop_at,
            "skip": self._skip,
        }
        for name, field in self._settings.items():
            memory.keep(f"generate.{name}", field)
        with card("Text"):
            self._problem = ui.label().classes("bad").props('role="status"')
            with ui.element("div").classes("output").props('aria-live="polite"') as output:
                self._said = ui.label().classes("text prompt")
                self._text = ui.label().classes("text")
            with ui.row().classes("line"):
                self._copy = ui.button("Copy", icon="content_copy").props("flat dense")
                self._copy.on("click", js_handler=f"() => copyText(getHtmlElement({output.id}).innerText)")
                self._nothing = ui.label("Nothing yet: write a prompt, and press Generate.").classes("soft")
        self._show_text("", "")
        with card("Earlier texts", f"The last {MOST_EARLIER}, which only this browser remembers."):
            self._list = scrolling("Earlier texts").classes("stack")
        ui.timer(TICK, self._tick)

    def _lay_out_setting(self, field: "dataclasses.Field[Any]") -> ui.number:
        types = (field.type, *typing.get_args(field.type))
        is_whole, is_optional = int in types, type(None) in types
        name, usual = field.name.replace("_", " "), getattr(Sampling(), field.name)
        element = number_field(name, usual, step=1 if is_whole else 0.1, is_whole=is_whole, is_optional=is_optional)
        explain(element, ABOUT[field.name])
        return element

    def _generate(self) -> None:
        with failures_told():
            if not self._model.value:
                raise UsageError("There is no trained model yet; train one first.")
            window = self._window()
            if window is None:
                raise UsageError("The page is not connected; reload it.")
            prompt = self._prompt.value or ""
            if len(prompt) > LONGEST_PROMPT:
                raise UsageError(f"The prompt has {len(prompt):,} characters; give at most {LONGEST_PROMPT:,}.")
            typed = {name: number_in(field) for name, field in self._how.items() if field.value is not None}
            values: dict[str, Any] = {name: int(n) if name in ("top_k", "seed") else n for name, n in typed.items()}
            Sampling(**values)  # to refuse at once what cannot be meant
            options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
            options.append(f"--tokens={number_in(self._n_tokens):.0f}")
            if self._stop_at.value:
                options.append(f"--stop={self._stop_at.value}")
            if self._skip.value:
                options.append("--skip-unknown")
            if prompt:
                options.append("--prompt-file=-")
            model = self._desk.inside(Path(self._model.value))
            self._desk.generate(window, prompt, *options, "--", str(model))
            self._memory.put("generate.window", window)

    @property
    def _is_writing(self) -> bool:
        """Whether this window has asked for a text whose end it has not seen."""
        return self._window() is not None and self._memory.get("generate.window", str) == self._window()

    def _stop(self) -> None:
        if generation := self._desk.generation(self._window()):
            generation.stop()

    def _tick(self) -> None:
        """Show what has been written since the last time."""
        generation = self._desk.generation(self._window())
        is_alive = generation is not None and not generation.is_over
        self._button.props(add="loading" if is_alive else "", remove="" if is_alive else "loading")
        self._end.visible = is_alive
        if self._earlier is None and self._memory.is_recalled:
            self._show_remembered(is_kept=generation is not None)
        if generation is None:
            return
        shown = (generation, generation.output, not is_alive)
        if shown == self._shown or (is_alive and time.monotonic() < self._next_look):
            return
        self._next_look = time.monotonic() + len(generation.output) / LETTERS_PER_S  # a long text is sent less often
        was_over = self._shown is not None and self._shown[0] is generation and self._shown[2]
        self._shown = shown
        prompt, text = printable(generation.prompt), printable(generation.output)
        n_prompt = len(prompt) if text.startswith(prompt) else 0
        self._show_text(text[:n_prompt], text[n_prompt:] if n_prompt else text.lstrip("\n"))
        self._problem.text = generation.failure
        if not is_alive and not was_over and self._is_writing:
            self._finish(generation.prompt)

    def _show_text(self, said: str, text: str) -> None:
        self._said.text, self._text.text = said, text
        self._copy.visible, self._nothing.visible = bool(said + text), not said + text

    def _finish(self, prompt: str) -> None:
        """Have the browser remember a text that is complete."""
        for key, value in (("window", ""), ("said", self._said.text), ("text", self._text.text)):
            self._memory.put(f"generate.{key}", value)
        if not self._text.text or self._earlier is None:
            return
        settings = {name: field.value for name, field in self._settings.items()}
        item = {"prompt": prompt, "text": self._text.text, "settings": settings}
        self._memory.put_first("generate.earlier", item, most=MOST_EARLIER)
        self._earlier = [item, *self._earlier][:MOST_EARLIER]
        self._show_earlier()

    def _show_remembered(self, *, is_kept: bool) -> None:
        """Show the texts of the last time; the desk may still have the last one. Then keep what is shown."""
        if not is_kept:
            keys = ("generate.said", "generate.text")
            self._show_text(*(self._memory.get(key, str, longest=LONGEST_OUTPUT) or "" for key in keys))
            if self._is_writing:
                self._memory.put("generate.window", "")
                self._problem.text = "The server ended, or this page was away too long, while this text was written."
        self._memory.keep_shown("generate.said", self._said)
        self._memory.keep_shown("generate.text", self._text)
        self._earlier = [item for item in self._memory.get("generate.earlier", list) or [] if _is_earlier(item)]
        self._show_earlier()

    def _show_earlier(self) -> None:
        self._list.clear()
        with self._list:
            if not self._earlier:
                ui.label("None yet: press Generate.").classes("soft")
            for item in (self._earlier or [])[:MOST_EARLIER]:
                whole = item["prompt"] + item["text"]
                with ui.element("div").classes("item"):
                    ui.label(whole[:SNIPPET] + "…" * (len(whole) > SNIPPET)).classes("text")
                    with ui.row().classes("line buttons"):
                        again = ui.button("Use again", icon="replay", on_click=partial(self._use_again, item))
                        again.props("flat dense")
                        copy = ui.button("Copy", icon="content_copy").props("flat dense")
                        copy.on("click", js_handler=f"() => copyText({json.dumps(whole)})")

    def _use_again(self, item: dict[str, Any]) -> None:
        """Put the prompt and the settings of an earlier text into the fields."""
        settings = {name: value for name, value in item["settings"].items() if name in self._settings}
        self._memory.set({f"generate.{name}": value for name, value in ({"prompt": item["prompt"]} | settings).items()})


def _is_earlier(item: Any) -> bool:
    """Whether an item of the browser's storage is one of ours."""
    return (
        isinstance(item, dict)
        and isinstance(item.get("settings"), dict)
        and all(isinstance(item.get(name), str) for name in ("prompt", "text"))
    )
