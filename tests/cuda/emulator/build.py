"""From a `.cu` file to a library: g++, with guard bytes behind every shared array, cached by what went into it."""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
HEADERS = ("cuda_emulator.h", "cuda_fp16.h", "tensor_cores.h")
CACHE = HERE.parents[2] / "build" / "emulator"
TOOLS = ("g++", "readelf", "c++filt", "addr2line")

GUARD = 1024
"""Bytes behind every array that belong to nobody."""

MAX_SHARED = 227 * 1024
"""The most that any GPU up to compute capability 12 gives to one block."""

# -O1 keeps accesses where the source has them; loops must not become calls of memset, which nobody would check.
# What is usual in CUDA (int against unsigned) is no cause for warnings.
FLAGS = [
    *("-std=c++17", "-O1", "-gdwarf-4", "-w", "-fPIC", "-fvisibility=hidden", "-fno-exceptions"),
    *("-fno-strict-aliasing", "-ffp-contract=off", "-fno-extern-tls-init", "-fno-tree-loop-distribute-patterns"),
]
CHECKED = ["-fsanitize=thread", "-fsanitize=alignment", "--param=tsan-instrument-func-entry-exit=0"]
RUNTIME_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-Wall", "-Wextra", "-Werror"]

LAUNCH_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
EXTERN_C_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{LAUNCH_BOUNDS}void\s+{LAUNCH_BOUNDS}(\w+)\s*\(')
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+[^;]*?(\w+)\s*\[\s*\]\s*;")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Shared:
    """A shared array: its place in thread-local memory."""

    name: str
    offset: int
    size: int
    dynamic: bool


@dataclass(frozen=True)
class Library:
    """What a build makes: the library, the kernels that it exports, and its shared arrays."""

    path: Path
    kernels: tuple[str, ...]
    shared: tuple[Shared, ...]
    anchor: int


def missing() -> str | None:
    """Return why kernels cannot be emulated on this machine, or None if they can."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return "the CUDA emulator switches threads in x86-64 assembly, for Linux"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"the CUDA emulator needs {tool}"
    return None


def read(path: Path) -> str:
    """Return a text."""
    return path.read_text(encoding="utf-8")


def run(tool: str, *arguments: object) -> str:
    """Run one of the tools; return what it prints."""
    command = [shutil.which(tool) or tool, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{tool} failed:\n{result.stderr}")
    return result.stdout


@cache
def compiler() -> str:
    """Return the compiler's version."""
    return run("g++", "--version").partition("\n")[0]


def digest(*parts: object) -> str:
    """Return a name for what is made of `parts`."""
    return hashlib.sha256(repr((compiler(), *parts)).encode()).hexdigest()[:24]


def without_comments(source: str) -> str:
    """Return the source with each comment replaced by a space."""
    return COMMENT.sub(" ", source)


@cache
def runtime() -> Path:
    """Return the runtime's object file; compile it if there is none."""
    source = HERE / "runtime.cpp"
    path = CACHE / f"{digest(read(source), RUNTIME_FLAGS)}.o"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "runtime.o"
            run("g++", *RUNTIME_FLAGS, "-c", source, "-o", made)
            made.replace(path)
    return path


def build(source: Path | str, kernels: Sequence[str], defines: Mapping[str, object], *, checked: bool) -> Library:
    """Compile a file, or a source text, unless that was done before."""
    text = read(source) if isinstance(source, Path) else source
    near = [read(p) for p in sorted(source.parent.glob("*.cuh"))] if isinstance(source, Path) else []
    code = without_comments(text)
    names = (*EXTERN_C_KERNEL.findall(code), *kernels)
    if not names:
        raise ValueError('there is no extern "C" kernel, and no template instance was asked for')
    flags = [*FLAGS, *(CHECKED if checked else ()), *(f"-D{name}={value}" for name, value in defines.items())]
    headers = [read(HERE / header) for header in HEADERS]
    key = digest(str(source), text, near, names, flags, headers, runtime().name, read(Path(__file__)))
    folder = CACHE / key
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            made = Path(temporary) / key
            made.mkdir()
            dynamic = sorted(set(DYNAMIC_SHARED.findall(code)))
            _make(made, source, flags, _exports(names) + "".join(map(_reservation, dynamic)), dynamic)
            try:
                made.rename(folder)
            except OSError:  # somebody else was quicker
                if not folder.exists():
                    raise
    about = json.loads(read(folder / "shared.json"))
    return Library(folder / "kernels.so", names, tuple(Shared(**item) for item in about["shared"]), about["anchor"])


def _make(folder: Path, source: Path | str, flags: Sequence[str], tail: str, dynamic: Sequence[str]) -> None:
    """Build the library and the list of its shared arrays."""
    if isinstance(source, str):
        (folder / "kernels.cu").write_text(source, encoding="utf-8")
        source = folder / "kernels.cu"
    unit, assembly, library = folder / "kernels.cpp", folder / "kernels.s", folder / "kernels.so"
    unit.write_text(f'#include "{source.resolve()}"\n{tail}', encoding="utf-8")
    run("g++", *flags, f"-I{HERE}", "-include", HERE / HEADERS[0], "-S", unit, "-o", assembly)
    # Shared arrays would lie side by side, and what is past the end of one would be another.
    spaced = re.sub(
        r"^(\S+:\n\t\.zero\t)(\d+)$",
        lambda match: f"{match[1]}{int(match[2]) + GUARD}",
        read(assembly),
        flags=re.MULTILINE,
    )
    assembly.write_text(spaced, encoding="utf-8")
    run("g++", "-shared", "-Wl,-z,defs", assembly, runtime(), "-o", library)
    assembly.unlink()
    rows = [line.split() for line in run("readelf", "-sW", library).splitlines()]
    symbols = sorted({(row[7], int(row[1], 16), int(row[2], 0)) for row in rows if len(row) == 8 and row[3] == "TLS"})
    plain = run("c++filt", *(name for name, _, _ in symbols)).splitlines()
    shared = [
        Shared(pretty.rpartition("::")[2], offset, size, dynamic=name in dynamic)
        for (name, offset, size), pretty in zip(symbols, plain, strict=True)
        if name != "emulator_anchor"
    ]
    anchor = next(offset for name, offset, _ in symbols if name == "emulator_anchor")
    about = {"shared": [vars(item) for item in shared], "anchor": anchor}
    (folder / "shared.json").write_text(json.dumps(about), encoding="utf-8")


def _exports(names: Sequence[str]) -> str:
    return "".join(f"EMULATOR_EXPORT({number}, {name})\n" for number, name in enumerate(names))


def _reservation(name: str) -> str:
    """Define an `extern __shared__` array; in assembly, as only the kernel knows its type."""
    lines = (
        '.section .tbss,"awT",@nobits',
        f".globl {name}",
        f".hidden {name}",
        ".balign 256",
        f".type {name}, @object",
        f".size {name}, {MAX_SHARED}",
        f"{name}:",
        f".skip {MAX_SHARED + GUARD}",
        ".previous",
    )
    return 'asm(R"(\n' + "\n".join(lines) + '\n)");\n'
