"""A process that turns blocks into ids for another one (encoding.py), until its input ends."""

import sys
from pathlib import Path

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.encoding import BlockEncoder, read_frame, write_frame


def main() -> None:
    """Encode what comes in."""
    encode = BlockEncoder(tokenizers.load(Path(sys.argv[1])))
    while (block := read_frame(sys.stdin.buffer)) is not None:
        write_frame(sys.stdout.buffer, encode(block).tobytes())


if __name__ == "__main__":
    main()
