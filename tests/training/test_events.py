"""Events as JSON, and back."""

import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.errors import DataError
from scratchgpt.training.events import KINDS, Event, Noted, StepDone, from_json, to_json

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path)


def events(record: type[Event]) -> st.SearchStrategy[Event]:
    """Return what makes events of one kind."""
    kinds = typing.get_type_hints(record).items()
    return st.builds(record, **{name: PATHS if kind is Path else st.from_type(kind) for name, kind in kinds})


def same(one: Event, other: Event) -> bool:
    """Tell whether two events are equal, not-a-numbers included."""
    return type(one) is type(other) and all(
        here == there or (here != here and there != there)  # noqa: PLR0124 - a NaN
        for here, there in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_every_event_has_a_name() -> None:
    assert set(KINDS.values()) == set(typing.get_args(Event))


@pytest.mark.parametrize("kind", KINDS)
def test_events_come_back_from_json(kind: str) -> None:
    @given(events(KINDS[kind]))
    def check(event: Event) -> None:
        content = json.loads(json.dumps(to_json(event), allow_nan=False))
        assert content["event"] == kind
        assert same(from_json(content), event)

    check()


def test_numbers_that_json_does_not_have_are_strings() -> None:
    step = StepDone(1, math.nan, math.inf, -math.inf, 0.1, 8)
    content = to_json(step)
    assert (content["loss"], content["learning_rate"], content["grad_norm"]) == ("NaN", "Infinity", "-Infinity")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "no event None"),
        ({"event": "stpe"}, "no event 'stpe'"),
        ({"event": ["step"]}, "no event"),
        ({"event": "note", "message": "x", "colour": "red"}, "no field 'colour'"),
        ({"event": "note"}, "lacks a field"),
        ({"event": "note", "message": 3}, "'message' of the event 'note' cannot be 3"),
        ({"event": "saved", "step": True, "folder": "x"}, "'step' of the event 'saved' cannot be True"),
        ({"event": "saved", "step": 1, "folder": None}, "'folder'"),
    ],
)
def test_what_is_no_event_is_an_error(content: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        from_json(content)


def test_defaults_need_not_be_said() -> None:
    step = {"event": "step", "step": 1, "loss": 2, "learning_rate": 1e-3, "grad_norm": 1.0, "seconds": 0.1}
    assert from_json(step | {"n_tokens": 8}) == StepDone(1, 2.0, 1e-3, 1.0, 0.1, 8)
    assert from_json({"event": "note", "message": "x"}) == Noted("x")
