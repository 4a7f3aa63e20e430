"""Blocks of documents to token ids, in several processes where there is much text; the order is kept.

The processes are started as `python -m scratchgpt.data.encode_worker` and hear and say nothing but bytes: unlike
`multiprocessing`, that asks nothing of the program that imports us.
"""

import contextlib
import queue
import struct
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from scratchgpt import processes
from scratchgpt.data.dataset import token_dtype
from scratchgpt.data.shards import Tokens, TokenType
from scratchgpt.machine import usable_cores
from scratchgpt.tokenizer import Tokenizer, end_of_text

BORDER = b"\xff"
"""What stands between two documents in a block: no byte of UTF-8."""

WORTH_A_PROCESS = 2**24
"""Bytes of text for which the start of one more process is worth while."""

MOST_PROCESSES = 8
"""More are not fed: text is read and cut six times as fast as a process encodes it. Each takes memory and pipes."""

PIPE_SIZE = 2**20
"""Bytes that may wait in a pipe, where that can be chosen: enough for most blocks, so that nobody waits for turns."""

SIZE = struct.Struct("<Q")


def separator(tokenizer: Tokenizer) -> npt.NDArray[np.uint32]:
    """Return what stands between two documents: <|endoftext|>, else a newline, else nothing, as the vocabulary has."""
    end = end_of_text(tokenizer)
    return tokenizer.encode("\n" if "\n" in tokenizer else "") if end is None else np.array([end], np.uint32)


class BlockEncoder:
    """Turns blocks into ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the tokenizer."""
        self._tokenizer = tokenizer
        self._between = separator(tokenizer)
        self.dtype = token_dtype(tokenizer.vocab_size)

    def __call__(self, block: bytes) -> Tokens:
        """Return the ids (N,) of a block: documents in UTF-8 with a `BORDER` between two. Raises UsageError."""
        first, *others = self._tokenizer.encode_batch([text.decode("utf-8") for text in block.split(BORDER)])
        parts = [first, *(ids for other in others for ids in (self._between, other))]
        return np.concatenate(parts, dtype=self.dtype, casting="same_kind")


def n_processes(n_bytes: int) -> int:
    """Return how many processes so much text is worth."""
    return max(min(n_bytes // WORTH_A_PROCESS, usable_cores(), MOST_PROCESSES), 1)


def encode_blocks(
    blocks: Iterable[tuple[str, bytes]], tokenizer: Tokenizer, folder: Path, n_processes: int
) -> Iterator[tuple[str, Tokens]]:
    """Yield the names of blocks and their ids. `folder` holds the tokenizer's files. Raises UsageError."""
    encode_here = BlockEncoder(tokenizer)
    if n_processes == 1:
        yield from ((name, encode_here(block)) for name, block in blocks)
        return
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(n_processes):
            idle.put(stack.enter_context(_Worker(folder, encode_here.dtype)))

        def encode(block: bytes) -> Tokens | None:
            worker = idle.get()
            try:
                return worker.encode(block)
            finally:
                idle.put(worker)

        pool = ThreadPoolExecutor(n_processes)
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting: deque[tuple[str, bytes, Future[Tokens | None]]] = deque()

        def next_done() -> tuple[str, Tokens]:
            name, block, future = waiting.popleft()
            ids = future.result()
            # What a process did not live to do, or could not, is done here, where an error is raised as ever.
            return name, encode_here(block) if ids is None else ids

        for name, block in blocks:
            waiting.append((name, block, pool.submit(encode, block)))
            if len(waiting) > 2 * n_processes:  # enough that nobody idles; more would only fill the memory
                yield next_done()
        while waiting:
            yield next_done()


class _Worker:
    """A process that encodes."""

    def __init__(self, folder: Path, dtype: TokenType) -> None:
        """Start it, with the tokenizer in `folder`, whose ids are of this type."""
        self._dtype = dtype
        self._process = processes.start(
            "scratchgpt.data.encode_worker", [folder.resolve()], stderr=subprocess.DEVNULL, pipesize=PIPE_SIZE
        )
        self._to: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        self._from: IO[bytes] = self._process.stdout  # type: ignore[assignment]

    def __enter__(self) -> Self:
        """Nothing more to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(OSError):  # what it has not read
            self._to.close()
        self._from.close()
        self._process.wait()

    def encode(self, block: bytes) -> Tokens | None:
        """Return the ids of a block, or None if the process has ended."""
        with contextlib.suppress(OSError):
            write_frame(self._to, block)
            if (ids := read_frame(self._from)) is not None:
                return np.frombuffer(ids, self._dtype)
        return None


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Write a content and, before it, its size. Raises OSError."""
    stream.write(SIZE.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return what `write_frame` wrote; None if nothing more comes. Raises OSError."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    (size,) = SIZE.unpack(head)
    content = stream.read(size)
    return content if len(content) == size else None
