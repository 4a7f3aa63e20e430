"""Commands of ours in processes of their own: the page computes nothing, and never waits."""

import codecs
import collections
import contextlib
import io
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from scratchgpt import reports
from scratchgpt.errors import ScratchGPTError, reason
from scratchgpt.reports import reported
from scratchgpt.training.child import OWN, Run
from scratchgpt.training.events import Evaluating, Event, Started, StepDone
from scratchgpt.training.journal import Condition
from scratchgpt.training.pace import Pace
from scratchgpt.wording import printable

REPORTS = {reports.VARIABLE: reports.FORMAT}
"""The environment of a command whose reports are read."""
BLOCK = 2**16
MOST_COMPLAINTS = 200
LONGEST_OUTPUT = 2 * 10**5
"""Characters of what a command says that are kept: its end."""
ERROR = "Error: "
"""With which a command begins its last sentence, if it has failed."""
KILLED = 9
"""The signal, whose name Windows does not know."""
END_AFTER = 60.0
"""Seconds that a training has to save when the server ends; then it is left alone, and saves by itself."""


class Training:
    """A training: its state now. Its numbers, notes and texts are in its log."""

    def __init__(self, *arguments: str) -> None:
        """Start `scratchgpt train` with these arguments."""
        self.started: Started | None = None
        self.last: StepDone | None = None  # step
        self.complaints: collections.deque[str] = collections.deque(maxlen=MOST_COMPLAINTS)  # its standard error
        self.failure = ""  # why it ended, if not by itself
        self.n_changes = 0  # of what its log or `complaints` holds, except numbers of steps
        self._condition = Condition()
        self._pace = Pace()
        self._child = Run([*OWN, "train", *arguments, "--json", "--control"], os.environ | REPORTS)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def run(self) -> Path | None:
        """Return the folder of the run, once it is known."""
        return self.started.run if self.started else None

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return not self._thread.is_alive()

    @property
    def state(self) -> str:
        """Return what it is at."""
        return self._condition.word

    @property
    def time_left(self) -> str:
        """Return how long it will take, nothing while nobody knows."""
        steps = self.started.steps if self.started else 0
        return "" if self.is_over or self.last is None else self._pace.left(self.last.step, steps)

    def tell(self, line: str) -> None:
        """Have it obey a command of docs/watching.md."""
        self._child.tell(line)

    def close(self) -> None:
        """Have it save and end, and wait until it has."""
        self.tell("stop")
        self._thread.join(END_AFTER)

    def _listen(self) -> None:
        """Learn from all that it says."""
        while (said := self._child.heard.get()) is not None:
            if isinstance(said, str):
                report = reported(said)
                if "stage" not in report:
                    self.complaints.append(_for_people(said, report))
            else:
                self._take_in(said)
            self.n_changes += not isinstance(said, StepDone | Evaluating)
        self._condition.end()
        if self._child.exit_code and self._condition.word == "ended":
            self.failure = _reason(self.complaints, self._child.exit_code)
        self.n_changes += 1

    def _take_in(self, event: Event) -> None:
        self._pace.see(event)
        self._condition.see(event)
        match event:
            case Started():
                self.started = event
            case StepDone():
                self.last = event


class Task:
    """Another command, from its start to its end."""

    def __init__(
        self,
        *arguments: str,
        standard_input: str = "",
        then: Callable[[str], object] = lambda _: None,
        otherwise: Callable[[], object] = lambda: None,
    ) -> None:
        """Start it, and give it its input; then `then` receives its output, or `otherwise` follows if it fails."""
        self.name = arguments[0]
        self.output = ""
        self.stage, self.done = "", 0.0  # what it is at, and which part of that it has done
        self.failure = ""
        self.is_stopped = False
        self._then, self._otherwise = then, otherwise
        self._complaints: collections.deque[str] = collections.deque(maxlen=MOST_COMPLAINTS)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*OWN, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=os.environ | REPORTS
        )
        self._thread = threading.Thread(target=self._attend, args=[standard_input], daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and all that it said is here."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it."""
        self.is_stopped = True
        self._process.terminate()

    def _attend(self, standard_input: str) -> None:
        ears = [threading.Thread(target=hear, daemon=True) for hear in (self._hear, self._hear_people)]
        for ear in ears:
            ear.start()
        with contextlib.suppress(OSError), self._stream(self._process.stdin) as stream:  # it may want none
            stream.write(standard_input.encode("utf-8", "replace"))
        for ear in ears:
            ear.join()
        exit_code = self._process.wait()
        if not exit_code:
            try:
                self._then(self.output)
            except (ScratchGPTError, ValueError) as error:
                self.failure = f"The result cannot be kept: {reason(error)}"
        else:
            self._otherwise()
            self.failure = "" if self.is_stopped else _reason(self._complaints, exit_code)

    def _hear(self) -> None:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
        with self._stream(self._process.stdout) as stream:
            while data := stream.read(BLOCK):
                self.output = (self.output + decoder.decode(data))[-LONGEST_OUTPUT:]

    def _hear_people(self) -> None:
        stream = io.BufferedReader(self._stream(self._process.stderr))  # type: ignore[type-var]
        with io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                report = reported(line)
                if "stage" in report:
                    self.stage, self.done = str(report["stage"]), report["done"] / max(report["total"], 1)
                else:
                    self._complaints.append(_for_people(line, report))

    @staticmethod
    def _stream(stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None  # noqa: S101 - all three are pipes
        return stream


class Generation(Task):
    """A text that a model writes."""

    def __init__(self, prompt: str, *arguments: str) -> None:
        """Start `scratchgpt generate` with these arguments."""
        super().__init__("generate", *arguments, standard_input=prompt)
        self.prompt = prompt


def _for_people(line: str, report: dict[str, Any]) -> str:
    """Return a line as the page shows it: an error in the words of the page."""
    return printable(f"{ERROR}{report['page']}" if report else line.rstrip("\n"))


def _reason(said: collections.deque[str], exit_code: int) -> str:
    """Return the sentence with which a command has failed."""
    if exit_code == -KILLED:
        return "It was killed, perhaps for want of memory."
    errors = [line.removeprefix(ERROR) for line in said if line.startswith(ERROR)]
    return (errors or [*said] or [f"It has ended without a word, with exit code {exit_code}."])[-1]
