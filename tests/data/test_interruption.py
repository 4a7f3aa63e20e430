"""`prepare` interrupted anywhere and begun again: the files are those of an undisturbed run."""

import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.data import plain, shards, unpacking, work
from scratchgpt.data.mix import find_sources
from scratchgpt.data.prepare import prepare
from scratchgpt.data.prepared import Prepared
from scratchgpt.data.vocabulary import Pieces, Vocabulary
from scratchgpt.errors import DataError
from scratchgpt.files import replace_json
from scratchgpt.lock import FolderLock

VOCAB_SIZE = 280


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be many blocks, records and shards in a small text."""
    monkeypatch.setattr(plain, "CHUNK", 64)
    monkeypatch.setattr(unpacking, "PIECE", 64)
    monkeypatch.setattr(unpacking, "START", 64)
    monkeypatch.setattr(work, "BLOCK", 128)
    monkeypatch.setattr(work, "SAVE_EVERY", 3)
    monkeypatch.setattr(shards.ShardWriter.__init__, "__kwdefaults__", {"shard_size": 200})


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A mixture of two sources, of several documents each."""
    for name, word in (("40_rain", "the rain in Spain\n"), ("60_plain", "stays – mainly – in the plain 日本\n")):
        (tmp_path / "mix" / name).mkdir(parents=True)
        for number in range(3):
            text = f"{word}{number} " * 20
            (tmp_path / "mix" / name / f"{number}.txt").write_text(text, encoding="utf-8")
    shutil.copy(tmp_path / "mix" / "40_rain" / "0.txt", tmp_path / "val.txt")
    return tmp_path / "mix"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(mixture: Path, folder: Path, *, stop_at: int = -1) -> Prepared:
    """Prepare the mixture; be interrupted when so many reports of progress were made."""
    n_reports = itertools.count(1)

    def progress(*_: object) -> None:
        if next(n_reports) == stop_at:
            raise KeyboardInterrupt

    vocabulary: Vocabulary = Pieces(VOCAB_SIZE)
    (val,) = find_sources([mixture.parent / "val.txt"])
    return prepare(find_sources([mixture], mix_folders=True), folder, vocabulary=vocabulary, val=val, progress=progress)


def test_anywhere(mixture: Path, tmp_path: Path) -> None:
    expected = contents(run(mixture, tmp_path / "undisturbed").folder)
    assert len([name for name in expected if name.startswith("train-")]) > 2
    resumed = 0
    for stop_at in itertools.count(1, 17):
        folder = tmp_path / "out"
        try:
            run(mixture, folder, stop_at=stop_at)
        except KeyboardInterrupt:
            pass
        else:
            break
        assert not folder.exists()
        prepared = run(mixture, folder)
        assert contents(folder) == expected
        resumed += prepared.was_interrupted
        assert not list(tmp_path.glob(".*"))
        shutil.rmtree(folder)
    assert resumed > 3


def test_again_and_again(mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time a little farther, on a disk that is full again and again."""
    expected = contents(run(mixture, tmp_path / "undisturbed").folder)
    sync = shards.ShardWriter.sync
    n_left = 0

    def fail_at_times(self: shards.ShardWriter) -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(self)

    monkeypatch.setattr(shards.ShardWriter, "sync", fail_at_times)
    for n_failures in itertools.count():
        n_left = 5 + n_failures
        try:
            prepared = run(mixture, tmp_path / "out")
        except DataError as error:
            message = str(error)
        else:
            break
    assert n_failures > 3
    assert "No space left on device. Once that is mended, the same command goes on" in message
    assert prepared.was_interrupted
    assert contents(prepared.folder) == expected


@pytest.mark.skipif(os.name != "posix", reason="only there folders are synced, too")
def test_what_a_record_counts_on_is_on_the_disk(mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut would leave a record of tokens that are not there, or an older one than the tokens."""
    synced: set[int] = set()
    fsync = os.fsync

    def lacking(folder: Path) -> list[str]:
        files = (path for path in folder.rglob("*") if path.name not in {".lock", "state.json"})
        return [path.name for path in (folder, *files) if path.stat().st_ino not in synced]

    def remember(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record(path: Path, content: dict[str, Any]) -> None:
        synced.add(path.parent.stat().st_ino)
        assert not lacking(path.parent)
        synced.discard(path.parent.stat().st_ino)
        replace_json(path, content)
        assert not lacking(path.parent)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(work, "replace_json", record)
    assert not lacking(run(mixture, tmp_path / "out").folder)


def test_another_text_begins_anew(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(mixture, tmp_path / "out", stop_at=150)
    assert (tmp_path / ".out.partial" / "state.json").exists()
    (mixture / "40_rain" / "1.txt").write_text("something else\n" * 30, encoding="utf-8")
    prepared = run(mixture, tmp_path / "out")
    assert not prepared.was_interrupted
    assert contents(prepared.folder) == contents(run(mixture, tmp_path / "undisturbed").folder)


def test_a_damaged_record_begins_anew(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(mixture, tmp_path / "out", stop_at=150)
    (tmp_path / ".out.partial" / "state.json").write_text("{", encoding="utf-8")
    assert not run(mixture, tmp_path / "out").was_interrupted


def test_one_at_a_time(mixture: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    with (
        FolderLock(tmp_path / ".out.partial", DataError("busy")),
        pytest.raises(DataError, match="Another program is preparing"),
    ):
        run(mixture, tmp_path / "out")
    assert (tmp_path / ".out.partial").exists()
    assert run(mixture, tmp_path / "out").is_new
