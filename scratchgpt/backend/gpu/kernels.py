"""Which CUDA kernels there are, and their source. Nothing here needs a GPU.

A kernel is a template `name<T, n>` of a type and a whole number. Its file lies beside the mathematics it computes.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

OPS = Path(__file__).parents[2] / "ops"

TYPES = {np.dtype(np.float64): "double", np.dtype(np.float32): "float", np.dtype(np.float16): "__half"}
"""In C++ by their names in NumPy."""

OPTIONS = ("--std=c++17", "--ftz=true")
"""Of the compiler, for all of them. Floats below the normal numbers become 0: CuPy asks for that in any case."""

Variants = dict[str, tuple[int, ...]]

WIDTHS: Variants = {"double": (1, 2), "float": (1, 4), "__half": (1, 8)}
"""n of most kernels: how many neighbours a thread works on at once: 16 bytes, or one where rows are not aligned."""

ALIGNED: Variants = {type_name: numbers[-1:] for type_name, numbers in WIDTHS.items()}
"""n of kernels whose rows are always aligned."""

FLAT: Variants = {"double": (2,), "float": (4,), "__half": (4,)}
"""n of kernels over all parameters at once: 16 bytes of Wide<T>."""


class Source(NamedTuple):
    """A `.cu` file."""

    kernels: tuple[str, ...]
    variants: Variants  # the n that each type is compiled for
    arch: int  # the least compute capability, times ten


VARIANTS: dict[str, Variants] = {
    "adamw": FLAT,
    "attention": {"double": (16, 32, 64), "float": (16, 32, 48, 64, 96, 128)},
    "attention_half": {"__half": (16, 32, 48, 64, 96, 128)},
    "cross_entropy": ALIGNED,
}
"""The n that a file's kernels are compiled for, where they are not WIDTHS."""

ARCHITECTURES = {"attention_half": 80}  # ldmatrix and mma.m16n8k16
"""The least compute capability for a file's kernels, times ten, where it is not 70."""

KERNEL = re.compile(r"^__global__ void(?:\s+__launch_bounds__\([^()]*\))?\s+(\w+)\(", re.MULTILINE)


@cache
def sources() -> dict[str, Source]:
    """Return all kernels, by the names of their files: every `.cu` beside the mathematics."""
    return {
        path.stem: Source(
            tuple(KERNEL.findall(path.read_text(encoding="utf-8"))),
            VARIANTS.get(path.stem, WIDTHS),
            ARCHITECTURES.get(path.stem, 70),
        )
        for path in sorted(OPS.glob("*.cu"))
    }


def width(dtype: npt.DTypeLike, *sizes: int) -> int:
    """Return how many neighbours a thread can work on at once, where rows have these sizes."""
    widest = 16 // np.dtype(dtype).itemsize
    return widest if all(size % widest == 0 for size in sizes) else 1


def file_of(kernel: str) -> str:
    """Return the name of the file that holds a kernel. Raises ValueError if there is none of this name."""
    for name, source in sources().items():
        if kernel in source.kernels:
            return name
    raise ValueError(f"there is no kernel {kernel}")


def instance(kernel: str, dtype: npt.DTypeLike, n: int) -> str:
    """Return the C++ name of a kernel for a type and a number. Raises ValueError if it is not compiled for these."""
    type_name = TYPES[np.dtype(dtype)]
    if n not in sources()[file_of(kernel)].variants.get(type_name, ()):
        raise ValueError(f"{kernel} is not made for {type_name} and {n}")
    return f"{kernel}<{type_name}, {n}>"


def instances(file: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each type and number that a file is compiled for, with the C++ names of its kernels."""
    kernels, variants, _ = sources()[file]
    for type_name, numbers in variants.items():
        for n in numbers:
            yield type_name, n, [f"{kernel}<{type_name}, {n}>" for kernel in kernels]


@cache
def text(file: str) -> str:
    """Return a file's source with what it includes from beside it, for compilers that look for no files."""

    def with_includes(path: Path) -> str:
        def included(match: re.Match[str]) -> str:
            line = source[: match.start()].count("\n") + 2
            return f'{with_includes(path.parent / match[1])}\n#line {line} "{path.name}"'

        source = path.read_text(encoding="utf-8").replace("#pragma once\n", "\n")
        return f'#line 1 "{path.name}"\n' + re.sub(r'^#include "(.+)"$', included, source, flags=re.MULTILINE)

    return with_includes(OPS / f"{file}.cu")
