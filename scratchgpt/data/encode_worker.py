"""A process that turns blocks into ids for another one (encoding.py), until its input ends."""

import itertools
import sys
from pathlib import Path

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.encoding import BlockEncoder, read_frame, write_frame
from scratchgpt.machine import return_freed_memory

RETURN_EVERY = 32
"""Blocks after which freed memory is returned."""


def main() -> None:
    """Encode what comes in."""
    encode = BlockEncoder(tokenizers.load(Path(sys.argv[1])))
    for number in itertools.count(1):
        block = read_frame(sys.stdin.buffer)
        if block is None:
            return
        write_frame(sys.stdout.buffer, encode(block).tobytes())
        if number % RETURN_EVERY == 0:
            return_freed_memory()


if __name__ == "__main__":
    main()
