"""Texts: upload, prepare, look at."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from nicegui import events, ui

from scratchgpt.data.dataset import Dataset
from scratchgpt.errors import ScratchGPTError, UsageError, for_page
from scratchgpt.files import safe_name
from scratchgpt.inspection.labels import label
from scratchgpt.machine import amount
from scratchgpt.tokenizer import gpt2
from scratchgpt.training.places import DATA, is_taken
from scratchgpt.web.desk import Desk, new_text
from scratchgpt.web.jobs import Task
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import Progress, card, failures_told, number_field, number_in, scrolling, tell_failure

LARGEST_UPLOAD = 2**28
"""Bytes of a text that is uploaded; larger ones are put into the folder and pointed to."""
SHOWN_TOKENS = 96
LOAD_SECONDS = 1.0
VOCABULARIES = {"char": "Characters", "bpe": "Byte pairs, learnt", "gpt2": "GPT-2's"}
TICK = 0.3
GPT2_FETCHED = (
    f"Prepare downloads GPT-2's vocabulary, {sum(file.n_bytes for file in gpt2.FILES.values()) / 1e6:.1f} MB, from "
    f"{urlsplit(gpt2.ADDRESS).netloc}, once; all other data stay on this machine."
)


class Token(NamedTuple):
    """A piece of text, as it is shown, and its number."""

    piece: str
    number: int


def some_tokens(folder: Path, part: str) -> list[Token]:
    """Return a stretch from anywhere in a part of prepared data, of which nothing else is read.

    Raises DataError and UsageError.
    """
    data = Dataset.open(folder, is_checked=False)
    tokens = data.train if part == "train" else data.val
    start = random.randrange(max(tokens.size - SHOWN_TOKENS, 0) + 1)  # noqa: S311 - only to look at
    ids = tokens.read(start, min(start + SHOWN_TOKENS, tokens.size)).tolist()
    return [Token(label(data.tokenizer, number), number) for number in ids]


def loading_speed(folder: Path, *, batch_size: int, block_size: int) -> tuple[float, float]:
    """Return how many batches and how many tokens a second data gives a training. Raises DataError and UsageError."""
    data = Dataset.open(folder, is_checked=False)
    data.require(block_size)
    n_batches, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < LOAD_SECONDS:
        data.batch(seed=0, step=n_batches, batch_size=batch_size, block_size=block_size)
        n_batches += 1
    return n_batches / seconds, n_batches * batch_size * block_size / seconds


class DataTab:
    """The tab."""

    def __init__(self, desk: Desk, memory: Memory) -> None:
        """Lay out."""
        self._desk, self._memory = desk, memory
        with ui.element("div").classes("columns"):
            with card(
                "Prepare a text",
                "Plain text, or rows such as JSON lines and CSV, also packed. Upload a file, or choose one below.",
            ):
                self._lay_out_preparing()
            with card("Prepared data"):
                self._sets = scrolling("Prepared data").classes("stack")
        with card("Look inside", "A stretch from anywhere in the data: each token, and its number below it."):
            self._lay_out_looking()
        self._shown: list[str] | None = None
        # The uploads that this page waits for; those that run may be its own, before a reload.
        self._waiting = {path: check for path, check in desk.checks.items() if not check.is_over}
        self._said: tuple[Task | None, bool] | None = None  # of which command, and whether it was over
        ui.timer(TICK, self._tick)

    def _lay_out_preparing(self) -> None:
        limit = f"at most {LARGEST_UPLOAD >> 20} MB"
        self._upload = ui.upload(
            auto_upload=True,
            max_file_size=LARGEST_UPLOAD,
            on_upload=self._take,
            on_rejected=lambda: tell_failure(f"That file cannot be uploaded: {limit}, one at a time."),
        ).classes("drop wide")
        with self._upload.add_slot("header"), ui.element("div").classes("drop-words"):
            ui.icon("upload_file").classes("drop-icon")
            ui.label(f"Drop a text here, {limit}").classes("strong")
            choose = ui.button("Choose a file").props("outline")
            choose.on("click", js_handler=f"() => getElement({self._upload.id}).$refs.qRef.pickFiles()")
            ui.element("q-uploader-add-trigger")  # the browser's own field, which is not shown
        self._upload.add_slot("list")  # files go on at once
        self._upload.props("flat bordered")
        self._checking = Progress("Checking the upload")
        self._text = ui.select(
            self._desk.texts(),
            label="Text (a file or folder)",
            with_input=True,
            new_value_mode="add-unique",
        ).classes("wide")
        self._text.on("update:model-value", self._propose_name, [])
        self._kind = ui.toggle(VOCABULARIES, value="char").props("no-caps spread").classes("wide")
        if not gpt2.is_here():
            ui.label(GPT2_FETCHED).classes("soft").bind_visibility_from(self._kind, "value", value="gpt2")
        with ui.element("div").classes("fields roomy"):
            self._name = ui.input("Name")
            self._size = number_field("Tokens to learn", 1024, low=257, high=2**20, is_whole=True)
            self._size.bind_visibility_from(self._kind, "value", value="bpe")
            self._share = number_field("For validation, %", 10, low=0.01, high=90)
        for name, field in {
            "text": self._text,
            "kind": self._kind,
            "name": self._name,
            "size": self._size,
            "share": self._share,
        }.items():
            self._memory.keep(f"data.{name}", field)
        with ui.row().classes("line"):
            ui.button("Prepare", icon="auto_awesome", on_click=self._prepare)
            self._progress = Progress("Preparing")
        self._result = ui.label().classes("result").props('role="status"')

    def _lay_out_looking(self) -> None:
        with ui.row().classes("line"):
            self._look_at = ui.select([], label="Data").classes("grow")
            self._part = ui.toggle({"train": "Training", "val": "Validation"}, value="train").props("no-caps")
            ui.button("Show a sample", icon="casino", on_click=self._look).props("outline")
            ui.button("Test loading", icon="speed", on_click=self._test).props("outline")
        self._memory.keep("data.look_at", self._look_at)
        self._memory.keep("data.part", self._part)
        self._tokens = ui.element("div").classes("tokens")
        self._speed = ui.label().classes("result").props('role="status"')

    async def _take(self, arrived: events.UploadEventArguments) -> None:
        """Keep an uploaded text in the data folder, whatever its name says, and have it checked."""
        self._upload.reset()
        with failures_told():
            path = new_text(self._desk.inside(DATA), arrived.file.name)
            try:
                await arrived.file.save(path)
                self._waiting[path] = self._desk.check(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def _propose_name(self) -> None:
        if self._text.value:
            self._memory.set({"data.name": safe_name(Path(self._text.value).name.partition(".")[0])})

    def _prepare(self) -> None:
        """Start to prepare."""
        with failures_told():
            if not self._text.value:
                raise UsageError("Choose a text first, or upload one.")
            source = self._desk.inside(self._text.value)
            out = DATA / safe_name(self._name.value or source.stem)
            if is_taken(out):
                raise UsageError(f"{out} is there already; choose another name, or remove that folder first.")
            size = ["--vocab-size", f"{number_in(self._size):.0f}"] if self._kind.value == "bpe" else []
            share = f"{number_in(self._share) / 100:g}"
            how = [f"--{self._kind.value}", *size, "--out", str(out), "--val-fraction", share]
            self._desk.start("prepare", "prepare", *how, "--", str(source))

    def _tick(self) -> None:
        """Show what has changed."""
        self._checking.show(next(iter(self._waiting.values()), None))
        for path in [path for path, check in self._waiting.items() if check.is_over]:
            self._show_upload(path, self._waiting.pop(path))
        task = self._desk.tasks.get("prepare")
        self._progress.show(task)
        said = (task, task is not None and task.is_over)
        if task and said != self._said:
            self._said = said
            self._desk.expire()
            sentences = [line for line in task.output.splitlines() if line.endswith(".")]  # the rest is tables
            self._result.text = (task.failure or "\n".join(sentences)) if said[1] else ""
            self._result.classes(add="bad" if task.failure else "", remove="" if task.failure else "bad")
        if (names := self._desk.data()) != self._shown:
            new = [name for name in names if self._shown is not None and name not in self._shown]
            self._shown = names[:]
            self._show_sets(names)
            if new:
                self._memory.set({"data.look_at": new[0]})

    def _show_upload(self, path: Path, check: Task) -> None:
        """Choose an uploaded text, or say why it is none."""
        if check.failure or check.is_stopped:
            tell_failure(check.failure or f"{path.name} is removed, because its check was stopped.")
            return
        self._offer_texts()
        self._memory.set({"data.text": path.as_posix()})
        self._propose_name()

    def _offer_texts(self) -> None:
        self._memory.offer("data.text", self._desk.texts())

    def _show_sets(self, names: list[str]) -> None:
        self._memory.offer("data.look_at", names)
        self._sets.clear()
        with self._sets:
            if not names:
                ui.label("Nothing yet: prepare a text, and it appears here.").classes("soft")
            for name in names:
                self._show_set(name)

    def _show_set(self, name: str) -> None:
        with ui.element("div").classes("item"):
            ui.label(name).classes("strong")
            try:
                ui.label(figures(self._desk.meta(name))).classes("soft")
            except (ScratchGPTError, KeyError, TypeError, ValueError) as error:
                ui.label(f"It cannot be read: {for_page(error)}").classes("bad")

    @property
    def _chosen(self) -> Path:
        """Return the data to look at. Raises UsageError if there are none."""
        if not self._look_at.value:
            raise UsageError("There is no prepared data yet: prepare a text first.")
        return self._desk.inside(DATA / self._look_at.value)

    async def _look(self) -> None:
        with failures_told():
            tokens = await asyncio.to_thread(some_tokens, self._chosen, self._part.value)
            self._tokens.clear()
            with self._tokens:
                for token in tokens:
                    with ui.element("span").classes("token"):
                        ui.label(token.piece).classes("piece")
                        ui.label(str(token.number)).classes("number")

    async def _test(self) -> None:
        with failures_told():
            folder = self._chosen
            self._speed.text = "Measuring ..."
            batches, tokens = await asyncio.to_thread(loading_speed, folder, batch_size=12, block_size=64)
            self._speed.text = f"{batches:,.0f} batches of 12 × 64 tokens a second, {tokens / 1e6:,.1f} million tokens"
            return
        self._speed.text = ""


def figures(meta: dict[str, Any]) -> str:
    """Return the figures of prepared data."""
    n_bytes = sum(file["bytes"] for file in meta["files"].values())
    kind = "characters" if meta["asked"]["tokenizer"] == "char" else "tokens"
    return (
        f"{meta['train_tokens']:,} tokens to train on, {meta['val_tokens']:,} to validate; {meta['vocab_size']:,} "
        f"different {kind}; {amount(n_bytes)}"
    )
