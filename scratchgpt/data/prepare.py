"""From texts to a prepared folder: two passes over the text, in constant memory.

The first pass counts characters, hashes files and learns the vocabulary; the second writes tokens. A mixture is
written source by source and then cut to its ratio, since only then it is known how many tokens there are.

All this is done in a hidden folder beside the one that is asked for. If it is interrupted in the second pass, the
hidden folder stays, and preparing the same again goes on from there.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scratchgpt.data.dataset import read_meta
from scratchgpt.data.documents import Progress
from scratchgpt.data.mix import Source, find_sources
from scratchgpt.data.prepared import Prepared, is_prepared, publish
from scratchgpt.data.reading import Reading
from scratchgpt.data.vocabulary import Characters, Vocabulary
from scratchgpt.data.work import STATE, SourceText, Work
from scratchgpt.errors import DataError, ScratchGPTError, UsageError
from scratchgpt.lock import FolderLock


def prepare(
    source: Path | Sequence[Source],
    folder: Path,
    *,
    vocabulary: Vocabulary | None = None,
    how: Reading = Reading(),  # noqa: B008 - it cannot change
    val: Source | None = None,
    val_fraction: float = 0.1,
    force: bool = False,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Turn texts into token files, tokenizer.json and meta.json in `folder`; by default a character a token.

    `source` is a file or folder, or what `find_sources` found. `val` is for validation; without it, that is the last
    `val_fraction` of each source's characters. The same texts prepared again are left as they are; anything else in
    the way is kept unless `force`. Raises DataError and UsageError.
    """
    sources = find_sources([source]) if isinstance(source, Path) else list(source)
    _check(sources, val, folder, val_fraction)
    texts = [SourceText(each, how, val_share=0.0 if val else val_fraction) for each in sources]
    texts += [SourceText(val, how, val_share=1.0)] if val else []
    try:
        with _hidden_folder(folder, tell) as hidden:
            work = Work(texts, vocabulary or Characters(), hidden, progress)
            work.survey()
            asked = {
                "tokenizer": work.vocabulary.name,
                "reading": work.reading(how),
                "val_fraction": None if val else val_fraction,
                "sources": [text.record() for text in texts[: len(sources)]],
                "val": texts[-1].record() if val else None,
            }
            is_new = force or not is_prepared(folder, asked)
            if is_new:
                work.encode()
                work.join()
                publish(work.finish(asked), folder.resolve())
            work.forget()
    except OSError as error:
        raise DataError(
            f"Cannot write the prepared data into {folder}: {error.strerror or error}.",
            advice="Once that is mended, the same command goes on from there.",
            page="Once that is mended, prepare the same text under the same name again: it goes on from there.",
        ) from error
    return Prepared(folder, read_meta(folder), is_new, work.was_interrupted)


def _check(sources: list[Source], val: Source | None, folder: Path, val_fraction: float) -> None:
    """Refuse what cannot be meant. Raises UsageError."""
    if not 0 < val_fraction < 1:
        raise UsageError(f"The validation fraction must be between 0 and 1, not {val_fraction}.")
    files = [file for source in sources for file in source.files]
    held_out = val.files if val else []
    both = {file.path.resolve() for file in files}.intersection(file.path.resolve() for file in held_out)
    if both:
        raise UsageError(f"{min(both)} is text to train on and to validate; name each for one of them only.")
    place = folder.resolve()
    for root in {file.root for file in (*files, *held_out)}:
        if place.is_relative_to(root.resolve()):
            raise UsageError(
                f"{folder} is or is inside the text {root}.",
                advice="Name another folder for the tokens with --out.",
                page="Choose another name.",
            )
    if not place.name or (place.exists() and not place.is_dir()):
        raise UsageError(
            f"{folder} cannot be the folder for the tokens.",
            advice="Name another one with --out.",
            page="Choose another name.",
        )


@contextlib.contextmanager
def _hidden_folder(folder: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield a folder to work in, locked; it stays if there is a state in it and the work was not in error."""
    place = folder.resolve()  # beside a link, the hidden folder might be on another disk
    hidden = place.with_name(f".{place.name}.partial")
    hidden.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(hidden, DataError(f"Another program is preparing {folder}; wait until it is done."))
    if lock.note:
        tell(lock.note)
    try:
        yield hidden
    except ScratchGPTError:
        (hidden / STATE).unlink(missing_ok=True)  # going on would fail again
        raise
    finally:
        if (hidden / STATE).exists():
            lock.release()
        else:
            lock.remove_folder()
