"""The array encoder in several processes, for texts so large that starting those (a second) does not matter."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import pairwise

import numpy.typing as npt

from scratchgpt.tokenizer.bpe_arrays import ArrayEncoder, piece_bounds
from scratchgpt.tokenizer.merging import Ids
from scratchgpt.tokenizer.splitting import PADDING

BLOCK = 2**22
"""Bytes that a process gets at once, or a little more."""
TAIL = 2**12
"""Bytes at a block's end among which a cut is looked for."""
NEARBY = 16
"""Bytes in front of a place that decide whether a piece starts there: four characters of the longest kind."""

Parts = tuple[Sequence[bytes], npt.ArrayLike, npt.ArrayLike]
"""What an `ArrayEncoder` is made of."""


def encode_parallel(parts: Parts, blocks: Iterable[bytes], n_processes: int) -> Iterator[Ids]:
    """Yield in parts and in order the ids of a text in valid UTF-8 that comes in blocks, cut anywhere."""
    context = multiprocessing.get_context("spawn")  # a forked process may inherit a lock that nobody will open
    with ProcessPoolExecutor(n_processes, context, _start, parts) as pool:
        waiting: deque[Future[Ids]] = deque()
        for block in whole_blocks(blocks):
            waiting.append(pool.submit(_encode, block))
            if len(waiting) > 2 * n_processes:  # enough that nobody idles; more would only fill the memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def whole_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same text in other blocks, of about `BLOCK` bytes, cut only where a piece starts."""
    rest = b""
    for block in blocks:
        rest += block
        if len(rest) < BLOCK:
            continue
        start, end = max(len(rest) - TAIL, 0), len(rest) - 1
        while 0x80 <= rest[start] < 0xC0:  # in the middle of a character
            start += 1
        while 0x80 <= rest[end] < 0xC0:
            end -= 1
        # Only the tail is split. What comes before it would change no start of a piece but those nearby. There is no
        # cut behind white space, whose last character goes with what follows, if something does.
        tail = rest[start:end]
        pieces = pairwise(piece_bounds(tail + PADDING, is_end=False).tolist())
        cuts = [end for begin, end in pieces if begin >= NEARBY and not tail[begin:end].decode("utf-8").isspace()]
        if cuts:
            yield rest[: start + cuts[-1]]
            rest = rest[start + cuts[-1] :]
    yield rest


_encoder: ArrayEncoder
"""The one of this process."""


def _start(token_bytes: Sequence[bytes], byte_ids: npt.ArrayLike, merges: npt.ArrayLike) -> None:
    """Prepare a new process."""
    global _encoder  # noqa: PLW0603  # a pool's tasks find nothing else of their process
    _encoder = ArrayEncoder(token_bytes, byte_ids, merges)


def _encode(block: bytes) -> Ids:
    """Encode a block in a process that is prepared."""
    return _encoder.encode_bytes(block)
