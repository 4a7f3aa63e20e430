"""The emulator computes what CUDA would, and finds every bug that bugs.cu knows, at its line; and none that is not."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from tests.cuda.emulator import Emulator, EmulatorError, Finding, Kernel, Output, build, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

EXAMPLES = Path(__file__).parent / "examples.cu"
BUGS = Path(__file__).parent / "bugs.cu"
INSTANCES = ("matmul<float, 16>", "matmul<double, 8>", "softmax<float>", "softmax<double>")
MODES = pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])


@cache
def examples(*, checked: bool) -> Emulator:
    return Emulator(EXAMPLES, kernels=INSTANCES, checked=checked)


@cache
def bugs(*, bug: bool, checked: bool) -> Emulator:
    return Emulator(BUGS, defines={"BUG": int(bug)}, checked=checked)


def example(name: str, *, checked: bool = True) -> Kernel:
    return examples(checked=checked).kernel(name)


def normal(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


# ---- It computes what CUDA would ----


@MODES
def test_add(checked: bool) -> None:  # noqa: FBT001
    x, y, out = normal(1000), normal(1000)[::-1].copy(), np.empty(1000, np.float32)
    assert example("add", checked=checked)(8, 128, [x, y, Output(out), np.int32(1000)]) == []
    assert np.array_equal(out, x + y)


def test_indices_in_three_dimensions() -> None:
    out = np.empty((2 * 3 * 4, 5 * 6 * 7), np.int32)
    example("indices")((2, 3, 4), (5, 6, 7), [Output(out)])
    assert np.array_equal(out, np.arange(24)[:, None] * 1000 + np.arange(210))


@MODES
@pytest.mark.parametrize("K", [1, 31, 128, 301])
def test_row_sums(checked: bool, K: int) -> None:  # noqa: FBT001
    x, out = normal(3, K), np.empty(3, np.float32)
    example("row_sums", checked=checked)(3, 128, [x, Output(out), np.int32(K)])
    assert np.allclose(out, x.sum(axis=1, dtype=np.float64), rtol=1e-5, atol=1e-5)


@MODES
@pytest.mark.parametrize(("dtype", "tile"), [("float", 16), ("double", 8)])
def test_matmul(checked: bool, dtype: str, tile: int) -> None:  # noqa: FBT001
    kernel = example(f"matmul<{dtype}, {tile}>", checked=checked)
    precision = np.float32 if dtype == "float" else np.float64
    a, b, out = normal(19, 37, dtype=precision), normal(37, 21, dtype=precision), np.empty((19, 21), precision)
    grid = (-(-21 // tile), -(-19 // tile))
    kernel(grid, (tile, tile), [a, b, Output(out), np.int32(19), np.int32(37), np.int32(21)])
    assert np.allclose(out, a @ b, rtol=0, atol=1e-5 if dtype == "float" else 1e-13)


@MODES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dynamic_shared_memory(checked: bool, dtype: type[np.floating[Any]]) -> None:  # noqa: FBT001
    x, out = normal(3, 50, dtype=dtype), np.empty((3, 50), dtype)
    name = "softmax<float>" if dtype is np.float32 else "softmax<double>"
    example(name, checked=checked)(3, 32, [x, Output(out), np.int32(50)], shared_bytes=50 * x.itemsize)
    expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert np.allclose(out, expected, rtol=20 * np.finfo(dtype).eps, atol=0)


def test_atomics() -> None:
    x = np.random.default_rng(1).integers(-1000, 1000, 96, dtype=np.int32)
    ints, floats, doubles = np.array([0, -(2**31), 2**31 - 1, 0], np.int32), np.zeros(1, np.float32), np.zeros(1)
    found = example("atomics")(3, 32, [x, ints, floats, doubles], collect=True)
    assert ints.tolist() == [x.sum(), x.max(), x.min(), np.bitwise_xor.reduce(x)]
    assert (floats[0], doubles[0]) == (96, x.sum())
    assert {finding.kind for finding in found} == {"race"}, "the first guess is a plain read"


def test_shuffles_and_votes() -> None:
    n = 64
    x = np.random.default_rng(1).permutation(100)[:n].astype(np.int32)
    lane, first = np.arange(n) % 32, np.arange(n) // 32 * 32
    for argument, width in [(3, 32), (5, 8), (0, 32), (1, 2), (17, 32), (9, 4)]:
        out = np.empty((11, n), np.int32)
        example("exchange")(1, n, [x, Output(out), np.int32(argument), np.int32(width)], seed=argument)
        segment = lane // width * width
        taken = [
            segment + argument % width,
            np.where(lane - argument < segment, lane, lane - argument),
            np.where(lane + argument >= segment + width, lane, lane + argument),
            np.where(lane ^ argument >= segment + width, lane, lane ^ argument),
        ]
        assert np.array_equal(out[:4], x[first + np.array(taken)])
        warps = x.reshape(2, 32)
        ballot = ((warps & 1).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
        votes = np.array([ballot.view(np.int32), (warps > 90).any(axis=1), (warps > 5).all(axis=1)])
        assert np.array_equal(out[4:7], votes.repeat(32, axis=1))
        assert (out[7:10] == np.array([[(x & 1).sum()], [(x > 95).any()], [(x > 1).all()]])).all()
        assert np.array_equal(out[10], np.where(lane < 16, x[first + (lane ^ 8)], x))


@pytest.mark.parametrize("seed", range(5))
def test_warps_wait_by_parts(seed: int) -> None:
    x, out = normal(64, dtype=np.float64), np.empty(64)
    example("warp_steps")(1, 64, [x, Output(out)], seed=seed)
    warps = x.reshape(2, 32)[:, :16]
    assert np.array_equal(out, np.concatenate([warps, 2 * warps], axis=1).ravel()[np.arange(64) ^ 1])


def test_vectors() -> None:
    x, out, sums = normal(10, 4), np.empty((10, 4), np.float32), np.empty((10, 2))
    example("vectors")(1, 4, [x, Output(out), Output(sums), np.int32(10)])
    assert np.array_equal(out, x[:, ::-1])
    assert np.array_equal(sums, x.astype(np.float64).reshape(10, 2, 2).sum(axis=2))


def test_half_rounds_what_it_stores() -> None:
    x, y = normal(101, dtype=np.float16), normal(101, dtype=np.float16)[::-1].copy()
    expected = (np.float32(0.1) * x.astype(np.float32) + y.astype(np.float32)).astype(np.float16)
    example("axpy_half")(4, 32, [x, y, np.float32(0.1), np.int32(101)])
    assert np.array_equal(y, expected)


def test_pairs_of_halves() -> None:
    x, y = normal(32, 2, dtype=np.float16), normal(32, 2, dtype=np.float16)[::-1].copy()
    out = np.empty((6, 32, 2), np.float16)
    with pytest.raises(TypeError, match="n of half_pairs"):
        example("half_pairs")(1, 32, [x, y, x, np.float32(1)])
    example("half_pairs")(1, 32, [x, y, Output(out), np.int32(32)])
    wide, other = x.astype(np.float64), y.astype(np.float64)
    last = np.stack([wide[:, 0] / 3, np.exp(wide[:, 1])], axis=1), np.stack([x[:, 1], y[:, 0]], axis=1)
    expected = [wide + other, wide - other, wide * other, wide * other + np.float16(0.1), *last]
    assert np.array_equal(out, np.array(expected).astype(np.float16))


LANES = np.arange(32)[:, None]
GROUP, PAIR = LANES // 4, LANES % 4 * 2
I8, I4 = np.arange(8), np.arange(4)
# Row and column of each lane's elements, as PTX's manual writes them down for mma.m16n8k16.
A_PLACES = np.where(I8 // 2 % 2 == 0, GROUP, GROUP + 8), PAIR + I8 % 2 + np.where(I8 < 4, 0, 8)
B_PLACES = PAIR + I4 % 2 + np.where(I4 < 2, 0, 8), GROUP + 0 * I4
D_PLACES = np.where(I4 < 2, GROUP, GROUP + 8), PAIR + I4 % 2


@MODES
def test_product_of_tensor_cores(checked: bool) -> None:  # noqa: FBT001
    a, b, d = normal(16, 16, dtype=np.float16), normal(16, 8, dtype=np.float16), normal(16, 8)
    lanes = d[D_PLACES]
    multiply = example("product", checked=checked)
    multiply(1, 32, [a[A_PLACES].view(np.uint32), b[B_PLACES].view(np.uint32), lanes])
    product = np.empty((16, 8), np.float32)
    product[D_PLACES] = lanes
    assert np.allclose(product, d + a.astype(np.float32) @ b.astype(np.float32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_matrices_from_shared_memory(seed: int) -> None:
    x, rows = normal(40, 8, dtype=np.float16), np.random.default_rng(seed).integers(0, 40, 32, dtype=np.int32)
    out = np.empty((2, 32, 4), np.uint32)
    example("matrices")(1, 32, [x, rows, Output(out)], seed=seed)
    for lane in range(32):
        for i, matrix in enumerate(x[rows].reshape(4, 8, 8)):
            row, column = lane // 4, 2 * (lane % 4)
            assert np.array_equal(out[0, lane, i : i + 1].view(np.float16), matrix[row, column : column + 2])
            assert np.array_equal(out[1, lane, i : i + 1].view(np.float16), matrix[column : column + 2, row])


@pytest.mark.parametrize("threads", [31, 33])
def test_tensor_cores_need_whole_warps(threads: int) -> None:
    halves, sums = np.zeros((64, 4), np.uint32), np.zeros((64, 4), np.float32)
    [found] = example("product")(1, threads, [halves, halves, sums], collect=True)
    assert found.kind == "divergence"
    assert "an instruction of the tensor cores" in found.detail


@pytest.mark.parametrize("bias", [None, np.full(1, 2, np.float32)])
def test_constants_locals_and_null(bias: npt.NDArray[np.float32] | None) -> None:
    x, out = normal(40), np.empty(40, np.float32)
    example("polynomial")(1, 40, [x, Output(out), bias])
    assert np.allclose(out, 1 - 2 * x + 3 * x**2 + (0 if bias is None else 2 * x**3), rtol=1e-5, atol=1e-5)


def test_order_of_threads_is_drawn() -> None:
    def orders(seed: int) -> list[int]:
        out = np.empty(96, np.int32)
        example("order")(1, 96, [np.zeros(1, np.int32), Output(out)], seed=seed)
        return out.tolist()

    drawn = [orders(seed) for seed in range(8)]
    assert all(sorted(order) == list(range(96)) for order in drawn)
    assert len({tuple(order) for order in drawn}) == 8
    assert {order[0] // 32 for order in drawn} == {0, 1, 2}, "warps are drawn, too"
    assert drawn[2] == orders(2)


def test_order_of_threads_does_not_change_the_result() -> None:
    x, outs = normal(2, 300), np.empty((8, 2), np.float32)
    for seed, out in enumerate(outs):
        example("row_sums")(2, 128, [x, Output(out), np.int32(300)], seed=seed)
    assert (outs == outs[0]).all()


# ---- It finds what is wrong ----


class Bug(NamedTuple):
    """A kernel of bugs.cu: what is found if it is wrong, and how to launch it."""

    name: str
    kind: str
    array: str
    plain: str = ""
    """What plain mode makes of it: a kind of finding, "NaN" in the result, or nothing."""
    sizes: Sequence[int] = (64, 64)
    args: tuple[Any, ...] = ()
    grid: int = 1
    block: int = 64
    shared_bytes: int = 0


TABLE = [
    Bug("read_past_the_end", "out of bounds", "x", "NaN", (50, 50), (np.int32(50),)),
    Bug("write_past_the_end", "out of bounds", "out", "out of bounds", (50, 50), (np.int32(50),)),
    Bug("write_after_read", "race", "tile", sizes=(128, 128)),
    Bug("write_after_many_reads", "race", "first"),
    Bug("read_after_write", "race", "tile", "NaN"),
    Bug("read_after_write_in_a_warp", "race", "tile", "NaN"),
    Bug("wrong_mask", "race", "tile"),
    Bug("sum_across_blocks", "race", "out", sizes=(4, 1), grid=4, block=32),
    Bug("sum_within_a_block", "race", "out", sizes=(64, 1)),
    Bug("racing_read", "race", "counter", sizes=(1, 1)),
    Bug("handed_to_another_block", "race", "between", sizes=(4, 4, 4), grid=4, block=1),
    Bug("shuffle_as_a_fence", "race", "tile"),
    Bug("barrier_in_a_branch", "divergence", "", "divergence"),
    Bug("barriers_in_two_branches", "divergence", "", "divergence"),
    Bug("barrier_after_return", "divergence", "", "divergence"),
    Bug("shuffle_in_a_branch", "divergence", "", "divergence"),
    Bug("shuffle_after_return", "divergence", "", "divergence"),
    Bug("shuffle_from_outside", "divergence", "", "divergence"),
    Bug("shared_written_out_of_bounds", "out of bounds", "tile", "out of bounds"),
    Bug("shared_read_out_of_bounds", "out of bounds", "tile", "NaN"),
    Bug("dynamic_shared_out_of_bounds", "out of bounds", "buffer", "out of bounds", shared_bytes=256),
    Bug("shared_never_written", "uninitialised", "tile", "NaN", (64, 128), grid=2),
    Bug("output_never_written", "uninitialised", "out", "NaN"),
    Bug("misaligned", "misaligned", "x", sizes=(300, 64)),
    Bug("write_after_its_own_read", "race", "first", sizes=(64, 32), block=32),
    Bug("read_after_its_own_update", "race", "counter", sizes=(1, 1), block=32),
    Bug("different_masks", "divergence", "", "divergence"),
    Bug("mask_without_oneself", "divergence", "", "divergence"),
    Bug("shuffles_in_two_branches", "divergence", "", "divergence"),
    Bug("shuffle_in_a_ragged_loop", "divergence", "", "divergence", (70, 64), (np.int32(70),)),
    Bug("update_of_nothing", "uninitialised", "out", "NaN"),
    Bug("misaligned_update", "misaligned", "out", "misaligned", (1, 1)),
    Bug("vector_past_the_end", "out of bounds", "x", "NaN", (62, 64), (np.int32(62),), block=16),
    Bug("local_of_another_thread", "out of bounds", ""),
    Bug("matrix_misaligned", "misaligned", "tile", "misaligned"),
    Bug("matrix_out_of_bounds", "out of bounds", "tile", "out of bounds"),
    Bug("matrix_in_global_memory", "out of bounds", "x", "out of bounds"),
    Bug("matrix_never_written", "uninitialised", "tile"),
    Bug("matrix_read_too_early", "race", "tile"),
    Bug("product_in_a_branch", "divergence", "", "divergence"),
    Bug("too_much_local_memory", "stack overflow", "", "stack overflow", (1, 1), block=1),
]
TABLES = pytest.mark.parametrize("bug", TABLE, ids=lambda bug: bug.name)
ACCUMULATED = {"sum_across_blocks", "sum_within_a_block", "racing_read", "read_after_its_own_update"}


def launch(bug: Bug, *, wrong: bool, checked: bool, seed: int = 0) -> tuple[list[Finding], npt.NDArray[Any]]:
    """Launch a kernel of bugs.cu on random numbers; return the findings and its last array."""
    arrays = [normal(size) for size in bug.sizes]
    given: list[Any] = [*arrays[:1], *map(Output, arrays[1:])]
    if bug.name in ACCUMULATED:
        arrays[-1][:] = 0
        given = list(arrays)
    kernel = bugs(bug=wrong, checked=checked).kernel(bug.name)
    found = kernel(bug.grid, bug.block, [*given, *bug.args], shared_bytes=bug.shared_bytes, seed=seed, collect=True)
    return found, arrays[-1]


def marked(name: str) -> set[int]:
    """Return the lines of a kernel in bugs.cu that have an arrow."""
    lines = BUGS.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if re.search(rf"\b{name}\(", line))
    end = lines.index("}", start)
    return {i + 1 for i in range(start, end) if lines[i].endswith("// <-")}


def test_every_kernel_with_a_bug_is_tested() -> None:
    assert sorted(bug.name for bug in TABLE) == sorted(bugs(bug=True, checked=True).built.kernels)


@TABLES
@pytest.mark.parametrize("seed", range(3))
def test_checked_mode_finds(bug: Bug, seed: int) -> None:
    found, _ = launch(bug, wrong=True, checked=True, seed=seed)
    of_kind = [finding for finding in found if finding.kind == bug.kind]
    assert of_kind, found
    for finding in of_kind:
        assert finding.array == bug.array
        assert finding.line in marked(bug.name), finding
        assert finding.file == "bugs.cu"
        assert (finding.other_line in marked(bug.name)) == (bug.kind == "race"), finding
    assert {finding.kind for finding in found} <= {bug.kind, "uninitialised"}  # a race may read before the write


@TABLES
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_what_is_right(bug: Bug, seed: int) -> None:
    for checked in (False, True):
        found, out = launch(bug, wrong=False, checked=checked, seed=seed)
        assert found == []
        written = out[:-1] if bug.name == "read_past_the_end" else out
        assert np.isfinite(written).all()


# What x86 does with a misaligned float4 depends on the instruction: the program may crash.
@pytest.mark.parametrize("bug", [bug for bug in TABLE if bug.name != "misaligned"], ids=lambda bug: bug.name)
def test_plain_mode_finds_less(bug: Bug) -> None:
    found, out = launch(bug, wrong=True, checked=False)
    if bug.plain == "NaN":
        assert found == []
        assert np.isnan(out).any()
    else:
        assert {finding.kind for finding in found} == ({bug.plain} if bug.plain else set())


@pytest.mark.parametrize("seed", range(60))
def test_races_are_those_of_the_definition(seed: int) -> None:
    """Random programs: a race is found if and only if two accesses conflict and nothing orders them."""
    rng = np.random.default_rng(seed)
    steps, n = 6, 48
    operations = np.where(rng.random((steps, n)) < rng.choice([0.02, 0.1]), rng.integers(1, 4, (steps, n)), 0)
    places, waits = rng.integers(0, 8, (steps, n)), rng.integers(0, 3, steps)
    found = example("interpret")(
        1, n, [a.astype(np.int32) for a in (operations, places, waits)] + [np.int32(steps)], seed=seed, collect=True
    )
    accesses = [(int(s), int(t)) for s, t in np.argwhere(operations)]
    conflicts = [
        (s1, t1, s2, t2)
        for s1, t1 in accesses
        for s2, t2 in accesses
        if s1 <= s2 and t1 != t2 and places[s1, t1] == places[s2, t2]
        if {operations[s1, t1], operations[s2, t2]} not in ({1}, {3})
        if waits[s1:s2].max(initial=0) < (1 if t1 // 32 == t2 // 32 else 2)
    ]
    assert bool(found) == bool(conflicts)
    assert {finding.kind for finding in found} <= {"race"}


# ---- It says what it was not given right ----


def test_findings_are_raised() -> None:
    x, out = normal(50), np.empty(50, np.float32)
    with pytest.raises(EmulatorError, match=r"read_past_the_end:\nbugs.cu:\d+: out of bounds on x: read of 4") as error:
        bugs(bug=True, checked=True).kernel("read_past_the_end")(1, 64, [x, Output(out), np.int32(50)])
    assert [finding.kind for finding in error.value.findings] == ["out of bounds"]


def test_views_keep_their_alignment() -> None:
    kernel = bugs(bug=False, checked=True).kernel("misaligned")
    x, out = normal(300), np.empty(64, np.float32)
    assert kernel(1, 64, [x[4:], Output(out)]) == []
    [found] = kernel(1, 64, [x[1:], Output(out)], collect=True)
    assert (found.kind, found.array) == ("misaligned", "x")


def test_arguments_may_be_the_same_memory_but_not_overlap() -> None:
    x = normal(100)
    expected = x + x
    example("add")(1, 128, [x, x, x, np.int32(100)])
    assert np.array_equal(x, expected)
    with pytest.raises(ValueError, match="x and y overlap"):
        example("add")(1, 128, [x[1:], x[:-1], x[:-1], np.int32(99)])


def test_read_only_arrays_are_not_written() -> None:
    x, out = normal(8), np.zeros(8, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        example("add")(1, 8, [x, x, out, np.int32(8)])


def test_something_in_front_of_an_array() -> None:
    kernel = Emulator('extern "C" __global__ void before(int* x) { x[-3] = 1; }', checked=False).kernel("before")
    [found] = kernel(1, 1, [np.zeros(4, np.int32)], collect=True)
    assert (found.kind, found.array) == ("out of bounds", "x")


X = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("error", "message", "args"),
    [
        (TypeError, "add takes 4 arguments, not 3", [X, X, X]),
        (TypeError, "x of add is of type f4, not f8", [np.zeros(8), X, X, np.int32(8)]),
        (TypeError, "n of add is of type i4, not i8", [X, X, X, np.int64(8)]),
        (TypeError, "n of add is to be a NumPy scalar, not int", [X, X, X, 8]),
        (TypeError, "x of add is to be an array, not list", [[0.0] * 8, X, X, np.int32(8)]),
        (ValueError, "y is not contiguous", [X, np.zeros(16, np.float32)[::2], X, np.int32(8)]),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, args: list[Any]) -> None:
    with pytest.raises(error, match=message):
        example("add")(1, 8, args)


@pytest.mark.parametrize(
    ("message", "grid", "block", "shared_bytes"),
    [
        ("at most 1024 threads", 1, (33, 32), 0),
        ("one to three sizes of at least 1", 0, 8, 0),
        ("one to three sizes of at least 1", (1, 1, 1, 1), 8, 0),
        ("at most 232448 bytes of shared memory", 1, 8, 232449),
    ],
)
def test_wrong_launches(message: str, grid: Any, block: Any, shared_bytes: int) -> None:
    with pytest.raises(ValueError, match=message):
        example("add")(grid, block, [X, X, X.copy(), np.int32(8)], shared_bytes=shared_bytes)


def test_what_is_no_kernel() -> None:
    with pytest.raises(ValueError, match="no kernel 'sub'; there are add, indices"):
        example("sub")
    with pytest.raises(ValueError, match='no extern "C" kernel'):
        Emulator('// extern "C" __global__ void commented() {}')
    with pytest.raises(RuntimeError, match=r"kernels.cu:1:\d+: error: .y. was not declared"):
        Emulator('extern "C" __global__ void wrong(int* x) { *x = y; }')


def test_builds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'extern "C" __global__ void set(int* x) { *x = VALUE; }'
    first = Emulator(source, defines={"VALUE": 3})

    def nothing(*command: object) -> str:
        raise AssertionError(command)

    monkeypatch.setattr(build, "run", nothing)
    x = np.zeros(1, np.int32)
    again = Emulator(source, defines={"VALUE": 3})
    assert again.built == first.built
    again.kernel("set")(1, 1, [x])
    assert x[0] == 3
    with pytest.raises(AssertionError, match=r"g\+\+"):
        Emulator(source, defines={"VALUE": "4"}, kernels=("set",))
