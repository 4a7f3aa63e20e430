"""Files of which several processes may write one, on file systems of many kinds, with names of any bytes."""

import contextlib
import errno
import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.data.dataset import Dataset
from scratchgpt.data.prepare import prepare
from scratchgpt.errors import DataError
from scratchgpt.files import (
    copy_mode,
    folder_written_whole,
    read_json,
    replace_json,
    safe_name,
    write_json,
    written_whole,
)
from scratchgpt.lock import FolderLock, is_locked
from scratchgpt.wording import shown
from tests.world import TEXT

if sys.platform != "win32":
    import fcntl

NAMES = ["a.gguf", "plot ü.png", ".hidden", "-o", "x" * 240]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [0, 1])
def test_two_writers_of_one_file_never_mix(tmp_path: Path, name: str, last: int) -> None:
    contents = [b"first " * 1000, b"second " * 2000]
    writers = [written_whole(tmp_path / name, force=True) for _ in contents]
    files = [writer.__enter__().open("wb", buffering=0) for writer in writers]
    for at in (0, 1000):  # in turn
        for file, content in zip(files, contents, strict=True):
            file.write(content[at : at + 1000] if at == 0 else content[at:])
    for file in files:
        file.close()
    for number in (1 - last, last):
        writers[number].__exit__(None, None, None)
    assert (tmp_path / name).read_bytes() == contents[last]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_appears_while_another_is_written_is_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    writer = written_whole(path, force=False)
    writer.__enter__().write_bytes(b"late")
    path.write_bytes(b"early")
    with pytest.raises(DataError, match="is there already"):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"early"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_is_filled_while_another_is_written_stays(tmp_path: Path) -> None:
    writer = folder_written_whole(tmp_path, ("a.json", "b.json"), force=False)
    replace_json(writer.__enter__() / "a.json", {})
    replace_json(tmp_path / "b.json", {"other": 1})
    with pytest.raises(DataError, match=r"already holds b\.json"):
        writer.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_json_is_replaced_while_another_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with written_whole(path, force=True) as temporary:
        temporary.write_text('{"older": 1}', encoding="utf-8")
        replace_json(path, {"newer": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"older": 1}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("-shakespeare-cpu", "shakespeare-cpu"),
        ("my data (1)", "my-data-1"),
        ("..", "text"),
        ("Über_straße.v2", "Über_straße.v2"),
        ("caf\udce9", "caf"),
        ("[b]x[/b]", "b"),
        ("a\nb\x1b[31m", "a-b-31m"),
        ("NUL.txt", "text-NUL.txt"),
        ("x" * 300, "x" * 60),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("text", ["a", "ü€𝄞", "\udce9", '\\\udce9"', "\udcc3\udca9 é", "\\udce9", "\n\x1b\u2028"])
def test_json_of_any_name_is_valid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    write_json(path, {text: [text, 1]})
    assert read_json(path, DataError) == {text: [text, 1]}
    with contextlib.suppress(UnicodeEncodeError):  # what is UTF-8 is written as it is
        assert path.read_bytes() == (json.dumps({text: [text, 1]}, ensure_ascii=False, indent=1) + "\n").encode()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a b", "a b"),
        ("名前　ü\u00a0x", "名前　ü\u00a0x"),
        ("caf\udce9", "caf\ufffd"),
        ("\x1b[31m\x07", "\ufffd[31m\ufffd"),
        ("a\nb\r\tc", "a\ufffdb\ufffd\ufffdc"),
        ("\u202ea\u2066\u200e", "\ufffda\ufffd\ufffd"),
        ("\u2028\ufeff", "\ufffd\ufffd"),
    ],
)
def test_shown(text: str, seen: str) -> None:
    assert shown(text) == seen


def refuse(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, number: int) -> None:
    """Let a function of the system fail, as it does on other file systems."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, name, fail)


NOT_SUPPORTED = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM]


@pytest.mark.parametrize("number", NOT_SUPPORTED)
@pytest.mark.parametrize("name", ["fsync", "chmod"])
def test_a_file_system_that_cannot_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    refuse(monkeypatch, os, name, number)
    replace_json(tmp_path / "a.json", {"a": 1})
    copy_mode(tmp_path / "a.json", like=tmp_path / "a.json")
    with folder_written_whole(tmp_path, ("b",), force=False) as folder:
        (folder / "b").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_a_disk_that_fails_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse(monkeypatch, os, "fsync", number)
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        replace_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json", DataError) == {}


@pytest.mark.skipif(os.name != "posix", reason="Windows locks in another way")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse(monkeypatch, fcntl, "flock", number)
    monkeypatch.chdir(tmp_path)
    Path("fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    size = ("--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--block-size", "8", "--batch-size", "2")
    for command in (
        ("prepare", "fox.txt"),
        ("train", *size, "--steps", "1", "--lanes", "1", "--no-tune", "--run", "r"),
        ("train", "--resume", "r", "--steps", "2"),
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
        assert len(result.stderr.splitlines()) == 1
        assert "has no locks: let no other program write into it." in result.stderr
    assert not is_locked(Path("r"))


@pytest.mark.parametrize("folder", ["gone", "gone/deeper", "link"])
def test_a_folder_that_vanishes_was_held_by_another(tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(DataError, match="Another program"):
        FolderLock(tmp_path / folder, DataError("Another program is at it."))


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("text", [TEXT, "other"])
def test_preparations_that_start_together(tmp_path: Path, n: int, text: str) -> None:
    start = threading.Barrier(n)
    for number in range(n):
        content = TEXT if text == TEXT else f"{TEXT}{number}"
        (tmp_path / f"{number}.txt").write_text(content, encoding="utf-8", newline="")

    def run(number: int) -> str:
        start.wait()
        try:
            prepare(tmp_path / f"{number}.txt", tmp_path / "data")
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(n) as threads:
        said = [*threads.map(run, range(n))]
    assert "" in said  # one was prepared, the others refused: they came too early or too late
    assert all(re.search(r"^$|Another program is preparing|from something else", sentence) for sentence in said)
    Dataset.open(tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{number}.txt" for number in range(n)), "data"]


@pytest.mark.skipif(os.name != "posix", reason="needs devices, pipes and sockets that are files")
@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("kind", ["device", "pipe", "terminal"])
def test_a_device_is_written_to_and_never_replaced(tmp_path: Path, kind: str, is_linked: bool) -> None:  # noqa: FBT001 - a parameter
    place = tmp_path / "place"
    reader, writer = os.openpty()
    if kind == "pipe":
        os.mkfifo(place)
        os.close(reader)
        reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    else:
        place = Path(os.ttyname(writer)) if kind == "terminal" else Path(os.devnull)
    if is_linked:
        (tmp_path / "link").symlink_to(place)
    path = tmp_path / "link" if is_linked else place
    before = place.stat().st_ino
    with pytest.raises(DataError, match="is there already"), written_whole(path, force=False):
        pass
    with written_whole(path, force=True) as written:
        written.write_bytes(b"abc")
    assert place.stat().st_ino == before
    assert path.is_symlink() == is_linked
    if kind != "device":
        assert os.read(reader, 9) == b"abc"
    os.close(reader)
    os.close(writer)
