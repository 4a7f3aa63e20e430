"""`scratchgpt decode`: from ids to text, for pipes."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from scratchgpt.cli.options import answer_json_lines, standard_input, vocabulary_options
from scratchgpt.errors import UsageError

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
            "ids", list, lambda many: [{"text": tokenizer.decode(_checked(ids, tokenizer.vocab_size))} for ids in many]
        )
        return
    id_of_word = {b"%d" % index: index for index in range(tokenizer.vocab_size)}
    line, rest = 1, b""
    for data in standard_input():
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
            raise UsageError(f"Line {line:,} of standard input: {_complaint(shown, tokenizer.vocab_size)}") from error
        line += block.count(b"\n")
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids))


def _checked(ids: list[Any], vocab_size: int) -> list[int]:
    """Return the ids. Raises UsageError if one is none."""
    for index in ids:
        if type(index) is not int or not 0 <= index < vocab_size:
            raise UsageError(_complaint(index, vocab_size))
    return ids


def _complaint(given: object, vocab_size: int) -> str:
    return f"{repr(given)[:30]} is no id; ids are whole numbers below {vocab_size:,}, as encode gives them."
