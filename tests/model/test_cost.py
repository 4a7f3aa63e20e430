"""Operations of a model, against sums that are written out."""

import dataclasses

import pytest

from scratchgpt.config import ModelConfig
from scratchgpt.model import cost
from scratchgpt.model.params import Layout

V, T, L, C, K = 11, 8, 3, 16, 37
CONFIG = ModelConfig(vocab_size=V, block_size=T, n_layer=L, n_head=2, n_embd=C, n_inner=K)


def test_numbers_that_a_token_is_multiplied_with() -> None:
    matrices, vectors = 4 * C * C + 2 * C * K, 2 * C + 4 * C + 2 * C + K + C
    assert cost.n_multiplied(CONFIG) == L * (matrices + vectors) + 2 * C + V * C
    assert cost.n_multiplied(CONFIG) == Layout(CONFIG).size - T * C
    untied = dataclasses.replace(CONFIG, tie_word_embeddings=False, head_bias=True)
    assert cost.n_multiplied(untied) == cost.n_multiplied(CONFIG) + V


def test_operations_of_a_step() -> None:
    per_token = 6 * cost.n_multiplied(CONFIG) + 12 * L * C * T
    assert cost.training_flops(CONFIG, 5) == 5 * per_token


@pytest.mark.parametrize("n_layer", [1, 3, 12])
def test_operations_of_a_layer(n_layer: int) -> None:
    config = dataclasses.replace(CONFIG, n_layer=n_layer)
    assert cost.layer_flops(config) == 6 * (4 * C * C + 2 * C * K) + 12 * C * T
    usual = dataclasses.replace(config, n_inner=0, bias=False)
    assert cost.layer_flops(usual) == 72 * C * C + 12 * C * T
