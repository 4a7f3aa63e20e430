"""What is in a safetensors file, without reading more of it at once than a little."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from scratchgpt.errors import DataError

CHUNK = 2**20
"""Numbers looked at together."""

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


class Tensor(NamedTuple):
    """Where a tensor is."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as the format calls it
    path: Path
    offset: int  # in bytes from the file's beginning

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Statistics(NamedTuple):
    """What a tensor's numbers are like; mean, deviation and extremes are those of the finite ones, None of none."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    n_nan: int = 0
    n_infinite: int = 0


def tensors(path: Path) -> list[Tensor]:
    """List the tensors of a safetensors file, in the order of its data. Raises DataError if it is damaged."""
    try:
        with safe_open(path, framework="numpy"):  # it checks that the header's sizes and offsets fit the file
            pass
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(n_header))
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file that can be read: {error}.") from error
    header.pop("__metadata__", None)
    found = [
        Tensor(name, tuple(entry["shape"]), entry["dtype"], path, 8 + n_header + entry["data_offsets"][0])
        for name, entry in header.items()
    ]
    return sorted(found, key=lambda tensor: tensor.offset)


def statistics(tensor: Tensor, progress: Callable[[int], None] = lambda _: None) -> Statistics | None:
    """Look at all numbers of a tensor, of which `progress` is told; None if they are of a type that NumPy lacks."""
    if tensor.dtype not in DTYPES:
        return None
    n, mean, squares, n_nan, n_infinite = 0, 0.0, 0.0, 0, 0
    smallest, largest = math.inf, -math.inf
    for start in range(0, tensor.size, CHUNK):
        values = _values(tensor, start, min(CHUNK, tensor.size - start))
        progress(len(values))
        n_nan += int(np.isnan(values).sum())
        n_infinite += int(np.isinf(values).sum())
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
        # Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        with np.errstate(over="ignore", invalid="ignore"):
            own_mean = float(values.mean())
            step = own_mean - mean
            squares += float(np.square(values - own_mean).sum()) + step * step * n * values.size / (n + values.size)
        n += values.size
        mean += step * values.size / n
    if not n:
        return Statistics(n_nan=n_nan, n_infinite=n_infinite)
    return Statistics(mean, math.sqrt(squares / n), smallest, largest, n_nan, n_infinite)


def _values(tensor: Tensor, start: int, count: int) -> npt.NDArray[np.float64]:
    """Return some numbers of a tensor through a fresh map: the pages of a long-lived one would count as our memory."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    offset = tensor.offset + start * dtype.itemsize
    stored = np.memmap(tensor.path, dtype, mode="r", offset=offset, shape=(count,))
    if tensor.dtype == "BF16":
        return (stored.astype("<u4") << 16).view("<f4").astype(np.float64)
    return stored.astype(np.float64)
