"""How much memory training takes on a GPU, by counting what the sublayers keep."""

from scratchgpt.config import ModelConfig

LOGIT_BYTES = 2**26
"""Of logits that exist at once: rows enough to keep a GPU busy with their products."""

WIDE = 4
"""Bytes of a number of the residual stream, and of a parameter."""


def state_bytes(n_parameters: int, *, is_half: bool) -> int:
    """Return the bytes of parameters, gradients and two moments; in half precision of a copy, too."""
    return n_parameters * (4 * WIDE + (2 if is_half else 0))


def activation_bytes(model: ModelConfig, n_tokens: int, *, is_half: bool, is_fused: bool = True) -> int:
    """Return the bytes of what exists at once, at most, while so many tokens are computed.

    Each layer keeps xhat and qkv, heads, xhat and hidden (1 + 3 + 1 + 1 + 4 rows of C), and without fused attention
    the probabilities. On top are the residual stream, its gradient, and what the backward of one MLP works on.
    """
    C, H, T, size = model.n_embd, model.n_head, model.block_size, 2 if is_half else WIDE
    probabilities = 0 if is_fused else H * T * size
    kept = model.n_layer * (10 * C * size + probabilities + (2 + H) * WIDE)
    working = 11 * C * size + 2 * C * WIDE + 3 * probabilities
    return n_tokens * (kept + working) + LOGIT_BYTES
