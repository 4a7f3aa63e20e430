"""What NVIDIA's compiler makes of our kernels, for every architecture, and whether we would notice if it were bad."""

import dataclasses
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import pytest

from scratchgpt.backend.gpu import kernels
from tests.cuda import compiler
from tests.cuda.compiler import ARCHITECTURES, DISASSEMBLED, Compiled, CompileError
from tests.cuda.occupancy import LIMITS as PROCESSORS
from tests.cuda.occupancy import blocks, occupancy

pytestmark = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))

ROOT = Path(__file__).parents[2]

# Kernels that work on packs of 16 bytes, not on whole heads, live on bandwidth: on many threads and on wide accesses.
STREAMING = {
    file
    for file, source in kernels.sources().items()
    if all(max(numbers) <= max(kernels.WIDTHS[type_name]) for type_name, numbers in source.variants.items())
}
STREAMS = {name for file in STREAMING for name in compiler.names_in(file)}
WIDEST = {  # double is for gradient checks, whose speed matters to nobody
    name
    for file in STREAMING
    for type_name, n, names in kernels.instances(file)
    if type_name != "double" and n == max(kernels.sources()[file].variants[type_name])
    for name in names
}
TENSOR_CORES = {
    name for file, source in kernels.sources().items() if source.arch >= 80 for name in compiler.names_in(file)
}


def occupied(kernel: Compiled) -> float:
    """Return a kernel's occupancy, as far as its static shared memory decides about it."""
    return occupancy(kernel.architecture, kernel.threads, kernel.registers, kernel.shared)


class Limit(NamedTuple):
    """What is demanded of kernels."""

    quantity: str
    of: Callable[[Compiled], float]
    least: float = 0
    most: float = math.inf
    only: Collection[str] | None = None  # kernels; None: all
    architectures: Collection[int] = ARCHITECTURES


LIMITS = (
    Limit("stack", lambda kernel: kernel.stack, most=0),
    Limit("spills", lambda kernel: kernel.spills, most=0),
    Limit("local accesses", lambda kernel: kernel.count("LDL") + kernel.count("STL"), most=0),
    Limit("shared memory", lambda kernel: kernel.shared, most=48 * 1024),
    Limit("occupancy", occupied, least=0.5, only=STREAMS, architectures=(80, 90)),
    Limit("wide loads", lambda kernel: kernel.count("LDG.E.128"), least=1, only=WIDEST, architectures=DISASSEMBLED),
    Limit("wide stores", lambda kernel: kernel.count("STG.E.128"), least=1, only=WIDEST, architectures=DISASSEMBLED),
    Limit("HMMA", lambda kernel: kernel.count("HMMA"), least=1, only=TENSOR_CORES),
)

EXCEPTIONS = {
    ("add_partials", "wide loads"): (0, "a thread for each column: there are too few of them to share out in packs"),
    ("add_partials", "wide stores"): (0, "the same"),
    ("column_partials", "wide stores"): (0, "writes a row for every 64 that it reads, lane by lane"),
    ("layernorm_partials", "wide stores"): (0, "the same"),
    ("sum_of_squares", "wide stores"): (0, "writes one number a block"),
    ("sum_partials", "wide loads"): (0, "reads a few numbers, in one block"),
    ("sum_partials", "wide stores"): (0, "the same"),
    ("attention_half_delta", "HMMA"): (0, "sums of rows: there is no product of matrices"),
}
"""Where a kernel (or just one instance of it) is something else, and why: exactly this, on every architecture."""


def applying(kernel: Compiled) -> list[Limit]:
    return [
        limit
        for limit in LIMITS
        if kernel.architecture in limit.architectures and (limit.only is None or kernel.name in limit.only)
    ]


def exception(kernel: Compiled, limit: Limit) -> tuple[str, str] | None:
    """Return the key of the exception that is made for a kernel."""
    keys = [(name, limit.quantity) for name in (kernel.name, kernel.name.partition("<")[0])]
    return next((key for key in keys if key in EXCEPTIONS), None)


def findings(kernel: Compiled) -> list[str]:
    """Return what is not as it should be."""
    found = []
    for limit in applying(kernel):
        value, key = limit.of(kernel), exception(kernel, limit)
        least, most = (limit.least, limit.most) if key is None else (EXCEPTIONS[key][0],) * 2
        if not least <= value <= most:
            found.append(f"{kernel.name}: {limit.quantity} {value:g}, not {least:g} to {most:g}")
    return found


def test_every_kernel_is_found() -> None:
    for file, source in kernels.sources().items():
        assert kernels.text(file).count("__global__ void") == len(source.kernels), file
    with pytest.raises(ValueError, match="there is no kernel rmsnorm_forwards"):
        kernels.file_of("rmsnorm_forwards")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "architecture"),
    [(file, architecture) for file in kernels.sources() for architecture in compiler.architectures_of(file)],
)
def test_kernels_keep_within_limits(file: str, architecture: int) -> None:
    assert [finding for kernel in compiler.compiled_file(file, architecture) for finding in findings(kernel)] == []


@pytest.mark.slow
def test_exceptions_are_needed() -> None:
    """No exception outlives the kernel or the fault that it was made for."""
    needed = set()
    for file in kernels.sources():
        for architecture in compiler.architectures_of(file):
            for kernel in compiler.compiled_file(file, architecture):
                needed |= {
                    exception(kernel, limit)
                    for limit in applying(kernel)
                    if not limit.least <= limit.of(kernel) <= limit.most
                }
    assert needed - {None} == EXCEPTIONS.keys()


@pytest.mark.slow
def test_the_page_of_kernels_is_up_to_date(tmp_path: Path) -> None:
    page, fresh = ROOT / "docs" / "kernels.md", tmp_path / "kernels.md"
    shutil.copy(page, fresh)
    subprocess.run([sys.executable, ROOT / "scripts" / "kernel_table", fresh], check=True)
    assert fresh.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "run scripts/kernel_table"


SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) kernel(float* x) {
    float kept[128];
#pragma unroll
    for (int i = 0; i < 128; i++) kept[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 128; i++) x[threadIdx.x * 128 + i] = kept[i] * kept[127 - i];
}
"""
INDEXED = """
extern "C" __global__ void __launch_bounds__(128) kernel(float* x, int n) {
    float sums[32] = {};
    for (int i = 0; i < n; i++) sums[i % 32] += x[i * 128 + threadIdx.x];
#pragma unroll
    for (int i = 0; i < 32; i++) x[i * 128 + threadIdx.x] = sums[i];
}
"""
NOT_INLINED = """
__device__ __noinline__ float pick(const float* x, int n) {
    float kept[32];
    for (int i = 0; i < 32; i++) kept[i] = x[i * n];
    return kept[n % 32];
}
extern "C" __global__ void __launch_bounds__(128) kernel(float* x, int n) { x[threadIdx.x] = pick(x, n); }
"""
SHARED = """
extern "C" __global__ void __launch_bounds__(128) kernel(float* x, int n) {
    __shared__ float kept[SIZE];
    kept[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = kept[n];
}
"""
WIDE_COPY = """
extern "C" __global__ void __launch_bounds__(128) kernel(const float4* from, float4* to) {
    to[threadIdx.x] = from[threadIdx.x];
}
"""
SCALAR_COPY = WIDE_COPY.replace("float4", "float")


def only_kernel(source: str, architecture: int = 80) -> Compiled:
    (kernel,) = compiler.compiled(source, ["kernel"], architecture)
    return kernel


def quantities(kernel: Compiled) -> set[str]:
    """Return what is found to be wrong with a kernel."""
    prefix = f"{kernel.name}: "
    return {finding.removeprefix(prefix).rpartition(", not ")[0].rpartition(" ")[0] for finding in findings(kernel)}


@pytest.mark.parametrize("architecture", [DISASSEMBLED[0], DISASSEMBLED[-1]])
def test_spills_and_stacks_are_found(architecture: int) -> None:
    assert quantities(only_kernel(SPILLING, architecture)) == {"stack", "spills", "local accesses"}
    assert quantities(only_kernel(INDEXED, architecture)) == {"stack", "local accesses"}
    assert "stack" in quantities(only_kernel(NOT_INLINED, architecture))
    assert quantities(only_kernel(WIDE_COPY, architecture)) == set()


def test_too_much_shared_memory_is_found() -> None:
    assert only_kernel(SHARED.replace("SIZE", "12288")).shared == 48 * 1024
    with pytest.raises(CompileError, match="too much shared data"):
        only_kernel(SHARED.replace("SIZE", "12289"))
    too_much = dataclasses.replace(only_kernel(SHARED.replace("SIZE", "12288")), shared=48 * 1024 + 4)
    assert quantities(too_much) == {"shared memory"}


def test_narrow_accesses_and_idle_processors_are_found() -> None:
    name = "layernorm_apply<float, 4>"
    assert quantities(dataclasses.replace(only_kernel(WIDE_COPY), name=name)) == set()
    assert quantities(dataclasses.replace(only_kernel(SCALAR_COPY), name=name)) == {"wide loads", "wide stores"}
    crowded = dataclasses.replace(only_kernel(SHARED.replace("SIZE", "12288")), name="layernorm_apply<float, 1>")
    assert quantities(crowded) == {"occupancy"}


def test_instructions_are_counted_by_what_they_begin_with() -> None:
    kernel = dataclasses.replace(
        only_kernel(WIDE_COPY), opcodes={"LDG.E.128.CONSTANT": 2, "LDG.E.128": 1, "LDG.E": 4, "HFMA2.MMA": 8}
    )
    assert [kernel.count(opcode) for opcode in ("LDG", "LDG.E.128", "LDG.E.12", "HMMA", "MMA")] == [7, 3, 0, 0, 0]


def test_a_kernel_states_its_block() -> None:
    assert only_kernel(WIDE_COPY).threads == 128
    with pytest.raises(CompileError, match="has no __launch_bounds__"):
        only_kernel(WIDE_COPY.replace("__launch_bounds__(128)", ""))
    with pytest.raises(CompileError, match="expected a"):
        only_kernel(WIDE_COPY.replace(";", ""))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles NVIDIA's own rules with g++")
def test_occupancy_is_what_nvidia_computes(tmp_path: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    cases = [
        (architecture, rng.randint(1, 1024), rng.randint(1, 255), rng.choice([0, rng.randint(0, 48 * 1024)]))
        for architecture in ARCHITECTURES
        for _ in range(2000)
    ]
    lines = [
        f"{architecture} {limits.threads} {limits.shared} {limits.reserved} {threads} {registers} {shared}"
        for architecture, threads, registers, shared in cases
        for limits in [PROCESSORS[architecture]]
    ]
    program = tmp_path / "occupancy"
    include = compiler.header_folder()
    source = Path(__file__).parent / "occupancy.cpp"
    subprocess.run(["g++", "-w", f"-I{include}", source, "-o", program], check=True)  # noqa: S607
    answers = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    assert [blocks(*case) for case in cases] == [int(answer) for answer in answers.split()]
