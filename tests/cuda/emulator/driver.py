"""Launches kernels on NumPy arrays and says what was wrong with them."""

import ctypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.cuda.emulator.build import GUARD, HEADERS, MAX_SHARED, Library, build, run, without_comments

MOST_FINDINGS = 64
ALIGNMENT = 256  # what cudaMalloc promises
MAX_THREADS = 1024
NONE = 0xFFFFFFFF
POISON = 0xFF
KINDS = ("divergence", "out of bounds", "uninitialised", "race", "misaligned", "stack overflow")

Size: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a kernel.

    A race has two lines; which of them is `line` depends on the order of the threads. A line is 0 where it is not
    known, which is so for writes out of bounds that were found only afterwards.
    """

    kind: str
    line: int
    array: str
    detail: str
    other_line: int = 0
    file: str = ""

    def __str__(self) -> str:
        """Return one line for people."""
        place = f"{self.file}:{self.line}" if self.line else "somewhere"
        array = f" on {self.array}" if self.array else ""
        other = f" (line {self.other_line})" if self.other_line else ""
        return f"{place}: {self.kind}{array}: {self.detail}{other}"


class EmulatorError(Exception):
    """A kernel did what it must not do."""

    def __init__(self, kernel: str, findings: Sequence[Finding]) -> None:
        """Name the first few findings; keep all."""
        more = f"\n... and {len(findings) - 5} more" if len(findings) > 5 else ""
        super().__init__(f"{kernel}:\n" + "\n".join(map(str, findings[:5])) + more)
        self.findings = list(findings)


@dataclass(frozen=True)
class Output:
    """An array that a kernel has to fill: poisoned before the launch, not to be read before it is written."""

    array: npt.NDArray[Any]


class _Uint3(ctypes.Structure):
    _fields_: ClassVar = [("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32)]


class _Region(ctypes.Structure):
    _fields_: ClassVar = [
        ("begin", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("guard", ctypes.c_uint64),
        ("shared", ctypes.c_uint32),
        ("unwritten", ctypes.c_uint32),
        ("cells", ctypes.c_void_p),
    ]


class _Finding(ctypes.Structure):
    _fields_: ClassVar = [
        ("kind", ctypes.c_uint32),
        ("region", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
        ("detail", ctypes.c_char * 256),
    ]


class _Launch(ctypes.Structure):
    _fields_: ClassVar = [
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", _Uint3),
        ("block", _Uint3),
        ("seed", ctypes.c_uint64),
        ("regions", ctypes.POINTER(_Region)),
        ("region_count", ctypes.c_uint32),
        ("checked", ctypes.c_uint32),
        ("findings", ctypes.POINTER(_Finding)),
        ("capacity", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("fatal", ctypes.c_uint32),
    ]


@dataclass
class _Copy:
    """A copy of an argument with guard bytes on both sides.

    Neighbours in memory are far apart here, and a view is aligned as it would be on a GPU, where the array that it
    views is aligned to 256 bytes.
    """

    array: npt.NDArray[Any]
    name: str
    unwritten: bool
    memory: npt.NDArray[np.uint8] = field(init=False)
    start: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.array.flags.c_contiguous:
            raise ValueError(f"{self.name} is not contiguous")
        root = self.array
        while isinstance(root.base, np.ndarray):
            root = root.base
        self.memory = np.full(self.array.nbytes + 2 * GUARD + 2 * ALIGNMENT, POISON, np.uint8)
        shift = (self.array.ctypes.data - root.ctypes.data - self.memory.ctypes.data - GUARD) % ALIGNMENT
        self.start = GUARD + shift
        if not self.unwritten:
            self.inside[:] = self.bytes

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        return self.array.reshape(-1).view(np.uint8)

    @property
    def inside(self) -> npt.NDArray[np.uint8]:
        return self.memory[self.start : self.start + self.array.nbytes]

    @property
    def address(self) -> int:
        return self.memory.ctypes.data + self.start

    @property
    def extent(self) -> tuple[int, int]:
        return self.array.ctypes.data, self.array.ctypes.data + self.array.nbytes

    def region(self) -> _Region:
        return _Region(self.address, self.array.nbytes, GUARD, 0, self.unwritten)

    def written_before(self) -> bool:
        """Is something changed in front of the array? What is behind it, the runtime watches."""
        return bool((self.memory[: self.start] != POISON).any())

    def take_back(self) -> None:
        if self.array.flags.writeable:
            self.bytes[:] = self.inside
        elif not np.array_equal(self.bytes, self.inside):
            raise ValueError(f"{self.name} is read-only, and the kernel wrote to it")


class Emulator:
    """A `.cu` file, or the text of one, compiled for the CPU."""

    def __init__(
        self,
        source: Path | str,
        *,
        kernels: Sequence[str] = (),
        defines: Mapping[str, object] | None = None,
        checked: bool = True,
    ) -> None:
        """Build the file's `extern "C"` kernels and those named in `kernels`, such as "softmax<float>"."""
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        self.checked = checked
        self.built = build(source, kernels, defines or {}, checked=checked)
        self._code = without_comments(text)
        self._loaded = ctypes.PyDLL(str(self.built.path))  # it keeps the GIL: a library runs one launch at a time

    def kernel(self, name: str) -> "Kernel":
        """Return one of the kernels, ready to be launched."""
        if name not in self.built.kernels:
            raise ValueError(f"no kernel {name!r}; there are {', '.join(self.built.kernels)}")
        number = self.built.kernels.index(name)
        describe = self._loaded[f"emulator_signature_{number}"]
        describe.restype = ctypes.c_char_p
        signature = describe().decode()
        n = len(signature) // 3
        columns = zip(signature[:n], signature[n : 2 * n], signature[2 * n :], strict=True)
        kinds = tuple("".join(letters) for letters in columns)
        found = re.search(rf"\b{re.escape(name.partition('<')[0].rpartition('::')[2])}\s*\(([^)]*)\)\s*{{", self._code)
        names = re.findall(r"(\w+)\s*(?:,|$)", found[1].strip()) if found else []
        if len(names) != n:
            names = [f"argument {i}" for i in range(n)]
        return Kernel(name, tuple(zip(names, kinds, strict=True)), self.built, self._loaded, number, self.checked)


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be launched. Of its parameters it knows names and types ("*f4": a pointer to floats)."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    built: Library
    loaded: ctypes.CDLL
    number: int
    checked: bool

    def __call__(
        self,
        grid: Size,
        block: Size,
        args: Sequence[Any],
        *,
        shared_bytes: int = 0,
        seed: int = 0,
        collect: bool = False,
    ) -> list[Finding]:
        """Launch the kernel on arrays (`Output` if they hold nothing yet), NumPy scalars and None for null.

        The seed decides the order of the threads. What is found raises EmulatorError; with `collect` it is returned.
        """
        grid3, block3 = _three("grid", grid), _three("block", block)
        if block3.x * block3.y * block3.z > MAX_THREADS:
            raise ValueError(f"a block has at most {MAX_THREADS} threads, not {block}")
        if not 0 <= shared_bytes <= MAX_SHARED:
            raise ValueError(f"a block has at most {MAX_SHARED} bytes of shared memory, not {shared_bytes}")
        copies, values = self._prepare(args)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [shared_bytes if item.dynamic else item.size for item in self.built.shared]
        shared = [_Region(item.offset, size, GUARD, 1, 1) for item, size in zip(self.built.shared, sizes, strict=True)]
        regions = [copy.region() for copy in copies] + shared
        found = (_Finding * MOST_FINDINGS)()
        launch = _Launch(
            kernel=ctypes.cast(self.loaded[f"emulator_kernel_{self.number}"], ctypes.c_void_p),
            arguments=ctypes.cast(pointers, ctypes.c_void_p),
            grid=grid3,
            block=block3,
            seed=seed,
            regions=(_Region * len(regions))(*regions),
            region_count=len(regions),
            checked=self.checked,
            findings=found,
            capacity=MOST_FINDINGS,
        )
        if self.loaded.emulator_launch(ctypes.byref(launch), ctypes.c_uint64(self.built.anchor)) != 0:
            raise MemoryError("there is no memory for the emulator's stacks or its shadow memory")
        names = [copy.name for copy in copies] + [item.name for item in self.built.shared]
        findings = self._findings(found[: launch.count], names)
        for copy in copies:
            if copy.written_before():
                findings.append(Finding("out of bounds", 0, copy.name, "something was written in front of it"))
            copy.take_back()
        if findings and not collect:
            raise EmulatorError(self.name, findings)
        return findings

    def _prepare(self, args: Sequence[Any]) -> tuple[list[_Copy], list[Any]]:
        """Return copies of the arrays, and what the kernel is to be called with."""
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, not {len(args)}")
        copies: list[_Copy] = []
        values: list[Any] = []
        for value, (name, kind) in zip(args, self.parameters, strict=True):
            array: Any = value.array if isinstance(value, Output) else value
            is_pointer = kind[0] == "*"
            if array is None and is_pointer:
                values.append(ctypes.c_void_p(None))
                continue
            if not (isinstance(array, np.ndarray) if is_pointer else isinstance(array, np.generic)):
                wanted = "an array" if is_pointer else "a NumPy scalar"
                raise TypeError(f"{name} of {self.name} is to be {wanted}, not {type(value).__name__}")
            given = f"{array.dtype.kind}{array.dtype.itemsize}"
            if "?" not in kind and given != kind[1:]:
                raise TypeError(f"{name} of {self.name} is of type {kind[1:]}, not {given}")
            if is_pointer:
                copy = _placed(copies, _Copy(np.asarray(array), name, isinstance(value, Output)))
                values.append(ctypes.c_void_p(copy.address))
            else:
                values.append(ctypes.create_string_buffer(array.tobytes(), array.dtype.itemsize))
        return copies, values

    def _findings(self, raw: Iterable[_Finding], names: Sequence[str]) -> list[Finding]:
        """Turn addresses into lines. Copies of one line, which a compiler makes, are one finding."""
        raw = list(raw)
        places = _places(self.built.path, {address for item in raw for address in (item.address, item.other)} - {0})
        findings: dict[tuple[object, ...], Finding] = {}
        for item in raw:
            file, line = places.get(item.address, ("", 0))
            _, other = places.get(item.other, ("", 0))
            array = "" if item.region == NONE else names[item.region]
            finding = Finding(KINDS[item.kind], line, array, item.detail.decode(), other, file)
            findings.setdefault((item.kind, file, line, array, other), finding)
        return list(findings.values())


def _three(name: str, size: Size) -> _Uint3:
    sizes = size if isinstance(size, tuple) else (size,)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"{name} has one to three sizes of at least 1, not {size}")
    return _Uint3(*sizes, *(1,) * (3 - len(sizes)))


def _placed(copies: list[_Copy], new: _Copy) -> _Copy:
    """Return the copy to use: arguments that are the same memory share one."""
    for copy in copies:
        if copy.extent == new.extent and new.array.nbytes:
            return copy
        if copy.extent[0] < new.extent[1] and new.extent[0] < copy.extent[1]:
            raise ValueError(f"{copy.name} and {new.name} overlap without being the same")
    copies.append(new)
    return new


def _places(library: Path, addresses: set[int]) -> dict[int, tuple[str, int]]:
    """Return file and line of each address: of the innermost inlined call that is not the emulator's own."""
    if not addresses:
        return {}
    places: dict[int, tuple[str, int]] = {}
    address = 0
    for text in run("addr2line", "-aie", library, *map(hex, sorted(addresses))).splitlines():
        if text.startswith("0x"):
            address = int(text, 16)
            continue
        path, _, line = text.partition(" ")[0].rpartition(":")
        file = Path(path).name
        if address not in places and file not in HEADERS and line.isdigit():
            places[address] = (file, int(line))
    return places
