"""What the browser remembers of the page: over a reload, a lost connection and a restart of the server.

Fields are kept by keys in the browser's storage (page.js). A window reads its own values first, then those that the
last window has left, so two windows do not change each other's fields. What is stored may come from another program
that used the same address: a value that does not fit its field is dropped.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nicegui import ui
from nicegui.elements.choice_element import ChoiceElement
from nicegui.elements.mixins.value_element import ValueElement

LONGEST = 1000
"""Characters of a field, unless it says otherwise."""
RECALL_SECONDS = 10.0
"""Seconds for which the browser may look into its storage."""


class Memory:
    """What one window remembers."""

    def __init__(self) -> None:
        """Begin with nothing; `recall` learns the rest when the browser is connected."""
        self._values: dict[str, Any] = {}
        self._fields: dict[str, tuple[Any, int]] = {}  # and the longest text that it may have
        self.is_recalled = self._is_restoring = False

    def keep(self, key: str, field: Any, *, longest: int = LONGEST) -> None:
        """Give a field its value of the last time, and have the browser remember what a person makes of it."""
        self._fields[key] = field, longest
        if isinstance(field, ChoiceElement):
            field.on(f"update:{field.VALUE_PROP}", lambda: self.put(key, field.value), [])
        else:  # at once, even while there is no connection
            field.on(f"update:{field.VALUE_PROP}", js_handler=f"value => remember({json.dumps(key)}, value)")
        if self.is_recalled:
            self._restore(key)

    def set(self, values: Mapping[str, Any]) -> None:
        """Give kept fields values that follow from what a person did, and remember them; those that fit."""
        fitting = {
            key: value for key, value in values.items() if _fits(self._fields[key][0], value, self._fields[key][1])
        }
        for key, value in fitting.items():
            self._fields[key][0].value = value
        self._remember(fitting)

    def offer(self, key: str, options: Iterable[Any] | Mapping[Any, str]) -> None:
        """Offer choices in a kept field: what is chosen stays, else what is remembered, else the first is chosen."""
        field: Any = self._fields[key][0]
        offered = options if isinstance(options, dict) else list(options)
        if _is_open(field) and field.value not in (None, *offered):
            offered = [field.value, *offered]
        wanted = [field.value, self._values.get(key), *offered]
        field.set_options(offered, value=next((each for each in wanted if _is_one_of(each, offered)), None))

    def put(self, key: str, value: Any) -> None:
        """Remember a value."""
        self._remember({key: value})

    def _remember(self, values: Mapping[str, Any]) -> None:
        if values and not self._is_restoring:
            self._values |= values
            ui.run_javascript(f"for (const [k, v] of Object.entries({json.dumps(values)})) remember(k, v)")

    def put_first(self, key: str, item: Any, *, most: int) -> None:
        """Remember an item at the beginning of a list that all windows share."""
        ui.run_javascript(f"rememberFirst({json.dumps(key)}, {json.dumps(item)}, {most})")

    def keep_shown(self, key: str, label: ui.label) -> None:
        """Have the browser remember what a label shows when the page goes, if that has changed."""
        ui.run_javascript(f"keepShown({json.dumps(key)}, {label.id})")

    def get(self, key: str, kind: type, *, longest: int = LONGEST) -> Any:
        """Return a remembered value, None if there is none of this kind and length."""
        value = self._values.get(key)
        return value if isinstance(value, kind) and (not isinstance(value, str) or _is_text(value, longest)) else None

    async def recall(self) -> None:
        """Ask the browser what it remembers, once, and fill the fields."""
        if self.is_recalled:
            return
        with contextlib.suppress(TimeoutError):
            values = await ui.run_javascript("recall()", timeout=RECALL_SECONDS)
            self._values |= values if isinstance(values, dict) else {}
        self.is_recalled = True
        for key in self._fields:
            self._restore(key)

    def _restore(self, key: str) -> None:
        field, longest = self._fields[key]
        with self._restoring():
            # A disabled field has a value that follows from another choice.
            if key in self._values and field.enabled and _fits(field, self._values[key], longest):
                value = self._values[key]
                if _is_open(field) and value not in field.options:
                    field.set_options([value, *field.options])
                field.value = _number(value) if isinstance(field, ui.number) else value

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        """Remember nothing that only follows from what is restored."""
        self._is_restoring = True
        try:
            yield
        finally:
            self._is_restoring = False


def _fits(field: ValueElement[Any], value: Any, longest: int) -> bool:
    """Whether a field can have a value, whoever stored it."""
    match field:
        case ChoiceElement() if _is_open(field):
            return _is_text(value, longest)
        case ChoiceElement():
            return _is_one_of(value, field.options)
        case ui.checkbox():
            return isinstance(value, bool)
        case ui.number():
            return _is_number(value)
        case _:
            return _is_text(value, longest)


def _is_open(field: Any) -> bool:
    """Whether a person may type another value than those that are offered."""
    return "new-value-mode" in field.props


def _is_one_of(value: Any, options: Any) -> bool:
    return type(value) in (str, int) and value in options


def _is_text(value: Any, longest: int) -> bool:
    try:
        return isinstance(value, str) and len(value) <= longest and value.encode("utf-8") is not None
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def _is_number(value: Any) -> bool:
    """Whether this is a number, or none, as a browser's field has it."""
    try:
        return value is None or (type(value) in (str, int, float) and math.isfinite(_number(value) or 0))
    except (ValueError, OverflowError):
        return False


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)
