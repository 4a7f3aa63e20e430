"""Groups: every trained parameter is moved by one rule, and by its own settings."""

import itertools

import numpy as np
import pytest

from scratchgpt.config import ModelConfig
from scratchgpt.model.groups import OPTIMIZERS, Group, apply, groups, new_slots, overlaps, slot_names, within
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Settings
from scratchgpt.ops.optimizer import RULES, State, Update
from tests.engine.steps import recipe

LAYOUT = Layout(ModelConfig(vocab_size=11, block_size=5, n_layer=2, n_head=1, n_embd=6))


@pytest.mark.parametrize("freeze", [(), ("transformer.wte.*", "transformer.h.0.*"), ("*.bias",)])
def test_each_trained_parameter_is_in_one_group(freeze: tuple[str, ...]) -> None:
    found = np.zeros(LAYOUT.size, int)
    for group in groups(LAYOUT, recipe(1, freeze=freeze)):
        found[group.span] += 1
    frozen = LAYOUT.named(freeze)
    for name, counts in LAYOUT.views(found).items():
        assert (counts == (0 if name in frozen else 1)).all()


def test_matrices_decay_and_vectors_do_not() -> None:
    train = recipe(1, beta1=0.5, beta2=0.75, weight_decay=0.25, adam_epsilon=1e-3)
    decays = np.full(LAYOUT.size, np.nan)
    for group in groups(LAYOUT, train):
        assert group.rule == "adamw"
        assert group.settings == Settings(0.5, 0.75, group.settings.weight_decay, 1e-3)
        decays[group.span] = group.settings.weight_decay
    for values in LAYOUT.views(decays).values():
        assert (values == (0.25 if values.ndim > 1 else 0)).all()


def test_slots_are_zeros_by_name() -> None:
    train = recipe(1, freeze=["transformer.w?e.*", "*weight"])  # no matrix is trained
    assert slot_names(LAYOUT, train) == ("first", "second")
    slots = new_slots(LAYOUT, train)
    assert list(slots) == ["first", "second"]
    for values in slots.values():
        assert values.shape == (LAYOUT.size,)
        assert values.dtype == np.float32
        assert not values.any()
    assert not np.shares_memory(slots["first"], slots["second"])


def test_parts_of_the_groups_move_what_the_whole_would() -> None:
    train = recipe(1)
    rng = np.random.default_rng(0)
    given = rng.normal(size=LAYOUT.size), rng.normal(size=LAYOUT.size)
    results = []
    borders = [0, 7, 100, LAYOUT.n_decayed + 3, LAYOUT.size]
    parts = [slice(*pair) for pair in itertools.pairwise(borders)]
    for ranges in ([slice(0, LAYOUT.size)], parts):
        params, grads = (array.copy() for array in given)
        state = State(params, grads, new_slots(LAYOUT, train))
        apply(RULES, within(groups(LAYOUT, train), ranges), state, Update(0.1, 1.0, 1))
        assert not grads.any()
        results.append(params)
    assert np.array_equal(results[0], results[1])
    assert (results[0] != given[0]).all()


def test_a_whole_group_is_not_cut() -> None:
    whole = Group(slice(4, 9), "adamw", Settings(), is_whole=True)
    parts = [[slice(0, 3), slice(6, 7)], [slice(3, 6)], [slice(7, 20)]]
    assert [within([whole], ranges) for ranges in parts] == [[], [whole], []]


def test_a_whole_group_is_trained_or_frozen_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Group(slice(0, LAYOUT.size), "adamw", Settings(), is_whole=True)
    monkeypatch.setitem(OPTIMIZERS, "adamw", lambda *_: [everything])
    assert groups(LAYOUT, recipe(1)) == [everything]
    with pytest.raises(ValueError, match="a part of the whole group"):
        groups(LAYOUT, recipe(1, freeze=["*.bias"]))


def test_overlaps() -> None:
    assert overlaps([slice(0, 5), slice(8, 9)], [slice(3, 4), slice(4, 10)]) == [slice(3, 4), slice(4, 5), slice(8, 9)]
    assert overlaps([slice(0, 5)], [slice(5, 6)]) == []
