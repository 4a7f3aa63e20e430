"""NVRTC, NVIDIA's compiler: what it makes of kernels for GPUs that are not here. It needs neither a GPU nor a driver.

Results are kept in build/compiler, by what went into them.
"""

import ctypes
import hashlib
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from scratchgpt.backend.gpu import kernels
from scratchgpt.machine import usable_cores

ARCHITECTURES = (70, 75, 80, 86, 90, 120)
"""What the kernels are for: Volta (V100), Turing, Ampere (A100; RTX 30), Hopper, Blackwell (RTX 50)."""

DISASSEMBLED = ARCHITECTURES[1:]
"""Those whose instructions are counted: today's nvdisasm no longer reads sm_70."""

CACHE = Path(__file__).parents[2] / "build" / "compiler"
PARTS = {
    "nvidia-cuda-nvrtc-cu12": "libnvrtc.so.12",
    "nvidia-cuda-runtime-cu12": "cuda_fp16.h",
    "nvidia-cuda-nvdisasm": "nvdisasm",
}
"""The packages, and the file of each that is asked for by name."""


class CompileError(Exception):
    """The compiler refuses; its own words say why."""


@dataclass(frozen=True)
class Compiled:
    """What has become of a kernel."""

    name: str  # in C++
    architecture: int
    threads: int  # of a block, by __launch_bounds__
    registers: int  # of a thread
    stack: int  # bytes of a thread
    spills: int  # bytes, stores and loads together
    shared: int  # bytes of a block, without what is only known at a launch
    opcodes: dict[str, int]  # how often each instruction stands there, with its suffixes; empty if not disassembled

    def count(self, opcode: str) -> int:
        """Count an instruction, whatever suffixes follow: "LDG.E.128" counts LDG.E.128.CONSTANT as well."""
        return sum(times for found, times in self.opcodes.items() if f"{found}.".startswith(f"{opcode}."))


def missing() -> str | None:
    """Return why nothing can be compiled on this machine, or None if it can."""
    try:
        for package, name in PARTS.items():
            _part(package, name)
    except PackageNotFoundError as error:
        return f"{error.name} is not installed: pip install 'scratchgpt[cuda-tests]' (Linux on x86-64)"
    return None


@cache
def _part(package: str, name: str) -> Path:
    """Return where a package's file is. Raises PackageNotFoundError."""
    for file in files(package) or ():
        if file.name == name:
            return Path(str(file.locate()))
    raise PackageNotFoundError(package)


def header_folder() -> Path:
    """Return the folder of CUDA's headers."""
    return _part("nvidia-cuda-runtime-cu12", "cuda_fp16.h").parent


@cache
def _nvrtc() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_part("nvidia-cuda-nvrtc-cu12", "libnvrtc.so.12")))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _call(function: str, *arguments: Any) -> None:
    """Call NVRTC. Raises RuntimeError."""
    if status := getattr(_nvrtc(), function)(*arguments):
        raise RuntimeError(f"{function} failed: {_nvrtc().nvrtcGetErrorString(status).decode()}")


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    """Return the log, the PTX or the cubin of a program."""
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


def _text(program: ctypes.c_void_p, what: str) -> str:
    return _output(program, what).rstrip(b"\0").decode()


def compiled(source: str, names: Sequence[str], architecture: int) -> list[Compiled]:
    """Compile the source for one architecture; return the kernels with these C++ names. Raises CompileError."""
    options = [*kernels.OPTIONS, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    made_by = (*map(version, PARTS), Path(__file__).read_text(encoding="utf-8"))
    key = hashlib.sha256(repr((source, names, options, made_by)).encode()).hexdigest()[:24]
    path = CACHE / f"{key}.json"
    if not path.exists():
        results = _compile(source, names, architecture, options)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            written = Path(folder) / path.name
            written.write_text(json.dumps([vars(result) for result in results]), encoding="utf-8")
            written.replace(path)
    return [Compiled(**result) for result in json.loads(path.read_text(encoding="utf-8"))]


def _compile(source: str, names: Sequence[str], architecture: int, options: Sequence[str]) -> list[Compiled]:
    given = [option.encode() for option in (*options, f"--include-path={header_folder()}")]
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        for name in names:
            _call("nvrtcAddNameExpression", program, name.encode())
        status = _nvrtc().nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        log = _text(program, "ProgramLog")
        if status:
            raise CompileError(log)
        ptx = _text(program, "PTX")
        opcodes = _opcodes(_output(program, "CUBIN")) if architecture in DISASSEMBLED else {}
        results = []
        for name in names:
            lowered = ctypes.c_char_p()
            _call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(lowered))
            symbol = (lowered.value or b"").decode()
            results.append(
                Compiled(
                    name=name,
                    architecture=architecture,
                    threads=_threads(ptx, symbol),
                    **_resources(log, symbol),
                    opcodes=opcodes.get(symbol, {}),
                )
            )
        return results
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _threads(ptx: str, symbol: str) -> int:
    """Return the largest block that a kernel is compiled for. Raises CompileError if it does not say so."""
    bounds = re.search(rf"\.entry {re.escape(symbol)}\([^)]*\)\s*\.maxntid (\d+)", ptx)
    if bounds is None:
        raise CompileError(f"{symbol} has no __launch_bounds__")
    return int(bounds[1])


def _resources(log: str, symbol: str) -> dict[str, int]:
    """Return what the assembler says of a kernel."""
    said = re.search(
        rf"Function properties for {re.escape(symbol)}\n"
        r".* (\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers(.*)\n",
        log,
    )
    if said is None:
        raise CompileError(f"the assembler says nothing of {symbol}:\n{log}")
    frame, stores, loads, registers = (int(said[number]) for number in range(1, 5))
    # Functions that were not inlined have frames of their own.
    cumulative, shared = (
        int(number[1]) if (number := re.search(rf"(\d+) bytes {what}", said[5])) else 0
        for what in ("cumulative stack size", "smem")
    )
    return {"registers": registers, "stack": max(frame, cumulative), "spills": stores + loads, "shared": shared}


def _opcodes(cubin: bytes) -> dict[str, Counter[str]]:
    """Return each kernel's instructions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        command = (_part("nvidia-cuda-nvdisasm", "nvdisasm"), "--print-code", path)
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # A section is a kernel; a line of it: its address, perhaps a condition, an opcode, operands.
    _, *sections = re.split(r"^\.text\.(\S+):$", listing, flags=re.MULTILINE)
    instruction = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
    return {
        symbol: Counter(instruction.findall(code)) for symbol, code in zip(sections[::2], sections[1::2], strict=True)
    }


def names_in(file: str) -> list[str]:
    """Return the C++ names of all kernels of a file."""
    return [name for _, _, names in kernels.instances(file) for name in names]


def architectures_of(file: str) -> list[int]:
    """Return those that a file is for."""
    return [architecture for architecture in ARCHITECTURES if architecture >= kernels.sources()[file].arch]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores())  # NVRTC gives Python's lock back while it works


@cache
def _begin(file: str) -> dict[int, Future[list[Compiled]]]:
    source, names = kernels.text(file), names_in(file)
    return {
        architecture: _pool().submit(compiled, source, names, architecture) for architecture in architectures_of(file)
    }


def compiled_file(file: str, architecture: int) -> list[Compiled]:
    """Return all kernels of one of our files. The first call compiles it for all its architectures, on all cores.

    Raises CompileError.
    """
    return _begin(file)[architecture].result()
