"""`scratchgpt export`: a trained model as a file for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scratchgpt.cli import say
from scratchgpt.errors import UsageError
from scratchgpt.extras import imports

if TYPE_CHECKING:  # imported when the command runs
    from collections.abc import Sequence

    from scratchgpt.config import ModelConfig
    from scratchgpt.ops.array import Array
    from scratchgpt.tokenizer import Tokenizer

FILE = click.Path(dir_okay=False, path_type=Path)
POSITIONS = 1024
"""Of a GPT-2 unless told otherwise."""


@click.command("export", short_help="Write a trained model for other programs.")
@click.argument("model", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@click.option("--gguf", metavar="FILE", type=FILE, help="For llama.cpp and the programs around it.")
@click.option("--onnx", metavar="FILE", type=FILE, help="For onnxruntime and other runtimes.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(*, model: Path | None, gguf: Path | None, onnx: Path | None, force: bool) -> None:
    """Write the model of RUN (a run, a checkpoint or a folder), by default the newest in runs/, as one file.

    `transformers` needs none of this: it opens a checkpoint's folder as it is.
    """
    from scratchgpt.cli.progress import waiting
    from scratchgpt.files import require_free, written_whole
    from scratchgpt.model.folder import end_tokens
    from scratchgpt.training import checkpoint
    from scratchgpt.training.locate import locate

    if not (gguf or onnx):
        raise UsageError("Say what to write: --gguf FILE, or --onnx FILE.")
    for asked in filter(None, (gguf, onnx)):
        require_free(asked, force=force)  # before any is written
    folder = locate(model)
    with waiting(f"Reading {folder} ..."):
        config, params, tokenizer = checkpoint.read_model(folder)
        ends = end_tokens(folder, config.vocab_size)
    for path, write in ((gguf, _write_gguf), (onnx, _write_onnx)):
        if path is not None:
            with written_whole(path, force=force) as temporary:
                note = write(temporary, config, params, tokenizer, ends)
            say(f"{path}: {folder}, {params.size:,} parameters. {note} {_about_unused(tokenizer)}".rstrip())


def _about_unused(tokenizer: "Tokenizer") -> str:
    """Return a sentence on rows of the model that have no token, if there are any."""
    if not tokenizer.unused:
        return ""
    return f"{len(tokenizer.unused):,} ids, such as {tokenizer.unused[-1]}, stand for no token; do not sample them."


def _write_gguf(
    path: Path, config: "ModelConfig", params: "Array", tokenizer: "Tokenizer", ends: "Sequence[int]"
) -> str:
    """Write a GGUF file; return what is to be known of it. Raises UsageError and OSError."""
    from scratchgpt.cli.progress import stages

    with imports("Writing GGUF", "gguf"):
        from scratchgpt.interchange import gguf
    with stages("GGUF") as show:
        has_vocabulary = gguf.write(
            path, config, params, tokenizer, ends=ends, progress=lambda n_bytes, of: show("Writing", n_bytes, of)
        )
    notes = []
    if not has_vocabulary:
        notes.append(
            "The vocabulary is not in it, for GGUF knows none of this kind: its readers take and give ids, "
            "which `scratchgpt encode` and `decode` make and read."
        )
    arguments = {"n_positions": config.block_size} if config.block_size != POSITIONS else {}
    arguments |= {"n_inner": config.n_inner} if config.n_inner else {}
    arguments |= {} if has_vocabulary else {"vocab_size": config.vocab_size}
    if arguments:
        said = ", ".join(f"{name}={value}" for name, value in arguments.items())
        notes.append(f"`transformers` has to be told: from_pretrained(..., gguf_file=..., {said}).")
    return " ".join(notes)


def _write_onnx(
    path: Path, config: "ModelConfig", params: "Array", tokenizer: "Tokenizer", ends: "Sequence[int]"
) -> str:
    """Write an ONNX file; return what is to be known of it. Raises UsageError and OSError."""
    from scratchgpt.cli.progress import waiting

    del tokenizer
    with imports("Writing ONNX", "onnx"):
        from scratchgpt.interchange import onnx
    with waiting("Writing ONNX ..."):
        onnx.write(path, config, params, ends)
    return (
        f"input_ids (B, T), int64, T up to {config.block_size:,} -> logits (B, T, {config.vocab_size:,}). "
        "The vocabulary stays in tokenizer.json."
    )
