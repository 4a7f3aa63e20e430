"""A lane's process: reads tasks from standard input until it closes, does them, answers on standard output."""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig
from scratchgpt.model.lanes import Lane, SharedArrays

PARENT_CHECK = 0.25
"""Seconds between two looks at whether lane 0 is still there."""


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, whatever is being computed: nobody will ask for it."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    os._exit(0)


def _say(result: Any) -> None:
    print(json.dumps(result), flush=True)  # noqa: T201 - standard output is how lanes answer


def _barrier() -> None:
    """Wait until all lanes are here: say so, and wait for lane 0 to have heard it of all."""
    _say("here")
    if not sys.stdin.readline():
        sys.exit()


def main() -> None:
    """Set the lane up as the first line says, then do a task a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for lane 0, which will end this one when it is done
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    np.seterr(all="ignore")  # numbers that overflow are found where lane 0 looks at the loss
    setup = json.loads(sys.stdin.readline())
    model = ModelConfig(**setup["model"])
    arrays = SharedArrays(model, setup["n_lanes"], setup["n_tokens"], setup["descriptor"])
    lane = Lane(model, select("cpu"), arrays, setup["index"], setup["n_lanes"], _barrier)
    for line in sys.stdin:
        message = json.loads(line)
        result = getattr(lane, message["task"])(**message["arguments"])
        _say(result)


if __name__ == "__main__":
    main()
