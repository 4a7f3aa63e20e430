"""The layout of the parameters on one flat array, and their initial values."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from scratchgpt.config import ModelConfig, load_preset
from scratchgpt.errors import UsageError
from scratchgpt.model.params import Layout, cropped

SMALL = ModelConfig(vocab_size=300, block_size=50, n_layer=3, n_head=4, n_embd=64)

configs = pytest.mark.parametrize(
    "config",
    [
        ModelConfig(**(vars(SMALL) | {"bias": bias, "tie_word_embeddings": tied}))
        for bias, tied in itertools.product((True, False), repeat=2)
    ],
    ids=lambda config: f"bias={config.bias},tie_word_embeddings={config.tie_word_embeddings}",
)


@pytest.mark.parametrize(
    ("preset", "data", "count"),
    [
        ("gpt2", {}, 124_439_808),  # the four models that OpenAI published
        ("gpt2-medium", {}, 354_823_168),
        ("gpt2-large", {}, 774_030_080),
        ("gpt2-xl", {}, 1_557_611_200),
        ("baby-gpt", {"vocab_size": 65}, 10_646_784 + 256 * 384),  # nanoGPT counts without positions: 10.65 M
        ("shakespeare-cpu", {"vocab_size": 65}, 795_904 + 64 * 128),  # the same: 0.80 M
    ],
)
def test_parameter_counts_are_the_published_ones(preset: str, data: dict[str, Any], count: int) -> None:
    config = ModelConfig.from_mapping({**load_preset(preset).model, **data})
    assert Layout(config).size == count


@configs
def test_views_tile_the_flat_array(config: ModelConfig) -> None:
    layout = Layout(config)
    flat = np.arange(layout.size)
    views = layout.views(flat)
    assert [view.shape for view in views.values()] == [leaf.shape for leaf in layout.leaves]
    assert all(np.shares_memory(view, flat) for view in views.values())
    assert np.array_equal(np.concatenate([view.ravel() for view in views.values()]), flat)


@configs
def test_the_decayed_range_is_the_matrices(config: ModelConfig) -> None:
    layout = Layout(config)
    is_decayed = np.arange(layout.size) < layout.n_decayed
    for view in layout.views(is_decayed).values():
        assert (view == (view.ndim > 1)).all()


@configs
def test_biases_and_a_head_of_its_own_are_there_if_asked_for(config: ModelConfig) -> None:
    layout = Layout(config)
    names = [leaf.name for leaf in layout.leaves]
    assert any(name.endswith(".bias") for name in names) == config.bias
    assert "lm_head.bias" not in names
    assert "lm_head.bias" in Layout(dataclasses.replace(config, head_bias=True)).views(np.zeros(layout.size + 300))
    assert ("lm_head.weight" in names) == (not config.tie_word_embeddings)
    tree = layout.tree(np.zeros(layout.size))
    assert np.shares_memory(tree.embed.token_table, tree.head.weight) == config.tie_word_embeddings


@configs
def test_initial_values(config: ModelConfig) -> None:
    layout = Layout(config)
    for name, values in layout.views(layout.initial(seed=1)).items():
        if values.ndim == 1:
            assert (values == (0 if name.endswith(".bias") else 1)).all(), name
        else:
            std = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02
            # Five standard errors of each estimate.
            assert abs(values.mean()) <= 5 * std / math.sqrt(values.size), name
            assert abs(values.std() - std) <= 5 * std / math.sqrt(2 * values.size), name


def test_initial_values_follow_from_the_seed() -> None:
    layout = Layout(SMALL)
    first = layout.initial(seed=1)
    assert first.dtype == np.float32
    assert np.array_equal(first, layout.initial(seed=1))
    assert np.array_equal(first, layout.initial(seed=1, dtype=np.float64).astype(np.float32))
    matrices = first[: layout.n_decayed]
    assert abs(np.corrcoef(matrices, layout.initial(seed=2)[: layout.n_decayed])[0, 1]) <= 5 / math.sqrt(matrices.size)


@configs
def test_what_is_frozen_and_what_is_trained_tile_the_flat_array(config: ModelConfig) -> None:
    layout = Layout(config)
    trained, frozen = layout.divide(["transformer.h.1.*", "*.wpe.weight"])
    is_frozen = np.full(layout.size, 2)
    for value, ranges in enumerate((trained, frozen)):
        for part in ranges:
            assert (is_frozen[part] == 2).all()
            is_frozen[part] = value
    for name, view in layout.views(is_frozen).items():
        assert (view == (".h.1." in name or "wpe" in name)).all(), name
    assert layout.divide([]) == ([slice(0, layout.size)], [])


def test_patterns_that_freeze_nothing_or_all_are_refused() -> None:
    with pytest.raises(UsageError, match=r"No tensor is named 'transformer\.wte' \(did you mean"):
        Layout(SMALL).divide(["*.wpe.weight", "transformer.wte"])
    with pytest.raises(UsageError, match="nothing to train"):
        Layout(SMALL).divide(["transformer.*"])


@configs
def test_a_cropped_model_is_the_same_but_for_later_positions(config: ModelConfig) -> None:
    params = Layout(config).initial(1)
    shorter = ModelConfig(**vars(config) | {"block_size": 9})
    before, after = Layout(config).views(params), Layout(shorter).views(cropped(config, params, 9))
    for name, view in after.items():
        assert np.array_equal(view, before[name][:9] if "wpe" in name else before[name])
