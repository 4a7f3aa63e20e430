"""The cost of a model in floating-point operations, from the shapes of its parameters.

A product of a row and a matrix takes two operations for each number of the matrix, forward. The backward has two
products of the same size, so that training takes six. Each backend counts the memory of its own sublayers
(backend/cpu/memory.py, backend/gpu/memory.py), since each keeps other arrays.
"""

from scratchgpt.config import ModelConfig
from scratchgpt.model.params import LAYERS, POSITION_TABLE, TOKEN_TABLE, Layout

TRAINING = 6
"""Operations of a token, forward and backward, for each number that it is multiplied with."""


def n_multiplied(config: ModelConfig) -> int:
    """Return how many parameters each token is multiplied with or added to: all but the tables that are looked up.

    A tied head is a product with the token table.
    """
    looked_up = {POSITION_TABLE} if config.tie_word_embeddings else {POSITION_TABLE, TOKEN_TABLE}
    return sum(leaf.size for leaf in Layout(config).leaves if leaf.name not in looked_up)


def training_flops(config: ModelConfig, n_tokens: int) -> int:
    """Return the operations in the matrix products of a training step: 6 · n_multiplied and attention, for each token.

    Attention counts all T positions. Code that skips masked positions needs fewer operations.
    """
    return n_tokens * (TRAINING * n_multiplied(config) + config.n_layer * _attention_flops(config))


def layer_flops(config: ModelConfig) -> int:
    """Return the operations in the matrix products of one layer, forward and backward, for each token."""
    matrices = (leaf for leaf in Layout(config).leaves if leaf.name.startswith(f"{LAYERS}.0.") and len(leaf.shape) > 1)
    return TRAINING * sum(leaf.size for leaf in matrices) + _attention_flops(config)


def _attention_flops(config: ModelConfig) -> int:
    """Return the operations of one layer's attention for each token: its products with T keys and with T values."""
    return TRAINING * 2 * config.block_size * config.n_head * config.head_size
