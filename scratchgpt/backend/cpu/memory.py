"""How much memory a lane takes on a CPU, by counting the buffers that its sublayers draw."""

from scratchgpt.backend.cpu import attention, exchange
from scratchgpt.config import ModelConfig

NUMBER = 4
"""Bytes."""


def activation_bytes(model: ModelConfig, n_tokens: int, n_lanes: int) -> int:
    """Return the bytes of buffers of one of `n_lanes` lanes that computes so many tokens at once, within some percent.

    Of each token, a layer keeps xhat, normed, qkv and heads, then xhat, normed, active and slope. Everything works on
    the residual stream, the head's three arrays, and the gradients on the way back: of the MLP's inside and of qkv, two
    of a branch, keys and values, and what a norm needs. Dropout keeps masks besides. Of attention's probabilities,
    there are those up to the end of each block of queries.
    """
    C, H, T, K, qkv = model.n_embd, model.n_head, model.block_size, model.inner_size, model.qkv_size
    probabilities = H * (T + min(T, attention.ROWS)) // 2
    kept = (C + C + qkv + C) + probabilities + (C + C + K + K)
    working = C + (C + C + C) + (K + qkv) + (C + C) + (C + C) + C
    if model.dropout:
        mask = C + C // NUMBER
        kept += probabilities + H * T // NUMBER + 2 * mask
        working += C + mask
    rows = min(exchange.ROWS, n_lanes * n_tokens)
    chunk = 4 * exchange.ROWS * C + rows * (C + model.vocab_size // n_lanes)
    return NUMBER * (n_tokens * (model.n_layer * kept + working) + chunk)
