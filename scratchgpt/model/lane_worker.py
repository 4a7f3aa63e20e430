"""A lane's process: reads tasks from standard input until it closes, does them, answers on standard output."""

import json
import os
import signal
import sys
import threading
import time

import numpy as np

from scratchgpt.config import ModelConfig
from scratchgpt.model.lane import Barrier, Lane, SharedArrays
from scratchgpt.model.lanes import Message, serve
from scratchgpt.model.plan import Plan

PARENT_CHECK = 0.25
"""Seconds between two looks at whether lane 0 is still there."""


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, whatever is being computed: nobody will ask for it."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    os._exit(0)


def _hear() -> Message | None:
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def _say(message: Message) -> None:
    try:
        print(json.dumps(message), flush=True)  # noqa: T201 - standard output is how lanes answer
    except BrokenPipeError:  # lane 0 has gone
        os._exit(0)


def main() -> None:
    """Set the lane up as the first line says, then do a task a line."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # these are for lane 0, which ends this one when done
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    np.seterr(all="ignore")  # numbers that overflow are found where lane 0 looks at the loss
    setup = _hear()
    if setup is None:
        return
    model, plan = ModelConfig(**setup["model"]), Plan(**setup["plan"])

    def make(barrier: Barrier) -> Lane:
        arrays = SharedArrays(model, plan.lanes, setup["n_tokens"], setup["descriptor"])
        return Lane(model, arrays, plan, index=setup["index"], barrier=barrier, freeze=setup["freeze"])

    serve(make, _hear, _say)


if __name__ == "__main__":
    main()
