"""Files of which several processes may write one, on file systems of many kinds, with names of any bytes."""

import json
from pathlib import Path

import pytest

from scratchgpt.errors import DataError
from scratchgpt.files import folder_written_whole, replace_json, safe_name, written_whole

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
