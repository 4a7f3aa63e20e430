"""Groups: which rule moves which parameters, with what settings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from scratchgpt.config import TrainConfig
from scratchgpt.model.params import Layout
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import SLOTS, Rule, State, Update


class Group(NamedTuple):
    """A range of the flat array that one rule moves."""

    span: slice
    rule: str  # a name in the rules of each backend
    settings: Any  # the rule's own record
    is_whole: bool = False  # whether the rule needs the whole span, such as a matrix: no workers share it


def _adamw(layout: Layout, train: TrainConfig) -> list[Group]:
    """Matrices decay; gains and biases do not."""
    settings = adamw.Settings(train.beta1, train.beta2, train.weight_decay, train.adam_epsilon)
    return [
        Group(slice(0, layout.n_decayed), "adamw", settings),
        Group(slice(layout.n_decayed, layout.size), "adamw", settings._replace(weight_decay=0.0)),
    ]


OPTIMIZERS: dict[str, Callable[[Layout, TrainConfig], list[Group]]] = {"adamw": _adamw}


def groups(layout: Layout, train: TrainConfig) -> list[Group]:
    """Return the groups of all that is trained. Raises UsageError as `Layout.named` does.

    Raises ValueError if a part of a whole group is frozen: such a group should be one parameter.
    """
    trained, _ = layout.divide(train.freeze)
    found = OPTIMIZERS[train.optimizer](layout, train)
    for group in found:
        if group.is_whole and overlaps([group.span], trained) not in ([], [group.span]):
            raise ValueError(f"a part of the whole group {group} is frozen")
    return within(found, trained)


def within(those: Iterable[Group], ranges: Sequence[slice]) -> list[Group]:
    """Return the groups, cut to what lies in one of these ranges. A whole one belongs to the range where it begins."""
    found = []
    for group in those:
        for part in overlaps([group.span], ranges):
            if not group.is_whole:
                found.append(group._replace(span=part))
            elif part.start == group.span.start:
                found.append(group)
    return found


def overlaps(some: Sequence[slice], others: Sequence[slice]) -> list[slice]:
    """Return the ranges that lie both in one of `some` and in one of `others`."""
    pairs = ((max(a.start, b.start), min(a.stop, b.stop)) for a in some for b in others)
    return [slice(start, stop) for start, stop in pairs if start < stop]


def slot_names(layout: Layout, train: TrainConfig) -> tuple[str, ...]:
    """Return the names of all that the rules keep, whatever is frozen."""
    rules = [group.rule for group in OPTIMIZERS[train.optimizer](layout, train)]
    return tuple(dict.fromkeys(name for rule in rules for name in SLOTS[rule]))


def new_slots(layout: Layout, train: TrainConfig) -> dict[str, Array]:
    """Return what the rules keep before the first update: zeros (P,) each, NumPy arrays in float32."""
    return {name: np.zeros(layout.size, np.float32) for name in slot_names(layout, train)}


def apply(rules: Mapping[str, Rule], those: Iterable[Group], state: State, update: Update) -> None:
    """Move every group by its rule."""
    for group in those:
        rules[group.rule](state, group.span, group.settings, update)
