"""`scratchgpt prepare`: from texts to token files."""

import contextlib
import math
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import vocabulary_of, vocabulary_options
from scratchgpt.errors import DataError, UsageError
from scratchgpt.wording import counted

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.data.mix import Source
    from scratchgpt.data.prepared import Prepared
    from scratchgpt.data.reading import Reading
    from scratchgpt.data.sources import TextFile
    from scratchgpt.data.vocabulary import Vocabulary

STANDARD_INPUT = (Path("-"), Path("/dev/stdin"))
DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))
"""Folders of open files, which some systems let be read only once."""
VOCAB_SIZE = 4096
"""Tokens that are learnt unless told otherwise: a good number for some megabytes of text."""


@click.command("prepare")
@click.argument(
    "sources", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path)
)
@click.option("--char", is_flag=True, help="One token for each character (the default).")
@click.option("--bpe", is_flag=True, help="Learn a vocabulary of byte pairs from the texts.")
@click.option("--vocab-size", type=int, help=f"Of --bpe, the most tokens; by default {VOCAB_SIZE:,}.")
@vocabulary_options
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to write; by default data/<name>.")
@click.option(
    "--val", metavar="FILE", type=click.Path(exists=True, allow_dash=True, path_type=Path), help="Text for validation."
)
@click.option("--val-fraction", type=float, help="Share of each source for validation; by default 0.1.")
@click.option("--mix", metavar="NAME=WEIGHT", multiple=True, help="What each file or sub-folder weighs, in tokens.")
@click.option("--mix-folders", is_flag=True, help="Sub-folders such as 25_lovecraft say what they weigh.")
@click.option("--field", metavar="NAME", help="The text's field in JSON, CSV and Parquet; by default text.")
@click.option(
    "--errors",
    type=click.Choice(["strict", "replace"]),
    default="strict",
    show_default=True,
    help="What is not UTF-8 is an error, or becomes U+FFFD.",
)
@click.option(
    "--separator",
    metavar="TEXT",
    help="Ends a document inside a text; by default a line that holds only <|endoftext|>; '': nothing.",
)
@click.option("--strict", is_flag=True, help="A row without text is an error; else it is passed over and counted.")
@click.option("--strip-gutenberg", is_flag=True, help="Leave out Project Gutenberg's header and footer.")
@click.option("--force", is_flag=True, help="Replace what was prepared there from something else.")
@click.option("--check", is_flag=True, help="Only read the texts and count them; write nothing.")
@click.option("--longest", metavar="N", type=click.IntRange(1), help="Of --check, the most characters.")
def command(
    *,
    sources: tuple[Path, ...],
    char: bool,
    bpe: bool,
    vocab_size: int | None,
    gpt2: bool,
    given: Path | None,
    out: Path | None,
    val: Path | None,
    val_fraction: float | None,
    mix: tuple[str, ...],
    mix_folders: bool,
    field: str | None,
    force: bool,
    check: bool,
    longest: int | None,
    **settings: Any,
) -> None:
    """Turn texts into a folder of tokens to train on.

    FILE is plain text, JSON lines (.jsonl), a JSON array (.json), CSV (.csv, .tsv) or Parquet, also packed by gzip,
    zstd, xz or bzip2, or in a tar or ZIP archive; a folder of them; a pipe; or - for standard input. The last two are
    JSON lines or a JSON array if --field is given. With --mix-folders, a folder with sub-folders like 25_lovecraft and
    75_shakespeare is a mixture with that ratio of tokens.
    """
    from scratchgpt.cli.progress import stages
    from scratchgpt.data.prepare import prepare
    from scratchgpt.data.reading import Reading
    from scratchgpt.data.sources import check_reading

    if longest is not None and not check:
        raise UsageError("--longest is for --check; leave it out.")
    vocabulary = _vocabulary(char=char, bpe=bpe, vocab_size=vocab_size, gpt2=gpt2, given=given)
    if val and val_fraction is not None:
        raise UsageError("--val is the whole of the validation text; leave out --val-fraction.")
    folder = out or _default_folder(sources)
    how = Reading(field or "text", **settings)
    named = [*sources, *([val] if val else ())]
    with _read_twice(named, folder.parent, is_json=field is not None) as paths:
        found, held_out = _found(paths, len(sources), mix, mix_folders=mix_folders)
        files = [file for source in (*found, *held_out) for file in source.files]
        check_reading(files, how)
        if check:
            _check(_shown(sources), files, how, longest or math.inf)
            return
        with _interruptible(is_kept=not any(map(_stream_name, named))), stages(_shown(sources)) as progress:
            prepared = prepare(
                found,
                folder,
                vocabulary=vocabulary,
                how=how,
                val=next(iter(held_out), None),
                val_fraction=0.1 if val_fraction is None else val_fraction,
                force=force,
                progress=progress,
                tell=lambda what: say(what, err=True),
            )
    _conclude(prepared, vocabulary, how, n_files=len(files), unweighted=() if mix or mix_folders else sources)


def _found(
    paths: Sequence[Path], n_sources: int, mix: Sequence[str], *, mix_folders: bool
) -> tuple[list["Source"], list["Source"]]:
    """Return the sources to train on, the first of the paths, and the one for validation if there is another path."""
    from scratchgpt.data.mix import Source, find_sources, source_name
    from scratchgpt.data.sources import text_files

    found = find_sources(paths[:n_sources], mix, mix_folders=mix_folders)
    return found, [Source(source_name(path), text_files(path)) for path in paths[n_sources:]]


def _check(name: str, files: "Sequence[TextFile]", how: "Reading", longest: float) -> None:
    """Read the texts and say what is in them. Raises DataError if there are more than `longest` characters."""
    from scratchgpt.cli.progress import stages
    from scratchgpt.data.sources import measure, without_text

    n_bytes = sum(file.path.stat().st_size for file in files)
    with stages(name) as progress:
        n_documents, n_characters, n_skipped = measure(
            files, how, longest=longest, read=lambda n: progress("Checking", n, n_bytes)
        )
    say(f"{name}: {counted(n_documents, 'document')}, {counted(n_characters, 'character')}{without_text(n_skipped)}.")


def _conclude(
    prepared: "Prepared", vocabulary: "Vocabulary", how: "Reading", *, n_files: int, unweighted: Sequence[Path]
) -> None:
    """Say what was prepared, and which options the texts look as if they need."""
    from scratchgpt.cli.sources import show_sources
    from scratchgpt.data.mix import looks_weighted
    from scratchgpt.data.reading import Reading
    from scratchgpt.data.sources import without_text
    from scratchgpt.data.vocabulary import Characters, Pieces

    meta = prepared.meta
    n_skipped = sum(part.get("skipped_rows", 0) for part in meta["parts"])
    if prepared.was_interrupted:
        say("This went on where it had been interrupted.")
    if n_files > 1 or meta["parts"][0]["documents"] > 1 or how != Reading():
        show_sources(meta)
    _show_separators(meta, how.separator)
    if looks_weighted(unweighted):
        say("All text is kept. To take the numbers in the folders' names as weights, use --mix-folders.")
    if isinstance(vocabulary, Pieces) and meta["vocab_size"] < vocabulary.vocab_size:
        say(f"This text gives {meta['vocab_size']:,} tokens, fewer than {vocabulary.vocab_size:,}.")
    say(
        f"{prepared.folder} {'is ready' if prepared.is_new else 'was prepared from this text before'}: "
        f"{meta['train_tokens']:,} tokens to train on, {meta['val_tokens']:,} to validate, "
        f"{meta['vocab_size']:,} different {'characters' if isinstance(vocabulary, Characters) else 'tokens'}"
        f"{without_text(n_skipped)}."
    )


def _show_separators(meta: dict[str, Any], separator: str | None) -> None:
    """Print which separators ended documents, and which look as if they should have."""
    from scratchgpt.tokenizer import END_OF_TEXT

    n_ended, n_spelled = (sum(part.get(name, 0) for part in meta["parts"]) for name in ("separators", "ends_spelled"))
    if separator:
        say(f"Documents end at {separator!r}, found {counted(n_ended, 'time')}.")
    elif separator is None and n_ended:
        say(f"Documents end at lines that hold only {END_OF_TEXT}, found {counted(n_ended, 'time')}.")
    if separator is None and n_spelled:
        say(
            f"The text has {END_OF_TEXT} {counted(n_spelled, 'time')} inside lines, where it stays text. "
            f"To end documents there, use --separator '{END_OF_TEXT}'."
        )


def _shown(sources: Sequence[Path]) -> str:
    """Return what is told to be read."""
    others = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0]}{others}"


@contextlib.contextmanager
def _interruptible(*, is_kept: bool) -> Iterator[None]:
    """Say what an interruption costs."""
    kept = "What is encoded is kept; the same command goes on from there."
    lost = "Standard input or the pipe has to be given again, from its beginning."
    try:
        yield
    except KeyboardInterrupt as error:
        say(f"Interrupted. {kept if is_kept else lost}", err=True)
        raise click.exceptions.Exit(128 + signal.SIGINT) from error


def _vocabulary(*, char: bool, bpe: bool, vocab_size: int | None, gpt2: bool, given: Path | None) -> "Vocabulary":
    """Return where the tokenizer is to come from. Raises UsageError and DataError."""
    from scratchgpt.data.vocabulary import Characters, Given, Pieces

    if char + bpe + gpt2 + (given is not None) > 1:
        raise UsageError("--char, --bpe, --gpt2 and --tokenizer name different vocabularies; choose one.")
    if vocab_size is not None and not bpe:
        raise UsageError("--vocab-size is how many tokens --bpe learns; give both, or neither.")
    if bpe:
        return Pieces(VOCAB_SIZE if vocab_size is None else vocab_size)
    return Given(vocabulary_of(gpt2=gpt2, given=given)) if gpt2 or given else Characters()


def _default_folder(sources: Sequence[Path]) -> Path:
    """Return a folder named after the only source. Raises UsageError if there are several."""
    from scratchgpt.data.mix import source_name
    from scratchgpt.training.places import DATA

    if len(sources) > 1:
        raise UsageError("There are several texts; name the folder for their tokens with --out, as in --out data/mine.")
    source = sources[0]
    folder = DATA / source_name(Path(_stream_name(source) or source))
    return folder.with_name(f"{folder.name}-tokens") if folder.resolve() == source.resolve() else folder


def _stream_name(path: Path) -> str:
    """Return what a copy of standard input or of a pipe is called; nothing for a file, which can be read twice."""
    if path in STANDARD_INPUT:
        return "stdin"
    if path.parent in DESCRIPTORS:
        return f"pipe-{path.name}"
    return path.name if path.is_fifo() else ""


@contextlib.contextmanager
def _read_twice(paths: Sequence[Path], folder: Path, *, is_json: bool) -> Iterator[list[Path]]:
    """Yield the paths with a file in the place of each that can be read only once. Raises UsageError and DataError."""
    streams = [path for path in paths if _stream_name(path)]
    if not streams:
        yield list(paths)
        return
    if sum(path in STANDARD_INPUT for path in streams) > 1:
        raise UsageError("Standard input can be read only once; name - once.")
    if len(set(streams)) < len(streams):
        raise UsageError("A pipe can be read only once; name it once.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stdin-", dir=folder) as temporary:
        copies = {}
        for number, path in enumerate(streams):
            name = _stream_name(path)
            suffix = "" if Path(name).suffix else ".jsonl" if is_json else ".txt"
            copies[path] = Path(temporary) / str(number) / f"{name}{suffix}"
            copies[path].parent.mkdir()
            _copy(path, copies[path])
        yield [copies.get(path, path) for path in paths]


def _copy(path: Path, copy: Path) -> None:
    """Copy standard input or a pipe. Raises DataError for a device, which may have no end."""
    from scratchgpt.cli.progress import byte_progress
    from scratchgpt.data.plain import CHUNK

    is_standard = path in STANDARD_INPUT
    name = "standard input" if is_standard else str(path)
    with contextlib.ExitStack() as stack:
        try:
            stream = sys.stdin.buffer if is_standard else stack.enter_context(path.open("rb"))
            if _is_device(stream):
                raise DataError(f"Cannot read {name}: it is a device, no file or pipe; name a text in its place.")
            progress = stack.enter_context(byte_progress(f"Reading {name}"))
            file = stack.enter_context(copy.open("wb"))
            while data := stream.read(CHUNK):
                progress(file.write(data))
        except OSError as error:
            raise DataError(f"Cannot read {name}: {error.strerror or error}.") from error


def _is_device(stream: BinaryIO) -> bool:
    """Whether this is a device such as /dev/zero, and no terminal."""
    with contextlib.suppress(OSError):  # it may be no file of the system
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty()
    return False
