"""`scratchgpt decode`: from ids to text, for pipes."""

import codecs
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchgpt.cli.options import answer_json_lines, standard_input, vocabulary_options
from scratchgpt.errors import UsageError
from scratchgpt.kinds import MARKS, mark_of

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.tokenizer import Tokenizer

LONGEST_MARK = max(map(len, MARKS))

LONGEST_ID = 20
"""Characters; no id is longer."""


@click.command("decode", short_help="Turn token ids into text.")
@vocabulary_options
@click.option("--json", "is_json", is_flag=True, help='Read an {"ids": [...]} a line, write a {"text": ...} a line.')
def command(*, gpt2: bool, given: Path | None, is_json: bool) -> None:
    """Turn the token ids of standard input, with white space between them, into the text that they stand for."""
    from scratchgpt.cli.options import vocabulary_of

    tokenizer = vocabulary_of(gpt2=gpt2, given=given)
    if is_json:
        answer_json_lines(
            "ids", list, lambda many: [{"text": tokenizer.decode(_checked(ids, tokenizer))} for ids in many]
        )
        return
    id_of_word = {b"%d" % index: index for index in {*range(tokenizer.vocab_size)}.difference(tokenizer.unused)}
    line, rest = 1, b""
    for data in _without_mark(standard_input()):
        block = rest + data
        words = block.split()
        # What ends a block may go on in the next one, unless it is too long to be an id.
        is_whole = not data or block[-1:].isspace() or len(words[-1]) > LONGEST_ID
        rest = b"" if is_whole else words.pop()
        try:
            ids = [id_of_word[word] for word in words]
        except KeyError as error:
            (word,) = error.args
            place = re.search(rb"(?<!\S)" + re.escape(word) + rb"(?!\S)", block)
            line += block[: place.start() if place else None].count(b"\n")
            shown = word.decode("utf-8", "replace")
            raise UsageError(f"Line {line:,} of standard input: {_complaint(shown, tokenizer)}") from error
        line += block.count(b"\n")
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids))


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks, the last of which is empty, without a byte order mark, and in UTF-8 if the mark is another's."""
    start = b""
    while len(start) < LONGEST_MARK and (data := next(blocks)):
        start += data
    mark, encoding = mark_of(start)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for data in chain([start[len(mark) :]], blocks):
        if text := decoder.decode(data):
            yield text.encode("utf-8")
    if text := decoder.decode(b"", final=True):
        yield text.encode("utf-8")
    yield b""


def _checked(ids: list[Any], tokenizer: "Tokenizer") -> list[int]:
    """Return the ids. Raises UsageError if an item is no id of a token."""
    unused = set(tokenizer.unused)
    for index in ids:
        if type(index) is not int or not 0 <= index < tokenizer.vocab_size or index in unused:
            raise UsageError(_complaint(index, tokenizer))
    return ids


def _complaint(given: object, tokenizer: "Tokenizer") -> str:
    end = f"below {tokenizer.vocab_size:,}" + (" that stand for tokens" if tokenizer.unused else "")
    return f"{repr(given)[:30]} is no id; ids are whole numbers {end}, as encode gives them."
