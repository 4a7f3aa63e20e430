"""How many cores a model's products are worth."""

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

from scratchgpt.model.gpt import GPT

SMALL = 2_000_000
"""Parameters below which a product is done before a second core has begun: sharing it gains nothing, and where other
programs keep that core busy, BLAS waits for it a hundred times as long as the product takes."""


def suitable_threads(model: GPT) -> AbstractContextManager[object]:
    """Let BLAS use one thread for a small model, as many as it likes for others, until the context is left."""
    return threadpool_limits(1 if model.layout.size < SMALL else None, user_api="blas")
