"""The work on texts that are prepared: two passes over each, in a hidden folder, which go on after an interruption."""

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import FORMAT, META, token_dtype
from scratchgpt.data.documents import Count, Progress, Tally
from scratchgpt.data.encoding import BORDER, encode_blocks, n_processes, separator
from scratchgpt.data.mix import Source, amounts
from scratchgpt.data.prepared import token_files
from scratchgpt.data.reading import Reading
from scratchgpt.data.shards import PARTS, ShardReader, ShardWriter
from scratchgpt.data.sources import without_text
from scratchgpt.data.vocabulary import Vocabulary
from scratchgpt.errors import DataError
from scratchgpt.files import file_record, read_json, replace_json, sync_file, sync_folder
from scratchgpt.machine import return_freed_memory
from scratchgpt.tokenizer import END_OF_TEXT, Tokenizer
from scratchgpt.tokenizer.cutting import Cut

BLOCK = 2**20
"""Bytes of text that are encoded at once, or a little more; tokens that are copied at once."""

SAVE_EVERY = 32
"""Blocks between two records of how far the second pass is."""

RETURN_EVERY = 2**25
"""Bytes read after which freed memory is returned."""

WAY = 3
"""The way that text is read and cut into blocks: work done in another way cannot be gone on with."""

LONGEST_CHARACTER = 4
"""Tokens that one character may have: its bytes."""

STATE = "state.json"

COUNTS = ("documents", "characters", "dropped_characters", "separators", "ends_spelled", "skipped_rows")
"""What meta.json says of each source besides its tokens."""


class SourceText:
    """One source on its way through both passes."""

    def __init__(self, source: Source, how: Reading, *, val_share: float) -> None:
        """Begin before the first pass; `val_share` of the characters, from 0 to 1, are for validation."""
        self.source = source
        # By comparisons: 1 - 1e-30 is 1.
        self.parts = [part for part, is_there in zip(PARTS, (val_share < 1, val_share > 0), strict=True) if is_there]
        self.n_bytes = sum(file.path.stat().st_size for file in source.files)
        # All that an interrupted work needs to know, and meta.json.
        self.state: dict[str, Any] = {
            "documents": 0,
            "characters": 0,
            "ends_spelled": 0,  # <|endoftext|> in the text itself
            **dataclasses.asdict(Tally()),
            "files": [],
            "blocks": 0,  # encoded so far
            "is_encoded": False,
            "tokens": dict.fromkeys(self.parts, 0),
            "taken": {},  # of the tokens, for the mixture
        }
        self._how = how
        self._val_share = val_share

    def survey(self, vocabulary: Vocabulary, progress: Count) -> None:
        """Read the source for the first time. Raises DataError and UsageError."""
        tally = Tally()
        for file in self.source.files:
            for document in file.documents(self._how, cut=vocabulary.cut, read=progress, tally=tally):
                n_before = self.state["characters"]
                for text in document:
                    vocabulary.see(text)
                    self.state["characters"] += len(text)
                    self.state["ends_spelled"] += text.count(END_OF_TEXT)
                self.state["documents"] += self.state["characters"] > n_before
            self.state["files"].append(file.record)
        self.state |= dataclasses.asdict(tally)
        n_characters = self.state["characters"]
        if not n_characters:
            passed_over = without_text(self.state["skipped_rows"])
            raise DataError(f"{self.source.name} is empty{passed_over}; there is nothing to learn from.")
        if len(self.parts) == len(PARTS) and not 0 < self._n_train < n_characters:
            raise DataError(f"{self.source.name} has {n_characters:,} characters: too few to split for validation.")

    def blocks(self, cut: Cut | None, progress: Count) -> Iterator[tuple[str, bytes]]:
        """Read the source again and yield it in blocks, each with the part it belongs to. Raises DataError."""
        n_left = self._n_train
        blocks = {part: bytearray() for part in PARTS}
        begun = dict.fromkeys(PARTS, False)
        for file, record in zip(self.source.files, self.state["files"], strict=True):
            file.record = record
            for document in file.documents(self._how, cut=cut, read=progress, tally=Tally()):
                is_border = begun.copy()
                for text in document:
                    for part, share in zip(PARTS, (text[:n_left], text[n_left:]), strict=True):
                        if not share:
                            continue
                        blocks[part] += BORDER * is_border[part] + share.encode("utf-8")
                        begun[part], is_border[part] = True, False
                        if len(blocks[part]) >= BLOCK:
                            yield part, bytes(blocks[part])
                            blocks[part].clear()
                    n_left -= min(n_left, len(text))
        yield from ((part, bytes(block)) for part, block in blocks.items() if block)

    def request(self) -> dict[str, Any]:
        """Return what the same source is known by without reading it, in the types of JSON."""
        stats = [(file.path, file.path.stat()) for file in self.source.files]
        return {
            "files": [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
            "reading": self._how._asdict(),
            "weight": self.source.weight,
            "val_share": self._val_share,
        }

    def record(self) -> dict[str, Any]:
        """Return what identifies the source."""
        return {"name": self.source.name, "weight": self.source.weight, "files": self.state["files"]}

    def summary(self) -> dict[str, Any]:
        """Return what became of the source."""
        counts = {name: self.state[name] for name in COUNTS}
        sums = {"tokens": sum(self.state["tokens"].values()), "kept_tokens": sum(self.state["taken"].values())}
        return {"name": self.source.name, **counts, **sums}

    @property
    def _n_train(self) -> int:
        return int(self.state["characters"] * (1 - self._val_share))


class Work:
    """The work on all texts, in a hidden folder; each method goes on where it was interrupted."""

    def __init__(self, texts: list[SourceText], vocabulary: Vocabulary, hidden: Path, progress: Progress) -> None:
        """Begin, or go on with the work whose state is in `hidden`."""
        self.vocabulary = vocabulary
        self.was_interrupted = False
        self._tokenizer: Tokenizer
        self._texts = texts
        self._hidden = hidden
        self._whole = hidden / "whole"
        self._progress = progress
        self._n_read = 0
        self._n_bytes = sum(text.n_bytes for text in texts)

    def survey(self) -> None:
        """Read the texts for the first time, unless that has been done. Raises DataError, UsageError and OSError."""
        found: dict[str, Any] = {}
        with contextlib.suppress(DataError):
            found = read_json(self._hidden / STATE, DataError)
        self.was_interrupted = found.get("request") == self._request()
        if self.was_interrupted:
            for text, state in zip(self._texts, found["texts"], strict=True):
                text.state = state
            return
        self.forget()
        for text in self._texts:
            text.survey(self.vocabulary, self._told("Reading"))

    def reading(self, how: Reading) -> dict[str, Any]:
        """Return the settings that the texts depend on: a separator that ended no document changes nothing."""
        settings = how._asdict()
        del settings["strict"]
        if not any(text.state["separators"] for text in self._texts):
            del settings["separator"]
        return settings

    def encode(self) -> None:
        """Learn the vocabulary and write all tokens. Raises DataError, UsageError and OSError."""
        if self.was_interrupted:
            self._tokenizer = tokenizers.load(self._whole)
        else:
            n_steps = self.vocabulary.n_steps
            self._tokenizer = self.vocabulary.tokenizer(lambda n_done: self._progress("Learning", n_done, n_steps))
            self._whole.mkdir()
            tokenizers.save(self._tokenizer, self._whole)
            for name in tokenizers.FILES:
                sync_file(self._whole / name)
            sync_folder(self._whole)
            self._save()
        for text in self._texts:
            if text.state["is_encoded"]:
                self._progress("Encoding", text.n_bytes, self._n_bytes)
            else:
                self._encode(text)

    def _encode(self, text: SourceText) -> None:
        """Write the tokens of one text. Raises DataError, UsageError and OSError."""
        state = text.state
        with contextlib.ExitStack() as stack:
            writers = {part: stack.enter_context(self._writer(text, part)) for part in text.parts}
            for part, writer in writers.items():
                writer.truncate(state["tokens"][part])  # to what was recorded last

            def record() -> None:
                for part, writer in writers.items():
                    writer.sync()
                    state["tokens"][part] = writer.size
                self._save()

            blocks = text.blocks(self.vocabulary.cut, self._told("Encoding"))
            blocks = itertools.islice(blocks, state["blocks"], None)
            for part, ids in encode_blocks(blocks, self._tokenizer, self._whole, n_processes(self._n_bytes)):
                writers[part].append(ids)
                state["blocks"] += 1
                if state["blocks"] % SAVE_EVERY == 0:
                    record()
            state["is_encoded"] = True
            record()

    def join(self) -> None:
        """Make one of all texts' tokens, as much of each as the mixture takes. Raises DataError and OSError."""
        between = separator(self._tokenizer)
        for part in PARTS:
            texts = self._texts_of(part)
            if any(part not in text.state["taken"] for text in texts):
                wanted = amounts([text.state["tokens"][part] for text in texts], [text.source for text in texts])
                for text, n_tokens in zip(texts, wanted, strict=True):
                    tokens = self._reader(text, part)
                    text.state["taken"][part] = _whole_characters(tokens, n_tokens, self._tokenizer)
                self._save()  # what is taken of the first is cut off below, and cannot be found out again
            first, *others = texts
            total = sum(text.state["taken"][part] for text in others)
            with self._writer(first, part) as whole:
                whole.truncate(first.state["taken"][part])
                for text in others:
                    whole.append(between)
                    tokens, n_tokens = self._reader(text, part), text.state["taken"][part]
                    for at in range(0, n_tokens, BLOCK):
                        ids = tokens.read(at, min(at + BLOCK, n_tokens))
                        whole.append(ids)
                        self._progress("Joining", len(ids), total)
                whole.sync()

    def finish(self, asked: dict[str, Any]) -> Path:
        """Record all this beside the tokens, and return their folder. Raises OSError."""
        dtype = token_dtype(self._tokenizer.vocab_size)
        readers = {part: ShardReader(self._whole, part, dtype) for part in PARTS}
        meta = {
            "format": FORMAT,
            "asked": asked,
            "parts": [text.summary() for text in self._texts],
            "vocab_size": self._tokenizer.vocab_size,
            "dtype": dtype.name,
            **{f"{part}_tokens": reader.size for part, reader in readers.items()},
            "files": {path.name: file_record(path) for path in token_files(self._whole)},
        }
        replace_json(self._whole / META, meta)
        (self._hidden / STATE).unlink()
        return self._whole

    def forget(self) -> None:
        """Leave nothing that could be gone on with. Raises OSError."""
        (self._hidden / STATE).unlink(missing_ok=True)
        for folder in self._hidden.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)

    def _told(self, stage: str) -> Count:
        """Return a function that reports the bytes that are read."""

        def tell(n_bytes: int) -> None:
            self._progress(stage, n_bytes, self._n_bytes)
            self._n_read += n_bytes
            if self._n_read >= RETURN_EVERY:
                self._n_read = 0
                return_freed_memory()

        return tell

    def _save(self) -> None:
        """Record how far the work is. Raises OSError."""
        replace_json(self._hidden / STATE, {"request": self._request(), "texts": [text.state for text in self._texts]})

    def _request(self) -> dict[str, Any]:
        """Return what the same work is known by without reading the texts, in the types of JSON."""
        return {
            "way": WAY,
            "block": BLOCK,
            "tokenizer": self.vocabulary.name,
            "texts": [text.request() for text in self._texts],
        }

    def _texts_of(self, part: str) -> list[SourceText]:
        return [text for text in self._texts if part in text.parts]

    def _folder(self, text: SourceText, part: str) -> Path:
        """Return where the tokens of a text are written: the first one's at once where all are joined."""
        number = self._texts.index(text)
        folder = self._whole if text is self._texts_of(part)[0] else self._hidden / str(number)
        folder.mkdir(exist_ok=True)
        return folder

    def _writer(self, text: SourceText, part: str) -> ShardWriter:
        return ShardWriter(self._folder(text, part), part, token_dtype(self._tokenizer.vocab_size))

    def _reader(self, text: SourceText, part: str) -> ShardReader:
        return ShardReader(self._folder(text, part), part, token_dtype(self._tokenizer.vocab_size))


def _whole_characters(tokens: ShardReader, at: int, tokenizer: Tokenizer) -> int:
    """Return the last place up to `at` where the tokens can be cut without cutting a character. Raises DataError."""
    if at == tokens.size:
        return at
    for place in range(at, max(at - LONGEST_CHARACTER, 0), -1):
        left = tokens.read(max(place - LONGEST_CHARACTER, 0), place)
        right = tokens.read(place, place + LONGEST_CHARACTER)
        if tokenizer.decode(left) + tokenizer.decode(right) == tokenizer.decode(np.concatenate([left, right])):
            return place
    return at
