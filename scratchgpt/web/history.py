"""The log of a run as curves: read as it grows, thinned to what a picture shows. All who watch a run share it."""

import dataclasses
import math
import threading
import time
from array import array
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import DataError, ScratchGPTError
from scratchgpt.training import logs, runs
from scratchgpt.training.curves import Curve, outline, smoothed, sparse, tokens_of
from scratchgpt.training.journal import Journal
from scratchgpt.training.runs import State

NAN = math.nan
COLUMNS = ("loss", "lr", "grad_norm", "tokens_per_s", "step_ms", "tokens", "memory")
NOISY = ("loss", "grad_norm", "tokens_per_s")
"""Of these the means are drawn, too."""
LARGE, SMALL = 500, 120
"""Stretches into which a curve is divided that is drawn large, and small."""
SMOOTHED_PART = 50
"""Means are taken over one part in so many of a run."""
NOTICEABLE = 200
"""A curve is drawn anew when it has become longer by one part in so many."""

Points = npt.NDArray[np.float32]
"""(N, 2): steps and values, NaN for none. As an array they are written for a page in a tenth of a list's time."""
Axis = Literal["step", "tokens", "time"]
"""What curves are drawn over; time is that of training steps alone, in seconds."""
Span = tuple[float, float]
"""From one place on an axis to another."""
ALL: Span = (-math.inf, math.inf)


@dataclasses.dataclass
class _Numbers:
    """What a log has said so far."""

    steps: "array[float]" = dataclasses.field(default_factory=lambda: array("d"))
    columns: "dict[str, array[float]]" = dataclasses.field(
        default_factory=lambda: {name: array("d") for name in COLUMNS}
    )
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    drawn: dict[tuple[str, Axis, int], Points] = dataclasses.field(default_factory=dict)
    n_drawn: tuple[int, int] = (0, 0)  # steps and evaluations, then

    def take_in(self, rows: list[logs.Row | None]) -> None:
        """Add rows."""
        steps = [row for row in rows if row and "loss" in row]
        self.steps.extend(row["step"] for row in steps)
        for name in COLUMNS[:-2]:
            self.columns[name].extend([NAN if (value := row.get(name)) is None else value for row in steps])
        self.columns["tokens"].extend([row.get("tokens") or tokens_of(row) for row in steps])
        self.columns["memory"].extend([row.get("device_mb") or row.get("resident_mb") or NAN for row in steps])
        evaluations = (row for row in rows if row and row.get("val_loss") is not None and not row.get("val_whole"))
        self.validation.extend((row["step"], row["val_loss"]) for row in evaluations)

    def looks_different(self) -> bool:
        """Return whether there is so much more than was drawn that one would see it."""
        n_steps, n_evaluations = self.n_drawn
        return len(self.steps) > n_steps * (1 + 1 / NOTICEABLE) or len(self.validation) > n_evaluations

    def places(self, axis: Axis) -> npt.NDArray[np.float64]:
        """Return where on an axis each step is."""
        if axis == "step":
            return np.array(self.steps)
        each = np.array(self.columns["tokens"] if axis == "tokens" else self.columns["step_ms"])
        return np.cumsum(np.nan_to_num(each)) / (1 if axis == "tokens" else 1e3)

    @np.errstate(over="ignore")  # in float32, larger numbers are infinite, and not drawn
    def thinned(self, column: str, axis: Axis, smoothing: int, span: Span) -> Points:
        """Return a curve as it is drawn: its part within `span`, and those before and behind, each thinned."""
        x = self.places(axis)
        if column == "validation":
            steps, losses = np.array(self.validation, np.float64).reshape(-1, 2).T
            if axis != "step":  # where the last step before it ended
                steps = np.append(0.0, x)[np.searchsorted(np.array(self.steps), steps, side="right")]
            return np.stack([steps, losses], axis=1).astype(np.float32)
        stretches = LARGE if column.endswith("loss") else SMALL
        curve = Curve(x, np.array(self.columns[column.removeprefix("mean ")]))
        thin = outline if column in NOISY else sparse
        if column.startswith("mean "):
            curve = smoothed(curve, max(1, len(curve.x) // smoothing))
        low, high = np.searchsorted(curve.x, span)
        parts = [Curve(curve.x[part], curve.y[part]) for part in (slice(low), slice(low, high), slice(high, None))]
        return np.concatenate([np.stack(thin(part, stretches), axis=1) for part in parts]).astype(np.float32)


class History:
    """The numbers of one run."""

    def __init__(self, run: Path) -> None:
        """Begin with nothing read."""
        self.run = run
        self.version = 0  # changes when the curves look different
        self.settings: dict[str, Any] = {}  # of its model and its recipe, as far as it says them
        self.journal = Journal()  # notes and texts
        self.state = State(is_alive=False, word="stopped")
        self.read_at = -math.inf  # when all of it was read, by the monotonic clock
        self._reading = threading.Lock()  # held while the log is read, which may take seconds
        self._lock = threading.Lock()  # held while the numbers change, so a page waits for milliseconds at most
        self._log = logs.Follower(run)
        self._numbers = _Numbers()

    def refresh(self) -> None:
        """Read what has been added since the last time. Raises DataError if the run is gone."""
        with self._reading:
            try:
                is_other = self._log.is_other()
            except DataError:
                self._begin_anew({})
                raise
            if is_other:
                self._begin_anew(_settings(self.run))
            numbers = self._numbers
            for rows in self._log.rows():
                with self._lock:
                    numbers.take_in(rows)
                for row in rows:
                    if row and ("event" in row or "val_loss" in row) and (event := logs.event(row)):
                        self.journal.see(event)
            is_complete = 0 < self.steps <= self.step
            self.state = runs.state(self.run, self.journal.condition, is_complete=is_complete)
            self.read_at = time.monotonic()
            with self._lock:
                if numbers.looks_different():
                    numbers.n_drawn, numbers.drawn = (len(numbers.steps), len(numbers.validation)), {}
                    self.version += 1

    def _begin_anew(self, settings: dict[str, Any]) -> None:
        with self._lock:
            self._numbers, self.journal = _Numbers(), Journal()
        self.settings = settings
        self.read_at = -math.inf
        self.version += 1

    @property
    def step(self) -> int:
        """Return the last step that is logged."""
        return int(self._numbers.steps[-1]) if self._numbers.steps else 0

    @property
    def steps(self) -> int:
        """Return how many steps the run is to make, 0 if it does not say so."""
        steps = self.settings.get("steps")
        return steps if isinstance(steps, int) else 0

    def width(self, axis: Axis) -> float:
        """Return where on an axis the run is now."""
        with self._lock:
            places = self._numbers.places(axis)
        return float(places[-1]) if len(places) else 0.0

    def last(self, column: str) -> float:
        """Return the last number of a column, NaN if there is none."""
        column_so_far = self._numbers.columns[column]
        return column_so_far[-1] if column_so_far else np.nan

    @property
    def last_validation(self) -> float:
        """Return the last loss over the validation windows, NaN if there is none."""
        return self._numbers.validation[-1][1] if self._numbers.validation else np.nan

    @property
    def best_validation(self) -> tuple[int, float]:
        """Return the lowest loss over the validation windows and its step, NaN if there is none."""
        return min(self._numbers.validation, key=lambda at: at[1], default=(0, np.nan))

    def points(self, column: str, span: Span = ALL, *, axis: Axis = "step", smoothing: int = SMOOTHED_PART) -> Points:
        """Return a curve as it is drawn: a column, its running mean as "mean loss", or "validation".

        `span` is what the picture shows of `axis`. Means are taken over one part in `smoothing` of the run.
        """
        with self._lock:
            drawn, key = self._numbers.drawn, (column, axis, smoothing)
            if span != ALL:
                return self._numbers.thinned(*key, span)
            if key not in drawn:
                drawn[key] = self._numbers.thinned(*key, ALL)
            return drawn[key]


def _settings(run: Path) -> dict[str, Any]:
    """Return the settings of a run's model and recipe, nothing if it does not say them."""
    try:
        about = runs.description(run)
        return {**about["model"], **about["train"]}
    except (ScratchGPTError, KeyError, TypeError):
        return {}
