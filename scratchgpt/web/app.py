"""The page: a header, tabs that are laid out when they are first opened, and the server that shows them."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import app, core, events, run, ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request

from scratchgpt.serving.answers import App
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.log import LONGEST, failure
from scratchgpt.serving.tokens import Login
from scratchgpt.web.address import Address
from scratchgpt.web.data_tab import LARGEST_UPLOAD, DataTab
from scratchgpt.web.desk import Desk
from scratchgpt.web.front import Front, ignore_nonsense, ignore_slow_end
from scratchgpt.web.generate_tab import GenerateTab
from scratchgpt.web.inside_tab import InsideTab
from scratchgpt.web.jobs import END_AFTER
from scratchgpt.web.measure_tab import MeasureTab
from scratchgpt.web.memory import Memory
from scratchgpt.web.model_tab import ModelTab
from scratchgpt.web.parts import tell_failure
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
SCRIPTS = f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>"
FIRST_COLOURS = """
<script>if (chosenDark() ?? darkSystem.matches) document.body.classList.add('body--dark')</script>
"""
"""At the beginning of the body, so that it is never painted in the other colours."""


class Page:
    """What one browser tab sees."""

    def __init__(self, desk: Desk, address: Address) -> None:
        """Lay out the header, and the tab that is asked for."""
        self._desk, self._address = desk, address
        self._laid_out: set[str] = set()
        self._train_tab: TrainTab | None = None
        self._window: str | None = None  # of the browser, once it is connected
        self._failure = ""  # the last unexpected one that is on the page
        self._memory = Memory()
        ui.dark_mode(None).props(':value="chosenDark()"')  # which the browser knows
        ui.colors(primary="#2f56d9", negative="#c4262e", positive="#1f7a3d")
        with ui.header().classes("bar"):
            ui.label("scratchgpt").classes("brand").props('role="heading" aria-level="1"')
            with ui.tabs().classes("tabs") as self._tabs:
                for name, (title, icon) in TABS.items():
                    ui.tab(name, title, icon)
                self._tabs.value = address.tab
            self._tabs.props("inline-label dense no-caps mobile-arrows align=left")
            self._state = ui.label().classes("chip")
            with ui.button(icon="contrast").props('flat round dense aria-label="Light or dark"') as turn:
                ui.tooltip("As the system is, dark, or light")
            turn.on("click", js_handler="() => turnDark()")
        with ui.tab_panels(self._tabs, value=address.tab, animated=False).classes("panels") as self._all_panels:
            self._panels = {name: ui.tab_panel(name).classes("panel") for name in TABS}
        self._all_panels.props("inert")  # what is typed before the page is connected and filled would be lost
        ui.context.client.on_connect(self._connected)
        ui.context.client.on_delete(self._left)
        ui.on_exception(self._failed)
        self._lay_out(address.tab)
        self._tabs.on_value_change(self._changed)
        ui.timer(TICK, self._tick)
        ui.on("address", self._go)
        ui.add_head_html(SCRIPTS)
        ui.add_body_html(FIRST_COLOURS)

    async def _connected(self) -> None:
        """Show what the browser remembers, then let the person type."""
        client = ui.context.client
        if self._window is None and client.tab_id:
            self._window = client.tab_id
            self._desk.arrive(self._window)
        await self._memory.recall()
        self._all_panels.props(remove="inert")

    def _left(self) -> None:
        if self._window:
            self._desk.leave(self._window)

    def _failed(self, error: Exception) -> None:
        """Show an unexpected error once: a timer may raise it again and again. The terminal has it, too."""
        found = failure(error)[:LONGEST]
        if found != self._failure:
            self._failure = found
            tell_failure(f"This page has failed: {found}. Reload it, and report this sentence if it comes again.")

    def _changed(self, change: events.ValueChangeEventArguments[Any]) -> None:
        self._lay_out(change.value)
        for name, panel in self._panels.items():
            for element in panel.descendants():
                if isinstance(element, ui.timer):
                    element.active = name == change.value  # a hidden tab costs nothing
        self._set_address(self._address._replace(tab=change.value), is_elsewhere=change.value != self._address.tab)

    def _set_address(self, address: Address, *, is_elsewhere: bool) -> None:
        """Write where the page is into the browser's address; back leads to where it was before it was elsewhere."""
        if address == self._address:
            return
        self._address = address
        (ui.navigate.history.push if is_elsewhere else ui.navigate.history.replace)(str(address))

    def _go(self, event: events.GenericEventArguments) -> None:
        """Follow the browser back or forward."""
        self._address = Address.read(str(event.args), TABS)
        self._tabs.value = self._address.tab
        if self._train_tab:
            self._train_tab.show(self._address.run, self._address.compare)

    def _lay_out(self, name: str) -> None:
        """Fill a tab, once."""
        if name in self._laid_out:
            return
        self._laid_out.add(name)
        with self._panels[name]:
            match name:
                case "data":
                    DataTab(self._desk, self._memory)
                case "model":
                    ModelTab(self._desk, self._memory, show_training=self._show_training)
                case "train":
                    self._train_tab = TrainTab(
                        self._desk, self._memory, self._watched, self._address.run, self._address.compare
                    )
                case "inside":
                    InsideTab(self._desk, self._memory)
                case "generate":
                    GenerateTab(self._desk, self._memory, lambda: self._window)
                case "measure":
                    MeasureTab(self._desk, self._memory)

    def _show_training(self) -> None:
        self._tabs.value = "train"

    def _watched(self, run: str, compare: list[str], *, is_chosen: bool) -> None:
        address = self._address._replace(run=run, compare=tuple(compare))
        self._set_address(address, is_elsewhere=is_chosen and run != self._address.run)

    def _tick(self) -> None:
        """Show on all tabs what the training is at."""
        training = self._desk.training
        words = []
        if training and not training.is_over:
            words = [training.state]
            if training.last and training.started:
                words.append(f"{training.last.step / training.started.steps:.0%}")
        self._state.text = ", ".join(words)
        self._state.visible = bool(words)


def build(desk: Desk, *, host: str, login: Login | None) -> App:
    """Return the application, guarded."""
    run.process_pool_start_method = "spawn"
    core.sio.eio.cors_allowed_origins = []  # the guard decides

    @ui.page("/", title="scratchgpt", favicon=FAVICON)
    def page(request: Request) -> None:
        Page(desk, Address.read(request.url.query, TABS))

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
    ignore_slow_end()
    front = GZipMiddleware(Front(application))
    return Guard(front, host=host, largest_body=LARGEST_UPLOAD + ROOM, login=login)


FAVICON = (
    '<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg"><rect width="32" height="32" rx="7" fill="#2f56d9"/>'
    '<path d="M6 9c3 15 7 15 20 16" stroke="#fff" stroke-width="3.5" fill="none" stroke-linecap="round"/></svg>'
)
