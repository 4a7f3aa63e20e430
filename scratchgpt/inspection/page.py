"""A text as an HTML page whose colours say what surprised a model: one file, no scripts, nothing to load.

What a token's colour says is also in its title, which a browser shows where the mouse rests.
"""

import codecs
import functools
import html
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scratchgpt.inspection.inside import Predicted
from scratchgpt.inspection.labels import harmless, label
from scratchgpt.tokenizer import Tokenizer, token_bytes

STRONGEST = 10
"""Bits from which on a token has the strongest colour. One bit is one step."""

STYLE = """
:root { color-scheme: light dark; --hue: 214, 40, 40; }
@media (prefers-color-scheme: dark) { :root { --hue: 235, 60, 60; } }
body { margin: 2rem auto; max-width: 52rem; padding: 0 1rem; font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th, td { padding: .1rem 1.2rem .1rem 0; text-align: left; font-weight: normal; vertical-align: top; }
th { opacity: .7; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; margin: 1.2rem 0; font-size: .85rem; }
.legend i { padding: .1rem .55rem; }
pre { font: 15px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
i { font-style: normal; border-radius: 2px; }
u { text-decoration: none; opacity: .5; }
"""


class Summary(NamedTuple):
    """What a page says above its text."""

    title: str
    model: str
    n_tokens: int  # that were predicted
    nats: float  # their losses' sum
    n_bytes: int  # of text that they stand for
    block_size: int

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values. A mean of no tokens is 0."""
        loss = self.nats / max(self.n_tokens, 1)
        bits = self.nats / math.log(2)
        T = self.block_size
        seen = f"each token is predicted from all before it, or from the last {(T + 1) // 2:,} to {T:,} tokens"
        return [
            ("model", self.model),
            ("tokens predicted", f"{self.n_tokens:,}"),
            ("mean loss", f"{loss:.4f} nats, {loss / math.log(2):.4f} bits a token"),
            ("perplexity", f"{math.exp(min(loss, 700)):,.2f}"),
            ("bits per byte", f"{bits / max(self.n_bytes, 1):.4f}"),
            ("context", seen),
        ]


def summary(
    title: str, model: str, tokenizer: Tokenizer, ids: Sequence[int], said: Predicted, block_size: int
) -> Summary:
    """Add up what was said of ids (N,) but the first."""
    n_bytes = int(token_bytes(tokenizer)[ids[1:]].sum())
    return Summary(title, model, len(said.losses), float(said.losses.sum(dtype=np.float64)), n_bytes, block_size)


def page(tokenizer: Tokenizer, ids: Sequence[int], said: Predicted, about: Summary) -> Iterator[str]:
    """Yield the page piece by piece: `said` is of all ids (N,) but the first."""
    title = html.escape(harmless(about.title))
    shades = "".join(
        f".s{step} {{ background: rgba(var(--hue), {0.75 * step / STRONGEST:.3f}) }}\n"
        for step in range(1, STRONGEST + 1)
    )
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: what surprised the model</title>\n<style>{STYLE}{shades}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<table>\n"
    )
    for name, value in about.rows():
        yield f"<tr><th>{name}</th><td>{html.escape(harmless(value))}</td></tr>\n"
    legend = "".join(f'<i class="s{step}">{step}</i>' for step in range(STRONGEST))
    yield (
        f'</table>\n<p class="legend">bits of surprise:&nbsp; {legend}'
        f'<i class="s{STRONGEST}">{STRONGEST} or more</i></p>\n'
        "<p>Rest the mouse on a token to see its loss, its probability, and what was likeliest instead.</p>\n<pre>"
    )
    label_of = functools.cache(lambda token: html.escape(label(tokenizer, token)))

    def told(place: int) -> str:
        """Return what is to be said of a token: a line of its own, one for each of the likeliest."""
        if not place:
            return "the first token: nothing to predict it from"
        loss = float(said.losses[place - 1])
        likeliest = zip(said.tokens[place - 1].tolist(), said.probabilities[place - 1].tolist(), strict=True)
        others = (f"{label_of(token)} {_percent(probability)}" for token, probability in likeliest)
        own = f"{loss / math.log(2):.2f} bits, {loss:.2f} nats, p = {_percent(math.exp(-loss))}"
        return "\n".join([own, *others])

    for text, places in whole_characters(tokenizer, ids):
        bits = sum(float(said.losses[place - 1]) for place in places if place) / math.log(2)
        step = int(min(bits, STRONGEST))
        shade = f' class="s{step}"' if step else ""
        title = "\n\n".join(map(told, places)).replace("\n", "&#10;")
        shown = html.escape(harmless(text)).replace("\n", "<u>\u21b5</u>\n")
        yield f'<i{shade} title="{title}">{shown}</i>'
    yield "</pre>\n</body>\n</html>\n"


def whole_characters(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, range]]:
    """Yield the text of ids (N,) in pieces of whole characters, each with the places of its tokens.

    That is a piece a token, but for tokens that share a character. What is not UTF-8 becomes U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    data = functools.cache(lambda token: tokenizer.decode_bytes([token]))
    text, first = "", 0
    for place, token in enumerate(ids):
        text += decoder.decode(data(token))
        if not decoder.getstate()[0]:
            yield text, range(first, place + 1)
            text, first = "", place + 1
    if first < len(ids):
        yield text + decoder.decode(b"", final=True), range(first, len(ids))


def _percent(probability: float) -> str:
    """Return a probability as a person reads it."""
    return f"{probability:.1%}" if probability >= 1e-3 else f"{100 * probability:.1g}%"
