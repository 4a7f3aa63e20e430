"""`scratchgpt encode`: from text to ids, for pipes."""

import sys
from pathlib import Path

import click

from scratchgpt.cli.options import json_lines, vocabulary_options


@click.command("encode", short_help="Turn text into token ids.")
@vocabulary_options
@click.option("--json", "is_json", is_flag=True, help='Read a {"text": ...} a line, write an {"ids": [...]} a line.')
def command(*, gpt2: bool, given: Path | None, is_json: bool) -> None:
    """Turn the text of standard input into token ids, with spaces between them."""
    from scratchgpt.cli.options import vocabulary_of
    from scratchgpt.errors import DataError

    tokenizer = vocabulary_of(gpt2=gpt2, given=given)
    if is_json:
        for text, answer in json_lines("text", str):
            answer({"ids": tokenizer.encode(text).tolist()})
        return
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Standard input is not UTF-8: the byte at offset {error.start:,} does not belong; save the text as UTF-8."
        ) from error
    click.echo(" ".join(map(str, tokenizer.encode(text).tolist())))
