"""Messages between workers: what arrives is what was sent, floats to the last bit."""

import math

import pytest

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.messages import (
    TYPES,
    Accumulate,
    Barrier,
    Done,
    Failed,
    Measure,
    Message,
    Norm,
    Reduce,
    Setup,
    Value,
    decode,
    encode,
)
from scratchgpt.engine.plan import Plan
from scratchgpt.model.gpt import Score
from scratchgpt.ops.optimizer import Update

MODEL = ModelConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8, dropout=0.1)
TRAIN = TrainConfig(steps=9, batch_size=3, learning_rate=1e-3 / 3)
PLAN = Plan(3, 2, block_bytes=2**17)
MESSAGES: list[Message] = [
    Setup(vars(MODEL), vars(TRAIN) | {"freeze": ["transformer.h.0.*", "Plan"]}, PLAN, 2, 7),
    PLAN,
    Accumulate(4, 9, 2**63 - 1, 10, 35, is_weighed=True),
    Reduce(),
    Norm(),
    Update(1e-3 / 3, 0.1, 3),
    Measure(1, 2),
    Value(0.1 + 0.2),
    Score(1 / 3, 4, 5),
    Done(),
    Failed('no room for "4 TiB"\n'),
    Barrier(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_as_they_were_sent(message: Message) -> None:
    line = encode(message)
    assert "\n" not in line
    arrived = decode(line)
    assert arrived == message
    assert type(arrived) is type(message)


def test_a_number_that_is_none_arrives() -> None:
    arrived = decode(encode(Value(math.nan)))
    assert isinstance(arrived, Value)
    assert math.isnan(arrived.value)


def test_all_kinds_are_tried() -> None:
    assert {type(message).__name__ for message in MESSAGES} == TYPES.keys()
