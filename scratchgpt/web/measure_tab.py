"""Measure: how good a model is, how fast it writes and how fast it trains; results are kept, and exported."""

import asyncio
import contextlib
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from scratchgpt.errors import DataError, UsageError, reason
from scratchgpt.training import logs, runs
from scratchgpt.training.places import RUNS
from scratchgpt.training.sinks import KINDS
from scratchgpt.web.desk import Desk
from scratchgpt.web.jobs import Task
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import Progress, card, failures_told, scrolling

KEPT = RUNS / "measured.jsonl"
"""Where results are kept: a JSON object a line."""
MOST_SHOWN = 50
MOST_READ = 2**18
"""Bytes at the end of that file which are looked at."""
TICK = 0.5


class MeasureTab:
    """The tab."""

    def __init__(self, desk: Desk, memory: Memory) -> None:
        """Lay out."""
        self._desk, self._memory = desk, memory
        self._shown: tuple[Task | None, bool] | None = None  # the command that is shown, and whether it was over
        with card("Measure a model"):
            with ui.element("div").classes("fields roomy"):
                self._run = ui.select([], label="Run")
                self._split = ui.select({"val": "Validation", "train": "Training"}, label="Part", value="val")
            memory.keep("measure.run", self._run)
            memory.keep("measure.split", self._split)
            with ui.row().classes("line buttons"):
                ui.button("Evaluate", icon="rule", on_click=self._evaluate)
                ui.button("Time generation", icon="timer", on_click=self._time_generation).props("outline")
                ui.button("Time training", icon="speed", on_click=self._time_training).props("outline")
                self._progress = Progress("Measuring")
            self._problem = ui.label().classes("bad").props('role="status"')
        with card("Results"):
            self._results = scrolling("Results").classes("stack")
        with card("Export a run", "What it has logged, for other programs."), ui.row().classes("line buttons"):
            ui.button("JSON", icon="download", on_click=self._download)
            for kind in KINDS:
                ui.button(kind, on_click=partial(self._export, kind)).props("outline no-caps")
            self._exported = ui.label().classes("result").props('role="status"')
        ui.timer(TICK, self._tick)

    @property
    def _folder(self) -> Path:
        """Return the run that is chosen. Raises UsageError if there is none."""
        if not self._run.value:
            raise UsageError("There is no run yet; train one first.")
        return self._desk.inside(RUNS / self._run.value)

    def _start(self, what: str, *arguments: str) -> None:
        """Start to measure, and keep what is found, whether anybody still looks or not."""
        self._desk.start("measure", *arguments, then=partial(keep, self._folder.name, what))

    def _evaluate(self) -> None:
        with failures_told():
            self._start("evaluation", "evaluate", "--json", "--split", self._split.value, "--", str(self._folder))

    def _time_generation(self) -> None:
        with failures_told():
            self._start("generation", "bench", "--generate", "--json", "--rounds", "3", "--model", str(self._folder))

    def _time_training(self) -> None:
        with failures_told():
            self._start("training", "bench", "--json", "--rounds", "3", *sizes(self._folder))

    def _export(self, kind: str) -> None:
        with failures_told():
            self._desk.start("measure", "logs", "export", "--force", "--to", kind, "--", str(self._folder))

    def _tick(self) -> None:
        """Show what has changed."""
        names = self._desk.runs()
        if names != self._run.options:
            self._memory.offer("measure.run", names)
        task = self._desk.tasks.get("measure")
        self._progress.show(task)
        shown = (task, task is None or task.is_over)
        if shown != self._shown:
            self._shown = shown
            failure = task.failure if task else ""
            is_export = task is not None and task.name == "logs"
            self._problem.text = "" if is_export else failure
            self._exported.text = failure or task.output.strip() if task and is_export else ""
            self._exported.classes(add="bad" if failure else "", remove="" if failure else "bad")
            self._show_results()

    def _show_results(self) -> None:
        self._results.clear()
        with self._results:
            shown = kept()[: -MOST_SHOWN - 1 : -1]
            if not shown:
                ui.label("Nothing yet: choose a run, and press a button above.").classes("soft")
            for result in shown:
                with ui.element("div").classes("item"):
                    ui.label(f"{result.get('run')}: {result.get('what')}, {result.get('when')}").classes("strong")
                    ui.label(summary(result)).classes("soft")

    async def _download(self) -> None:
        with failures_told():
            folder = self._folder
            content = await asyncio.to_thread(as_json, folder)
            ui.download.content(content, f"{folder.name}.json", "application/json")


def sizes(folder: Path) -> list[str]:
    """Return the options of `scratchgpt bench` for a run's model. Raises UsageError."""
    about = runs.description(folder)
    try:
        model, batch_size = about["model"], about["train"]["batch_size"]
        names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "activation")
        words = [f"--{name.replace('_', '-')}={model[name]}" for name in names]
        switches = {"bias": "bias", "tie_word_embeddings": "tie-word-embeddings"}
        words += [f"--{'' if model[name] else 'no-'}{option}" for name, option in switches.items()]
        return [*words, f"--vocab-size={model['vocab_size']}", f"--batch-size={batch_size}"]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / runs.NAME} does not say what the model is.") from error


def keep(run: str, what: str, output: str) -> None:
    """Keep a result: the last line that a command has written. Raises DataError, which says it, and ValueError."""
    result = json.loads(output.strip().rpartition("\n")[2])
    result = {"run": run, "what": what, "when": time.strftime("%Y-%m-%d %H:%M:%S"), "result": result}
    try:
        with KEPT.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as error:
        raise DataError(f"{reason(error)}; it is {summary(result)}.") from error


def kept() -> list[dict[str, Any]]:
    """Return the last results, the oldest first; what is damaged, or cut at the beginning, is left out."""
    results = []
    lines: list[bytes] = []
    with contextlib.suppress(OSError), KEPT.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_READ))
        lines = file.read(MOST_READ).splitlines()
    for line in lines:
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(result, dict) and isinstance(result.get("result"), dict):
            results.append(result)
    return results


def summary(result: dict[str, Any]) -> str:
    """Return a result's numbers as people read them."""
    names = {
        "loss": "loss {:.4f}",
        "perplexity": "perplexity {:.2f}",
        "bits_per_byte": "{:.4f} bits per byte",
        "accuracy": "accuracy {:.1%}",
        "token_ms": "{:,.2f} ms a token",
        "together_tokens_per_s": "{:,.0f} tokens a second for several texts at once",
        "step_ms": "{:,.1f} ms a step",
        "tokens_per_s": "{:,.0f} tokens a second",
        "peak_memory_mb": "{:,.0f} MB",
    }
    numbers = {name: result["result"].get(name) for name in names}
    return ", ".join(names[name].format(n) for name, n in numbers.items() if isinstance(n, int | float))


def as_json(folder: Path) -> bytes:
    """Return a run's log in the form of disco's experiments, {init: {config, date}, logs: [...]}.

    Raises ScratchGPTError.
    """
    rows = [row for row in logs.read(folder / logs.NAME) if row and "event" not in row]
    start = rows[0].get("time") if rows else None
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(start or 0))
    content = {
        "init": {"config": runs.description(folder), "date": date},
        "logs": [logged(row, start or 0) for row in rows],
    }
    return json.dumps(content).encode("utf-8")


def logged(row: logs.Row, start: float) -> dict[str, Any]:
    """Return a row under the names of disco's experiments."""
    names = {
        "loss": "train/loss",
        "step_ms": "dt_ms",
        "resident_mb": "mem",
        "val_loss": "val/loss",
        "val_perplexity": "val/perplexity",
        "val_accuracy": "val/acc",
    }
    seconds = {"time_s": round((row.get("time") or start) - start, 3)}
    return {"iter": row["step"]} | seconds | {names.get(name, name): row[name] for name in row if name != "step"}
