"""Look inside a model: what it expects next, what surprised it, and where its heads look."""

import asyncio
import functools
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nicegui import ui

from scratchgpt import backend
from scratchgpt.errors import UsageError
from scratchgpt.inspection.inside import attention_maps, next_tokens, token_losses, without_future
from scratchgpt.inspection.labels import label
from scratchgpt.inspection.page import STRONGEST
from scratchgpt.model.folder import load_config
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.tokenizer import Tokenizer
from scratchgpt.training import checkpoint
from scratchgpt.training.locate import locate
from scratchgpt.web import charts
from scratchgpt.web.desk import Desk
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import ModelChoice, card, failures_told, scrolling

MOST_TOKENS = 64
"""Whose attention is drawn: the last ones of a text."""
LONGEST_TEXT = 2000
MOST_PARAMETERS = 2 * 10**8
"""Of a model that is looked into: it is computed with in the server's own process, for seconds if it is so large."""
N_NEXT = 10
N_STRONGEST = 5
"""Pairs of tokens that are named in words."""
PAUSE = 0.4
"""Seconds without a key after which the text is looked at."""
EXAMPLE = "First Citizen:\nBefore we proceed any further, hear me speak."


class Seen(NamedTuple):
    """What there is to see of a text of N tokens, of which the last T are within block_size."""

    labels: list[str]  # N
    losses: npt.NDArray[np.float32]  # (N - 1,), in nats, of all but the first
    following: list[tuple[str, float]]  # what is likely to come next, and how likely it is
    maps: npt.NDArray[Any]  # (L, H, T, T); NaN where a head cannot look


@functools.lru_cache(maxsize=2)
def loaded(folder: Path, _written_at: int) -> tuple[GPT, Tokenizer]:
    """Return the model of a checkpoint, which never changes once it is written. Raises ScratchGPTError."""
    n_parameters = Layout(load_config(folder / "config.json")).size
    if n_parameters > MOST_PARAMETERS:
        raise UsageError(
            f"The model has {n_parameters:,} parameters, and the page looks into at most {MOST_PARAMETERS:,}.",
            page=f"In a terminal, `scratchgpt attention {shlex.quote(str(folder))}` looks into any.",
        )
    config, params, vocabulary = checkpoint.read_model(folder)
    return GPT(config, backend.select("cpu"), params), vocabulary


def look(model: Path, text: str) -> Seen:
    """Return what a model makes of a text; one at a time. Raises OSError and ScratchGPTError."""
    folder = locate(model)
    gpt, vocabulary = loaded(folder, folder.stat().st_mtime_ns)
    ids = vocabulary.encode(text).tolist()
    following = zip(*next_tokens(gpt, ids, N_NEXT, vocabulary.unused), strict=True)
    return Seen(
        labels=[label(vocabulary, number) for number in ids],
        losses=token_losses(gpt, ids),
        following=[(label(vocabulary, int(number)), float(part)) for number, part in following],
        maps=without_future(attention_maps(gpt, ids[-min(MOST_TOKENS, gpt.config.block_size) :])),
    )


class InsideTab:
    """The tab."""

    def __init__(self, desk: Desk, memory: Memory) -> None:
        """Lay out."""
        self._desk, self._memory = desk, memory
        self._seen: Seen | None = None
        self._n_asked = 0
        with ui.element("div").classes("columns"):
            with card("Text", "Type, and see what the model makes of it."):
                self._model = ModelChoice(desk, memory, "inside.model", on_change=self._look)
                self._text = ui.textarea("Text", value=EXAMPLE, on_change=self._look).classes("wide")
                self._text.props(f'autogrow maxlength={LONGEST_TEXT} debounce={PAUSE * 1000:.0f} input-class="text"')
                memory.keep("inside.text", self._text, longest=LONGEST_TEXT)
                self._problem = ui.label().classes("bad").props('role="status"')
            with card("What comes next", "The likeliest tokens after the text.") as following:
                self._next = ui.element("div").classes("bars")
        with card(
            "Surprise", f"How little each token was expected, in bits; the colour is strongest from {STRONGEST}."
        ) as surprise:
            self._losses = ui.element("div").classes("tokens")
        with card(
            "Attention",
            f"Each row is a token, and shows at which ones before it the head looks; the last {MOST_TOKENS}.",
        ) as attention:
            with ui.element("div").classes("fields"):
                self._layer = ui.select({}, label="Layer", on_change=self._draw)
                self._head = ui.select({}, label="Head", on_change=self._draw)
            memory.keep("inside.layer", self._layer)
            memory.keep("inside.head", self._head)
            with scrolling("Attention map").classes("map"):
                self._map = charts.Picture().classes("square")
        self._pictures = (following, surprise, attention)
        self._show(None)
        ui.timer(0, self._look, once=True)  # a field that begins with its value does not change

    async def _look(self) -> None:
        """Look at the text, unless a later one is there already."""
        self._n_asked += 1
        number = self._n_asked
        async with self._desk.looking:
            if number != self._n_asked:
                return
            seen, self._problem.text = None, self._missing()
            with failures_told(self._problem):
                if self._model.value and self._text.value:
                    model = self._desk.inside(self._model.value)
                    seen = await asyncio.to_thread(look, model, self._text.value[:LONGEST_TEXT])
            if number == self._n_asked:
                self._show(seen)

    def _missing(self) -> str:
        """Return what there must be before there is something to see."""
        if not self._model.value:
            return "There is no trained model yet; start a training in the tab Model."
        return "" if self._text.value else "Type a text to see what the model makes of it."

    def _show(self, seen: Seen | None) -> None:
        """Show what a model makes of the text, or no pictures at all."""
        self._seen = None  # until a layer and a head are chosen that exist
        for picture in self._pictures:
            picture.visible = seen is not None
        if seen is None:
            return
        self._next.clear()
        with self._next:
            for text, part in seen.following:
                with ui.element("div").classes("bar-row"):
                    ui.label(text).classes("piece")
                    ui.element("div").classes("bar-back").style(f"--part: {part:.4f}")
                    ui.label(percent(part)).classes("soft")
        self._losses.clear()
        with self._losses:
            for text, bits in zip(seen.labels, [None, *(seen.losses / np.log(2)).tolist()], strict=True):
                strength = 0 if bits is None else min(bits / STRONGEST, 1)
                with ui.element("span").classes("token surprise").style(f"--strength: {strength:.3f}"):
                    ui.label(text).classes("piece")
                    ui.label("" if bits is None else f"{bits:.2f}").classes("number")
        n_layers, n_heads = seen.maps.shape[:2]
        self._memory.offer("inside.layer", places(n_layers))
        self._memory.offer("inside.head", places(n_heads))
        self._seen = seen
        self._draw()

    def _draw(self) -> None:
        """Draw one head's map."""
        if self._seen:
            layer, head = self._layer.value or 0, self._head.value or 0
            weights = self._seen.maps[layer, head]
            labels = self._seen.labels[-len(weights) :]
            words = f"Layer {layer}, head {head}. The strongest: {strongest(weights, labels)}."
            self._map.show_map(weights, labels, words)


def places(n: int) -> dict[int, str]:
    """Return the numbers of layers or heads, as files count them, and how each is offered."""
    ends = {n - 1: "the last", 0: "the first" if n > 1 else "the only one"}
    return {number: f"{number}, {ends[number]}" if number in ends else str(number) for number in range(n)}


def percent(part: float) -> str:
    """Return a part of 1; what is small is never shown as nothing."""
    return f"{part:.1%}" if part >= 0.0005 or not part else "< 0.1%"


def strongest(weights: npt.NDArray[Any], labels: list[str]) -> str:
    """Return in words where a head looks most."""
    order = np.argsort(np.nan_to_num(weights), axis=None)[: -N_STRONGEST - 1 : -1]
    pairs = (divmod(int(place), len(labels)) for place in order)
    return "; ".join(f"{labels[at]} looks at {labels[to]}, {percent(weights[at, to])}" for at, to in pairs)
