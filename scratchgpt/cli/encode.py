"""`scratchgpt encode`: from text to ids, for pipes."""

import sys
from pathlib import Path
from typing import Any

import click

from scratchgpt.cli.options import answer_json_lines, text_pieces, vocabulary_options
from scratchgpt.errors import UsageError


@click.command("encode", short_help="Turn text into token ids.")
@vocabulary_options
@click.option("--special", is_flag=True, help="Read names of special tokens, such as <|endoftext|>, as these tokens.")
@click.option("--json", "is_json", is_flag=True, help='Read a {"text": ...} a line, write an {"ids": [...]} a line.')
def command(*, gpt2: bool, given: Path | None, special: bool, is_json: bool) -> None:
    """Turn the text of standard input into token ids, with spaces between them."""
    from scratchgpt.cli.options import vocabulary_of
    from scratchgpt.data.documents import whole_words

    tokenizer = vocabulary_of(gpt2=gpt2, given=given)
    if is_json:

        def answer(texts: list[str]) -> list[dict[str, Any]]:
            many = (
                [tokenizer.encode(text, special=True) for text in texts] if special else tokenizer.encode_batch(texts)
            )
            return [{"ids": ids.tolist()} for ids in many]

        answer_json_lines("text", str, answer)
        return
    n_characters, space = 0, ""
    name = "Standard input"
    pieces = text_pieces(sys.stdin.buffer, name, may_have_nul=True)  # decode gives back what encode takes
    for text in whole_words(pieces, None if special else tokenizer.cut, name):
        try:
            ids = tokenizer.encode(text, special=special).tolist()
        except UsageError as error:
            raise UsageError(
                f"After the first {n_characters:,} characters: {error}" if n_characters else str(error)
            ) from error
        if ids:
            sys.stdout.write(space + " ".join(map(str, ids)))
            space = " "
        n_characters += len(text)
    sys.stdout.write("\n")
