"""The page: a header, tabs that are laid out when they are first opened, and the server that shows them."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import app, core, events, run, ui
from starlette.middleware.gzip import GZipMiddleware

from scratchgpt.serving.answers import App
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.tokens import Login
from scratchgpt.web.data_tab import LARGEST_UPLOAD, DataTab
from scratchgpt.web.desk import Desk
from scratchgpt.web.front import Front, ignore_nonsense
from scratchgpt.web.generate_tab import GenerateTab
from scratchgpt.web.inside_tab import InsideTab
from scratchgpt.web.jobs import END_AFTER
from scratchgpt.web.measure_tab import MeasureTab
from scratchgpt.web.model_tab import ModelTab
from scratchgpt.web.train_tab import TrainTab

ROOM = 2**20
"""Bytes of a request besides an uploaded file."""
SAVING = f"""\
The training saves and ends, within {END_AFTER:.0f} seconds. Ctrl-C again ends the page now; the training still saves.
"""
HERE = Path(__file__).parent
TABS = {
    "data": ("Data", "description"),
    "model": ("Model", "tune"),
    "train": ("Train", "show_chart"),
    "inside": ("Inside", "visibility"),
    "generate": ("Generate", "edit_note"),
    "measure": ("Measure", "speed"),
}
TICK = 2.0
SCHEME = "matchMedia('(prefers-color-scheme: dark)')"
FOLLOW_SCHEME = """
const tell = () => setTimeout(() => emitEvent('scheme'), 300);
scheme.addEventListener('change', tell);
if (scheme.matches !== wasDark) tell();
"""
"""Run when the page is connected, which is a while after its charts were drawn."""


class Page:
    """What one browser tab sees."""

    def __init__(self, desk: Desk, first: str) -> None:
        """Lay out the header, and the tab that is asked for."""
        self._desk = desk
        self._laid_out: set[str] = set()
        self._dark = ui.dark_mode(None)
        ui.colors(primary="#2f56d9", negative="#c4262e", positive="#1f7a3d")
        with ui.header().classes("bar"):
            ui.label("scratchgpt").classes("brand").props('role="heading" aria-level="1"')
            with ui.tabs().classes("tabs") as self._tabs:
                for name, (title, icon) in TABS.items():
                    ui.tab(name, title, icon)
                self._tabs.value = first
            self._tabs.props("inline-label dense no-caps mobile-arrows")
            self._state = ui.label().classes("chip wide-only")
            with ui.button(icon="contrast", on_click=self._turn).props('flat round dense aria-label="Light or dark"'):
                ui.tooltip("As the system is, dark, or light")
        with ui.tab_panels(self._tabs, value=first, animated=False).classes("panels") as panels:
            self._panels = {name: ui.tab_panel(name).classes("panel") for name in TABS}
        panels.props("inert")  # what is typed into a page that is not connected yet would be lost
        ui.context.client.on_connect(lambda: panels.props(remove="inert"))
        self._lay_out(first)
        self._tabs.on_value_change(self._changed)
        ui.timer(TICK, self._tick)
        ui.on("scheme", self._draw_again)
        ui.add_head_html(f"<script>const scheme = {SCHEME}, wasDark = scheme.matches;</script>")
        ui.run_javascript(FOLLOW_SCHEME)

    def _changed(self, change: events.ValueChangeEventArguments[Any]) -> None:
        self._lay_out(change.value)
        for name, panel in self._panels.items():
            for element in panel.descendants():
                if isinstance(element, ui.timer):
                    element.active = name == change.value  # what nobody sees costs nothing
        ui.navigate.history.replace(f"/?tab={change.value}")

    def _lay_out(self, name: str) -> None:
        """Fill a tab, once."""
        if name in self._laid_out:
            return
        self._laid_out.add(name)
        with self._panels[name]:
            match name:
                case "data":
                    DataTab(self._desk)
                case "model":
                    ModelTab(self._desk, show_training=self._show_training)
                case "train":
                    TrainTab(self._desk)
                case "inside":
                    InsideTab(self._desk)
                case "generate":
                    GenerateTab(self._desk)
                case "measure":
                    MeasureTab(self._desk)

    def _show_training(self) -> None:
        self._tabs.value = "train"

    def _turn(self) -> None:
        """Go from the system's light or dark to the one, to the other, and back."""
        turns = {None: True, True: False, False: None}
        self._dark.value = turns[self._dark.value]
        ui.timer(0.3, self._draw_again, once=True)  # when the page has its new colours

    def _draw_again(self) -> None:
        """Let charts take the page's colours."""
        for panel in self._panels.values():
            for element in panel.descendants():
                if isinstance(element, ui.echart):
                    element.update()

    def _tick(self) -> None:
        """Show on all tabs what the training is at."""
        training = self._desk.training
        words = []
        if training and not training.is_over:
            words = [training.state]
            if training.last and training.started:
                words = [training.state, f"{training.last.step:,} of {training.started.steps:,}"]
        self._state.text = ", ".join(words)
        self._state.visible = bool(words)


def build(desk: Desk, *, host: str, login: Login | None) -> App:
    """Return the application, guarded."""
    run.process_pool_start_method = "spawn"
    core.sio.eio.cors_allowed_origins = []  # the guard decides

    @ui.page("/", title="scratchgpt", favicon=FAVICON)
    def page(tab: str = "data") -> None:
        Page(desk, tab if tab in TABS else "data")

    async def read_ahead() -> None:
        await asyncio.to_thread(desk.read_ahead)

    async def close() -> None:
        if desk.is_saving:
            sys.stderr.write(SAVING)
        await asyncio.to_thread(desk.close)

    ui.add_css(HERE / "style.css", shared=True)
    app.on_startup(read_ahead)
    app.on_shutdown(close)
    app.config.quasar_config["loadingBar"]["skipHijack"] = True  # uploads have a bar of their own, with a name
    application = FastAPI(openapi_url=None)
    ui.run_with(
        application,
        language="en-US",
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10,
        binding_refresh_interval=None,  # nothing is bound to what would have to be looked at again and again
        message_history_length=100,
        gzip_middleware_factory=None,  # the front reads the page before it is compressed
    )
    app.config.socket_io_js_transports = ["websocket"]

    ignore_nonsense()
    front = GZipMiddleware(Front(application))
    return Guard(front, host=host, largest_body=LARGEST_UPLOAD + ROOM, login=login)


FAVICON = (
    '<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg"><rect width="32" height="32" rx="7" fill="#2f56d9"/>'
    '<path d="M6 9c3 15 7 15 20 16" stroke="#fff" stroke-width="3.5" fill="none" stroke-linecap="round"/></svg>'
)
