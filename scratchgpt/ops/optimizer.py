"""Optimisers are rules that move ranges of the flat parameters. This is their contract, and the reference's rules."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


class State(NamedTuple):
    """The flat arrays that an update reads and writes, all in the order of the parameters."""

    params: Array  # (P,)
    grads: Array  # (P,)
    slots: Mapping[str, Array]  # (P,) each: what a rule keeps from one update to the next, such as a mean
    rounded: Array | None = None  # (n,): the first n parameters in the type that matrices are multiplied in


class Update(NamedTuple):
    """Values that every rule needs for one update. `Group.settings` holds the rest."""

    learning_rate: float
    scale: float  # of the gradients: it clips them, and undoes the loss scale
    number: int  # counts from 1


class Rule(Protocol):
    """Moves some parameters by their gradients."""

    def __call__(self, state: State, span: slice, settings: Any, update: Update) -> None:
        """Scale the gradients, move the parameters of `span`, renew their rounded copy, and zero the gradients.

        `span` is a range of the flat arrays. `settings` is the rule's own record.
        """


def by_adamw(state: State, span: slice, settings: adamw.Settings, update: Update) -> None:
    """Move the parameters of `span` by AdamW."""
    grads = state.grads[span]
    grads *= update.scale
    moments = adamw.Moments(*(state.slots[name][span] for name in adamw.Moments._fields))
    adamw.update(
        state.params[span],
        grads,
        moments,
        settings,
        learning_rate=update.learning_rate,
        update_number=update.number,
    )
    grads.fill(0)


RULES: dict[str, Rule] = {"adamw": by_adamw}
SLOTS: dict[str, tuple[str, ...]] = {"adamw": adamw.Moments._fields}
"""The slots of each rule: names of the arrays that it keeps, as in files."""
