"""Messages between worker 0 and the others: records of numbers. In a pipe, each is a line of JSON."""

import json
from typing import NamedTuple

from scratchgpt.engine.plan import Plan
from scratchgpt.model.gpt import Score
from scratchgpt.ops.optimizer import Update


class Setup(NamedTuple):
    """The first message to a process: all that it needs to know."""

    model: dict[str, object]  # the fields of ModelConfig
    train: dict[str, object]  # the fields of TrainConfig
    plan: Plan
    number: int  # of the worker
    descriptor: int  # of the shared memory


class Accumulate(NamedTuple):
    """Run forward and backward over the batch that lies in shared memory. The answer is a `Value`, the loss."""

    B: int
    T: int
    seed: int
    step: int
    n_targets: int  # that count in the batch
    is_weighed: bool  # whether weights of the losses lie there, too


class Reduce(NamedTuple):
    """Sum the gradients of all workers. The answer is `Done`."""


class Norm(NamedTuple):
    """Measure the reduced gradients. The answer is a `Value`, the sum of squares."""


class Measure(NamedTuple):
    """Measure the batch that lies in shared memory, without learning. The answer is a `Score`."""

    B: int
    T: int


class Value(NamedTuple):
    """A worker's part of a sum."""

    value: float


class Done(NamedTuple):
    """The answer to a request without a result."""


class Failed(NamedTuple):
    """The answer if memory has run out."""

    reason: str


class Barrier(NamedTuple):
    """A worker waits for the others in the middle of a request; or, as an answer to that: all are here."""


Request = Plan | Accumulate | Reduce | Norm | Update | Measure
Answer = Value | Score | Done | Failed
Message = Setup | Request | Answer | Barrier

TYPES: dict[str, type[tuple[object, ...]]] = {
    each.__name__: each
    for each in (Setup, Plan, Accumulate, Reduce, Norm, Update, Measure, Value, Score, Done, Failed, Barrier)
}


def encode(message: Message) -> str:
    """Return a message as JSON."""
    return json.dumps(_plain(message))


def decode(line: str) -> Message:
    """Return the message that `encode` wrote."""
    message: Message = json.loads(line, object_hook=_record)
    return message


def _plain(value: object) -> object:
    """Return a record as {name: fields}, and any other value as it is."""
    if isinstance(value, tuple) and type(value).__name__ in TYPES:
        return {type(value).__name__: [_plain(field) for field in value]}
    return value


def _record(found: dict[str, object]) -> object:
    """Undo `_plain`."""
    for name, fields in found.items():
        if name in TYPES and isinstance(fields, list):
            return TYPES[name](*fields)
    return found
