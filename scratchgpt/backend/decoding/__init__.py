"""Texts that go on, in few calls: an optional entry of a table. Derivation: generation/cache.md.

In a small model the calls of a step take longer than its arithmetic, in a large one reading the weights does. So a step
is some forty calls a layer, all into buffers that were taken once. The same lines serve NumPy and CuPy.
"""

from collections.abc import Callable
from functools import partial

from scratchgpt.backend.decoding import activations, norms
from scratchgpt.backend.decoding.rows import Chunk, Shared, StepRows
from scratchgpt.config import ModelConfig
from scratchgpt.ops.array import Array
from scratchgpt.ops.cache import Span
from scratchgpt.ops.table import Params

__all__ = ["FastDecoding", "of"]


class FastDecoding:
    """Steps and chunks of one model. Its parameters must not change meanwhile."""

    def __init__(self, params: Params, memory: Array, config: ModelConfig) -> None:
        """Use a memory (L, 2, N, H, room, D)."""
        self._shared, N = Shared(params, memory, config), memory.shape[2]
        # By the number of sequences: those for the most come first, and the others use parts of their buffers.
        self._steps = {N: StepRows(self._shared, N)}
        self._chunks: dict[int, Chunk] = {}  # by the number of positions

    def extend(self, tokens: Array, span: Span, n_last: int) -> Array:
        """Append tokens (1, T) to a sequence; return the stream (1, n_last, C), a buffer, of the last positions."""
        T = tokens.shape[1]
        if T not in self._chunks:
            self._chunks[T] = Chunk(self._shared, T)
        return self._chunks[T].extend(tokens[0], span, n_last)[None]

    def step(self, tokens: Array, span: Span) -> Array:
        """Append tokens (B,) to the first B sequences; return the logits (B, V), a buffer."""
        B = len(tokens)
        if B not in self._steps:
            self._steps[B] = StepRows(self._shared, B)
        return self._steps[B].step(tokens, span)


def of(config: ModelConfig) -> Callable[[Params, Array], FastDecoding] | None:
    """Return the fast decoding of an architecture, None if it has parts that are not known here."""
    if config.norm in norms.NORMS and config.activation in activations.ACTIVATIONS:
        return partial(FastDecoding, config=config)
    return None
