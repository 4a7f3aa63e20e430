"""`scratchgpt decode`: from ids to text, for pipes."""

import sys
from pathlib import Path

import click

from scratchgpt.cli.options import json_lines, vocabulary_options


@click.command("decode", short_help="Turn token ids into text.")
@vocabulary_options
@click.option("--json", "is_json", is_flag=True, help='Read an {"ids": [...]} a line, write a {"text": ...} a line.')
def command(*, gpt2: bool, given: Path | None, is_json: bool) -> None:
    """Turn the token ids of standard input, with white space between them, into the text that they stand for."""
    from scratchgpt.cli.options import vocabulary_of
    from scratchgpt.errors import UsageError

    tokenizer = vocabulary_of(gpt2=gpt2, given=given)
    if is_json:
        for ids, answer in json_lines("ids", list):
            answer({"text": tokenizer.decode(ids)})
        return
    ids = []
    for word in sys.stdin.read().split():
        if not word.isascii() or not word.isdigit():
            raise UsageError(f"{word[:20]!r} is no id; standard input must be whole numbers, as encode gives them.")
        ids.append(int(word))
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
