"""Texts: upload, prepare, look at."""

import asyncio
import functools
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

from nicegui import events, ui

from scratchgpt.data.dataset import META, Dataset, read_meta
from scratchgpt.data.sources import Reading, text_files
from scratchgpt.errors import DataError, ScratchGPTError, UsageError
from scratchgpt.inspection.labels import label
from scratchgpt.web.desk import DATA, TEXTS, Desk, new_text, safe_name
from scratchgpt.web.jobs import Task
from scratchgpt.web.parts import Progress, card, failures_told, scrolling, tell_failure

LARGEST_UPLOAD = 2**28
"""Bytes of a text that is uploaded; larger ones are put into the folder and pointed to."""
SHOWN_TOKENS = 96
LOAD_SECONDS = 1.0
VOCABULARIES = {"char": "Characters", "bpe": "Byte pairs, learnt", "gpt2": "GPT-2's"}
TICK = 0.3


class Token(NamedTuple):
    """A piece of text, as it is shown, and its number."""

    piece: str
    number: int


@functools.lru_cache(maxsize=4)
def opened(folder: Path, _prepared_at: int) -> Dataset:
    """Return the data in a folder, checked once. Raises DataError and UsageError."""
    return Dataset.open(folder)


def dataset(desk: Desk, name: str) -> Dataset:
    """Return prepared data by its name. Raises DataError and UsageError."""
    folder = desk.inside(DATA / name)
    try:
        return opened(folder, (folder / META).stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{folder} was removed, or never prepared.") from error


def some_tokens(data: Dataset, part: str) -> list[Token]:
    """Return a stretch from anywhere in a part of the data."""
    tokens = data.train if part == "train" else data.val
    start = random.randrange(max(tokens.size - SHOWN_TOKENS, 0) + 1)  # noqa: S311 - only to look at
    ids = tokens.read(start, min(start + SHOWN_TOKENS, tokens.size)).tolist()
    return [Token(label(data.tokenizer, number), number) for number in ids]


def loading_speed(data: Dataset, *, batch_size: int, block_size: int) -> tuple[float, float]:
    """Return how many batches and how many tokens a second the data gives a training. Raises UsageError."""
    data.require(block_size)
    n_batches, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < LOAD_SECONDS:
        data.batch(seed=0, step=n_batches, batch_size=batch_size, block_size=block_size)
        n_batches += 1
    return n_batches / seconds, n_batches * batch_size * block_size / seconds


def check_text(path: Path) -> None:
    """Read a text from its beginning to its end. Raises DataError if it is empty or none."""
    n_letters = 0

    def count(_: int) -> None:
        """Nobody asks how far this is."""

    for file in text_files(path):
        for document in file.documents(Reading(), read=count, dropped=count):
            n_letters += sum(len(piece) for piece in document)
    if not n_letters:
        raise DataError(f"{path} is empty; choose a file with text in it.")


class DataTab:
    """The tab."""

    def __init__(self, desk: Desk) -> None:
        """Lay out."""
        self._desk = desk
        with ui.element("div").classes("columns"):
            with card("Prepare a text", "Any UTF-8 text. Upload one, or choose one from the working folder."):
                self._lay_out_preparing()
            with card("Prepared data"):
                self._sets = scrolling("Prepared data").classes("stack")
        with card("Look inside", "A stretch from anywhere in the data: each token, and its number below it."):
            self._lay_out_looking()
        self._shown: list[str] | None = None
        self._said: tuple[Task | None, bool] | None = None  # of which command, and whether it was over
        ui.timer(TICK, self._tick)

    def _lay_out_preparing(self) -> None:
        limit = f"at most {LARGEST_UPLOAD >> 20} MB"
        self._upload = ui.upload(
            label=f"Drop a text here ({limit})",
            auto_upload=True,
            max_file_size=LARGEST_UPLOAD,
            on_upload=self._take,
            on_rejected=lambda: tell_failure(f"That file cannot be uploaded: {limit}, one at a time."),
        ).classes("wide")
        self._upload.props(f'flat bordered accept="{",".join(TEXTS)}"')
        choose = ui.button("Choose a file", icon="upload_file").props("outline")  # Quasar's own has no name
        choose.on("click", js_handler=f"() => getElement({self._upload.id}).$refs.qRef.pickFiles()")
        self._text = ui.select(
            self._desk.texts(),
            label="Text (a file or folder)",
            with_input=True,
            new_value_mode="add-unique",
            on_change=self._propose_name,
        ).classes("wide")
        self._kind = ui.toggle(VOCABULARIES, value="char").props("no-caps spread").classes("wide")
        with ui.element("div").classes("fields"):
            self._name = ui.input("Name")
            self._size = ui.number("Tokens to learn", value=1024, min=257, max=2**20, step=1, precision=0)
            self._size.bind_visibility_from(self._kind, "value", value="bpe")
            self._share = ui.number("For validation, %", value=10, min=0.1, max=90, step=1)
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
        self._tokens = ui.element("div").classes("tokens")
        self._speed = ui.label().classes("result").props('role="status"')

    async def _take(self, arrived: events.UploadEventArguments) -> None:
        """Keep an uploaded text in the data folder, whatever its name says."""
        self._upload.reset()
        with failures_told():
            path = new_text(self._desk.inside(DATA), arrived.file.name)
            try:
                await arrived.file.save(path)
                await asyncio.to_thread(check_text, path)
            except BaseException:
                path.unlink()
                raise
            self._text.set_options(self._desk.texts(), value=path.as_posix())

    def _propose_name(self) -> None:
        if self._text.value:
            self._name.value = safe_name(Path(self._text.value).name.partition(".")[0])

    def _prepare(self) -> None:
        """Start to prepare."""
        with failures_told():
            if not self._text.value:
                raise UsageError("Choose a text first, or upload one.")
            source = self._desk.inside(self._text.value)
            out = DATA / safe_name(self._name.value or source.stem)
            if out.name in self._desk.data():
                raise UsageError(f"{out} is there already; choose another name, or remove that folder first.")
            size = ["--vocab-size", f"{self._size.value or 1024:.0f}"] if self._kind.value == "bpe" else []
            share = f"{(self._share.value or 10) / 100:g}"
            how = [f"--{self._kind.value}", *size, "--out", str(out), "--val-fraction", share]
            self._desk.start("prepare", "prepare", *how, "--", str(source))

    def _tick(self) -> None:
        """Show what has changed."""
        task = self._desk.tasks.get("prepare")
        self._progress.show(task)
        said = (task, task is not None and task.is_over)
        if task and said != self._said:
            self._said = said
            self._result.text = (task.failure or task.output.strip().rpartition("\n")[2]) if said[1] else ""
            self._result.classes(add="bad" if task.failure else "", remove="" if task.failure else "bad")
        if (names := self._desk.data()) != self._shown:
            self._shown = names
            self._show_sets(names)

    def _show_sets(self, names: list[str]) -> None:
        chosen = self._look_at.value
        self._look_at.set_options(names, value=chosen if chosen in names else next(iter(names), None))
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
                ui.label(figures(read_meta(DATA / name))).classes("soft")
            except (ScratchGPTError, KeyError, TypeError, ValueError) as error:
                ui.label(f"It cannot be read: {error}").classes("bad")

    async def _look(self) -> None:
        if not self._look_at.value:
            return
        with failures_told():
            data = await asyncio.to_thread(dataset, self._desk, self._look_at.value)
            tokens = some_tokens(data, self._part.value)
            self._tokens.clear()
            with self._tokens:
                for token in tokens:
                    with ui.element("span").classes("token"):
                        ui.label(token.piece).classes("piece")
                        ui.label(str(token.number)).classes("number")

    async def _test(self) -> None:
        if not self._look_at.value:
            return
        self._speed.text = "Measuring ..."
        with failures_told():
            data = await asyncio.to_thread(dataset, self._desk, self._look_at.value)
            batches, tokens = await asyncio.to_thread(loading_speed, data, batch_size=12, block_size=64)
            self._speed.text = f"{batches:,.0f} batches of 12 × 64 tokens a second, {tokens / 1e6:,.1f} million tokens"
            return
        self._speed.text = ""


def figures(meta: dict[str, Any]) -> str:
    """Return the figures of prepared data."""
    n_bytes = sum(file["bytes"] for file in meta["files"].values())
    kind = "characters" if meta["asked"]["tokenizer"] == "char" else "tokens"
    return (
        f"{meta['train_tokens']:,} tokens to train on, {meta['val_tokens']:,} to validate; {meta['vocab_size']:,} "
        f"different {kind}; {n_bytes / 1e6:,.1f} MB"
    )
