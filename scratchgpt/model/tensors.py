"""safetensors files: a header that says what lies where, then the numbers.

The library writes them. Reading is done here: its way to NumPy copies once more than is needed, and knows no bfloat16.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from scratchgpt.errors import CheckpointError
from scratchgpt.kinds import SAFETENSORS, mistaken
from scratchgpt.ops.array import Array

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How NumPy sees the numbers that weights can be; a bfloat16 is the upper half of a float32."""

WHOLE = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}
DTYPES = FLOATS | WHOLE | {"BOOL": "u1"}
"""How it sees all that it can look at."""

LONGEST_HEADER = 100_000_000
"""Bytes; that of the library."""


class Tensor(NamedTuple):
    """One array of a file that is mapped into memory: nothing is read before it is used."""

    path: Path
    name: str
    dtype: str  # as the file says it, such as F32
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]  # (number of bytes,)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def stored(self, part: slice = slice(None)) -> Array:
        """Return some of the numbers, in a row, as the file has them: where they lie, but of bfloat16 a float32 copy.

        The type must be among DTYPES.
        """
        numbers = self.data.view(DTYPES[self.dtype])[part]
        return (numbers.astype("<u4") << 16).view("<f4") if self.dtype == "BF16" else numbers

    def numbers(self) -> Array:
        """Return the array, float32 and read-only: where it lies if the file has it so, else a copy.

        Raises CheckpointError if the file has another type than floating-point numbers, or any that are not finite.
        """
        if self.dtype not in FLOATS:
            raise CheckpointError(f"{self.path}: {self.name} is {self.dtype}; only {', '.join(FLOATS)} can be used.")
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = np.require(self.stored(), np.float32, ["ALIGNED"])
            # A finite sum has only finite terms, and takes a third of the time that `isfinite` takes.
            is_finite = np.isfinite(numbers.sum()) or np.isfinite(numbers).all()
        if not is_finite:
            raise CheckpointError(f"{self.path}: {self.name} holds numbers that are not finite.")
        return numbers.reshape(self.shape)


def save(path: Path, tensors: dict[str, Array]) -> None:
    """Write named NumPy arrays as one safetensors file. Raises OSError."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # transformers refuses files without a format
    except SafetensorError as error:  # which says what the system said
        raise OSError(str(error)) from error


def load(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file, whoever has written it. Raises CheckpointError if its header does not fit the rest."""
    try:
        file = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    length = int.from_bytes(file[:8].tobytes(), "little")
    if len(file) < 8 or length > min(len(file) - 8, LONGEST_HEADER):
        raise CheckpointError(
            mistaken(path, SAFETENSORS)
            or f"{path} is no whole safetensors file: its header would reach beyond its end."
        )
    try:
        return _placed(path, json.loads(file[8 : 8 + length].tobytes()), file[8 + length :])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def _placed(path: Path, header: Any, data: npt.NDArray[np.uint8]) -> dict[str, Tensor]:
    """Return the tensors that a header tells of. Raises ValueError if they do not fill the data one after the other."""
    if type(header) is not dict:
        raise ValueError("its header is no object")
    places, tensors = [], {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
                type(size) is int and size >= 0 for size in shape
            ):
                tensors[name] = Tensor(path, name, dtype, tuple(shape), data[max(start, 0) : max(end, 0)])
                places.append((start, end, name))
            case _ if name != "__metadata__":
                raise ValueError(f"its header does not tell type, shape and place of {name!r}")
    n_used = 0
    for start, end, name in sorted(places):
        if start != n_used or not start <= end <= len(data):
            raise ValueError(
                f"its header has {name} from byte {start:,} to {end:,}; {n_used:,} of {len(data):,} are taken before it"
            )
        n_used = end
        tensor = tensors[name]
        if tensor.dtype in DTYPES and tensor.size * np.dtype(DTYPES[tensor.dtype]).itemsize != end - start:
            raise ValueError(f"its header has {tensor.dtype} {tensor.shape} in the {end - start:,} bytes of {name}")
    if n_used != len(data):
        raise ValueError(f"its tensors take {n_used:,} bytes, and there are {len(data):,}")
    return tensors
