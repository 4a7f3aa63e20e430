"""A lane's process: reads tasks from standard input until it closes, does them, answers on standard output."""

import json
import os
import queue
import signal
import sys
import threading

import numpy as np

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig
from scratchgpt.model.lanes import Lane, SharedArrays


def _listen(lines: "queue.SimpleQueue[str]") -> None:
    """Pass lines on. When lane 0 has gone, end at once, whatever is being computed: nobody will ask for it."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Set the lane up as the first line says, then do a task a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for lane 0, which will end this one when it is done
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[lines], daemon=True).start()
    setup = json.loads(lines.get())
    model = ModelConfig(**setup["model"])
    arrays = SharedArrays(model, setup["n_lanes"], setup["n_tokens"], setup["descriptor"])
    lane = Lane(model, select("cpu"), arrays, setup["index"], setup["n_lanes"])
    np.seterr(all="ignore")  # numbers that overflow are found where lane 0 looks at the loss
    while True:
        message = json.loads(lines.get())
        result = getattr(lane, message["task"])(**message["arguments"])
        print(json.dumps(result), flush=True)  # noqa: T201 - standard output is how lanes answer


if __name__ == "__main__":
    main()
