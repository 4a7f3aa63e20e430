"""safetensors files that say what is not so: refused by a sentence, whatever they say, before a number is used."""

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from scratchgpt.errors import CheckpointError
from scratchgpt.model import tensors

ARRAYS: dict[str, Any] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], np.float16),
    "c": np.array([1 / 3]),
    "mask": np.tri(3, dtype=bool),
    "nothing": np.empty((0, 4), np.float32),
    "scalar": np.array(7, np.float32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file that is right."""
    tensors.save(tmp_path / "model.safetensors", ARRAYS)
    return tmp_path / "model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a file's header, and leave the data as they are."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    changed = json.dumps(change(header) or header).encode("ascii")
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[end:])


def test_what_is_read_is_what_was_written(path: Path) -> None:
    found = tensors.load(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in load_file(path).items():
        assert (found[name].name, found[name].shape) == (name, array.shape)
        if name != "mask":
            numbers = found[name].numbers()
            assert (numbers.dtype.name, numbers.shape) == ("float32", array.shape)
            assert np.array_equal(numbers, array.astype(np.float32))
            assert np.shares_memory(numbers, found[name].data) == (array.dtype == np.float32 and array.size > 0)
    with pytest.raises(CheckpointError, match=r"mask is BOOL; only F64, F32, F16, BF16 can be used"):
        found["mask"].numbers()


def test_a_bfloat16_is_half_a_float32(path: Path) -> None:
    rewrite(path, lambda header: header["b"].update(dtype="BF16"))
    words = ARRAYS["b"].view(np.uint16)
    expected = np.array([struct.unpack("<f", struct.pack("<I", int(word) << 16))[0] for word in words], np.float32)
    assert tensors.load(path)["b"].numbers().tobytes() == expected.tobytes()


def place(name: str, start: Any, end: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header[name].update(data_offsets=[start, end])


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    r"its header has F32 \(2, 4\) in the 24 bytes of a": lambda header: header["a"].update(shape=[2, 4]),
    r"its header has F64 \(2, 3\) in the 24 bytes of a": lambda header: header["a"].update(dtype="F64"),
    r"its tensors take \d+ bytes, and there are \d+": lambda header: header.pop("mask") and None,
    r"its header has a from byte 0 to 24; 8 of": place("a", 0, 24),
    r"its header has a from byte 8 to 1,000,000,000; 8 of": place("a", 8, 10**9),
    r"its header has a from byte 8 to 7; 8 of": place("a", 8, 7),
    r"its header has a from byte -8 to 8; 0 of": place("a", -8, 8),
    "its header does not tell type, shape and place of 'a'": place("a", "0", 24),
    "not tell type, shape and place of 'a'": lambda header: header["a"].pop("data_offsets") and None,
    "not tell type, shape and place of 'b'": lambda header: header.update(b=[1]),
    "not tell type, shape and place of 'c'": lambda header: header["c"].update(shape=[-1]),
    "not tell type, shape and place of 'mask'": lambda header: header["mask"].update(shape=[3.0, 3]),
    "its header is no object": lambda _: [1],
}


@pytest.mark.parametrize(("message", "change"), LIES.items(), ids=LIES)
def test_a_header_that_lies(message: str, change: Callable[[dict[str, Any]], Any], path: Path) -> None:
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors is damaged: {message}|{message}"):
        tensors.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 3) + b"{}", struct.pack("<Q", 2**63) + b"{}", b"\xff" * 100, b"PK\x03\x04" * 9],
)
def test_no_whole_file(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"(no whole|not a) safetensors file"):
        tensors.load(path)


@pytest.mark.parametrize("header", [b"{", b"\xff\xff", b"[" * 100_000, b"NaN"])
def test_a_header_that_is_no_json(header: bytes, path: Path) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="is damaged"):
        tensors.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Cannot read .*none: No such file"):
        tensors.load(tmp_path / "none")


@given(place=st.integers(0, 600), byte=st.integers(0, 255), cut=st.integers(0, 600))
def test_any_damage_is_a_sentence_or_harmless(
    place: int, byte: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    tensors.save(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[min(place, len(content) - 1)] = byte
    path.write_bytes(content[: len(content) - cut // 100 * 20])
    with contextlib.suppress(CheckpointError):
        for tensor in tensors.load(path).values():
            tensor.numbers().tobytes()
