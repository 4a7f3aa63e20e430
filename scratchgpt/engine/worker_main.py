"""A worker's process: answers the requests on standard input on standard output, until its input ends."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.messages import Message, Setup, decode, encode
from scratchgpt.engine.shared import SharedArrays
from scratchgpt.engine.worker import Worker
from scratchgpt.engine.workers import serve

PARENT_CHECK_SECONDS = 0.25
"""Between two looks at whether worker 0 lives."""


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even in the middle of a request."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(0)


def _receive() -> Message | None:
    line = sys.stdin.readline()
    return decode(line) if line else None


def _send(message: Message) -> None:
    try:
        print(encode(message), flush=True)  # noqa: T201 - standard output is the way to worker 0
    except BrokenPipeError:  # worker 0 has ended
        os._exit(0)


def main() -> None:
    """Set up the worker as the first message says, then answer requests."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for worker 0, which ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    np.seterr(all="ignore")  # the trainer looks for overflow in the loss
    setup = _receive()
    if not isinstance(setup, Setup):
        return
    model, train, plan = ModelConfig.from_mapping(setup.model), TrainConfig.from_mapping(setup.train), setup.plan

    def make(barrier: Callable[[], None]) -> Worker:
        arrays = SharedArrays(model, train, plan.lanes, setup.descriptor)
        return Worker(model, train, arrays, plan, index=setup.number, barrier=barrier)

    serve(make, _receive, _send)


if __name__ == "__main__":
    main()
