"""Look inside a model: what it expects next, what surprised it, and where its heads look."""

import asyncio
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nicegui import ui

from scratchgpt import backend
from scratchgpt.inspection.inside import attention_maps, next_tokens, token_losses, without_future
from scratchgpt.inspection.labels import label
from scratchgpt.inspection.page import STRONGEST
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer import Tokenizer
from scratchgpt.training import checkpoint
from scratchgpt.web import charts
from scratchgpt.web.desk import Desk
from scratchgpt.web.parts import ModelChoice, card, failures_told

MOST_TOKENS = 64
"""Whose attention is drawn: the last ones of a text."""
LONGEST_TEXT = 2000
N_NEXT = 10
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
    config, params, vocabulary = checkpoint.read_model(folder)
    return GPT(config, backend.select("cpu"), params), vocabulary


def look(model: Path, text: str) -> Seen:
    """Return what a model makes of a text; one at a time. Raises OSError and ScratchGPTError."""
    folder = checkpoint.locate(model)
    gpt, vocabulary = loaded(folder, folder.stat().st_mtime_ns)
    ids = vocabulary.encode(text).tolist()
    following = zip(*next_tokens(gpt, ids, N_NEXT), strict=True)
    return Seen(
        labels=[label(vocabulary, number) for number in ids],
        losses=token_losses(gpt, ids),
        following=[(label(vocabulary, int(number)), float(part)) for number, part in following],
        maps=without_future(attention_maps(gpt, ids[-min(MOST_TOKENS, gpt.config.block_size) :])),
    )


class InsideTab:
    """The tab."""

    def __init__(self, desk: Desk) -> None:
        """Lay out."""
        self._desk = desk
        self._seen: Seen | None = None
        self._n_asked = 0
        with ui.element("div").classes("columns"):
            with card("Text", "Type, and see what the model makes of it."):
                self._model = ModelChoice(desk, on_change=self._look)
                self._text = ui.textarea("Text", value=EXAMPLE, on_change=self._look).classes("wide")
                self._text.props(f'autogrow maxlength={LONGEST_TEXT} debounce={PAUSE * 1000:.0f} input-class="text"')
                self._problem = ui.label().classes("bad").props('role="status"')
            with card("What comes next", "The likeliest tokens after the text."):
                self._next = ui.element("div").classes("bars")
        with card(
            "Surprise", f"How little each token was expected, in bits; the colour is strongest from {STRONGEST}."
        ):
            self._losses = ui.element("div").classes("tokens")
        with card(
            "Attention",
            f"Each row is a token, and shows at which ones before it the head looks; the last {MOST_TOKENS}.",
        ):
            with ui.element("div").classes("fields"):
                self._layer = ui.select([0], label="Layer", value=0, on_change=self._draw)
                self._head = ui.select([0], label="Head", value=0, on_change=self._draw)
            self._map = ui.echart(charts.heat_map()).classes("chart square")
            self._map.props('role=img aria-label="Where the head looks"')

    async def _look(self) -> None:
        """Look at the text, unless a later one is there already."""
        self._n_asked += 1
        number = self._n_asked
        async with self._desk.looking:
            if number != self._n_asked or not self._model.value or not self._text.value:
                return
            self._problem.text = ""
            with failures_told(self._problem):
                model = self._desk.inside(self._model.value)
                seen = await asyncio.to_thread(look, model, self._text.value[:LONGEST_TEXT])
                if number == self._n_asked:
                    self._show(seen)

    def _show(self, seen: Seen) -> None:
        self._seen = None  # until such a layer and such a head are chosen as there are
        self._next.clear()
        with self._next:
            for text, part in seen.following:
                with ui.element("div").classes("bar-row"):
                    ui.label(text).classes("piece")
                    ui.element("div").classes("bar-back").style(f"--part: {part:.4f}")
                    ui.label(f"{part:.1%}").classes("soft")
        self._losses.clear()
        with self._losses:
            for text, bits in zip(seen.labels, [None, *(seen.losses / np.log(2)).tolist()], strict=True):
                strength = 0 if bits is None else min(bits / STRONGEST, 1)
                with ui.element("span").classes("token surprise").style(f"--strength: {strength:.3f}"):
                    ui.label(text).classes("piece")
                    ui.label("" if bits is None else f"{bits:.2f}").classes("number")
        n_layers, n_heads = seen.maps.shape[:2]
        self._layer.set_options([*range(n_layers)], value=min(self._layer.value or 0, n_layers - 1))
        self._head.set_options([*range(n_heads)], value=min(self._head.value or 0, n_heads - 1))
        self._seen = seen
        self._draw()

    def _draw(self) -> None:
        """Draw one head's map."""
        if self._seen:
            weights = self._seen.maps[self._layer.value, self._head.value]
            self._map.options.update(charts.heat_map(weights, self._seen.labels[-len(weights) :]))
            self._map.update()
