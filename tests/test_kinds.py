"""Files are known by their first bytes: a model or tokenizer that is another kind of file is called by its name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from scratchgpt import kinds
from scratchgpt.errors import CheckpointError, DataError
from scratchgpt.files import read_json
from scratchgpt.kinds import Kind, kind_of
from scratchgpt.model import tensors

TEXT = "to be or not to be\n" * 9
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
GGUF = b"GGUF\3\0\0\0" + bytes(16)


def tar(names: dict[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # which has no time of its own
    return file.getvalue()


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (gzip.compress(b"a", mtime=0), kinds.GZIP),
        (lzma.compress(b"a"), kinds.XZ),
        (bz2.compress(b"a"), kinds.BZIP2),
        (bz2.compress(b""), kinds.BZIP2),
        (tar({"a.txt": b"a"}), kinds.TAR),
        (tar({"a.txt": b"a"}, tarfile.GNU_FORMAT), kinds.TAR),
        (tar({"é.txt": b"a"}), kinds.TAR),
        (zipped({"a.txt": b"a"}), kinds.ZIP),
        (zipped({}), kinds.ZIP),
        (POINTER, kinds.LFS_POINTER),
        (save({"x": np.zeros(3, np.float32)}), kinds.SAFETENSORS),
        (b"<!DOCTYPE html>\n<title>Sign in</title>", kinds.WEB_PAGE),
        (b"\n <!-- saved -->\n<HTML lang=en>", kinds.WEB_PAGE),
        (b"ARROW1\0\0\xff\xff\xff\xff\x78\0\0\0", kinds.ARROW),
        (b"\xff\xff\xff\xff\x78\0\0\0\x10\0\0\0", kinds.ARROW),
        ("<html>".encode("utf-16"), kinds.WEB_PAGE),
        ("to be".encode("utf-16-le"), kinds.BINARY),
        ("to be".encode("utf-32-be"), kinds.BINARY),
        (np.arange(9, dtype="<u2").tobytes(), kinds.BINARY),
        *(((start, None)) for start in (b"", b"GIF89a is a format", b"ID3 learns trees", b"BZh9 is said", b"PARIS")),
        *(("日本".encode(encoding), None) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")),
        (b"html is a language of tags like <html>", None),
        (b"<head>Chapter I</head>", None),
        (b"<!--a-->" * 500, None),  # in a time that does not grow with 2^500
        (b"<!--a--> " * 400 + b"<html>", kinds.WEB_PAGE),
        ("été".encode("latin-1"), None),
    ],
)
def test_first_bytes(start: bytes, kind: Kind | None) -> None:
    assert kind_of(start[: kinds.START]) == kind


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (POINTER, r"is a Git LFS pointer, not the file itself. Fetch the file with `git lfs pull`"),
        (b"<!doctype html><html></html>", r"is a web page \(HTML\), not JSON; put the right file"),
        (b"", "is empty, not JSON"),
        (bytes(99), "is binary, not JSON"),
        (GGUF, "is a GGUF file, not JSON"),
        (gzip.compress(b"{}", mtime=0), "is packed by gzip, not JSON"),
        (zipped({"a": b""}), "is a ZIP archive, not JSON"),
        (save({"x": np.zeros(3, np.float32)}), "is a safetensors file, not JSON"),
        (b"{", "is damaged: Expecting"),
    ],
)
def test_json_that_is_another_kind_of_file(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_json(tmp_path / "tokenizer.json", DataError)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (POINTER, "is a Git LFS pointer"),
        (b"<html><body>Not found</body></html>", r"is a web page \(HTML\), not a safetensors file"),
        (b"", "is empty, not a safetensors file"),
        (b"Entry not found", "is text, not a safetensors file"),
        (GGUF, "is a GGUF file, not a safetensors file"),
        (zipped({"archive/data.pkl": b"\x80\2."}), "is a ZIP archive, not a safetensors file"),
        *((bytes([0x80, protocol]) + bytes(99), "is a pickle, not a safetensors file") for protocol in (2, 3, 4, 5)),
        (b"\x93NUMPY\1\0" + bytes(99), "is an array of NumPy, not a safetensors file"),
        (save({"x": np.zeros(300, np.float32)})[:40], "is no whole safetensors file"),
    ],
)
def test_weights_that_are_another_kind_of_file(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        tensors.load(tmp_path / "model.safetensors")
