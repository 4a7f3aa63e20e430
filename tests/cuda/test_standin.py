"""The stand-in for CuPy: what it refuses, what it computes, and that it claims nothing that CuPy does not have."""

import gc
import importlib
import inspect
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.backend import reference
from scratchgpt.backend.gpu import kernels
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops import layernorm
from tests.cuda.checks import needs_emulator
from tests.cuda.standin import FOLDER, ROOT, environment, rules, standing_in
from tests.engine import steps


@pytest.fixture(scope="module")
def cupy() -> Iterator[Any]:
    with standing_in() as module:
        yield module


@pytest.fixture
def pool(cupy: Any) -> Any:
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    return cupy.get_default_memory_pool()


@pytest.fixture
def counters(cupy: Any) -> Any:
    counters = importlib.import_module(f"{cupy.__name__}._settings").counters
    counters.reset()
    return counters


HOST = np.arange(6, dtype=np.float32).reshape(2, 3)

# ------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize(
    "use",
    [
        lambda _, x: x + HOST,
        lambda _, x: HOST + x,
        lambda _, x: x.__iadd__(HOST),
        lambda _, x: HOST.copy().__iadd__(x),
        lambda _, x: x @ HOST.T,
        lambda _, x: HOST @ x.T,
        lambda _, x: x > HOST,
        lambda _, x: np.add(x, HOST),
        lambda _, x: np.add(x, x, out=HOST.copy()),
        lambda cupy, x: cupy.add(x, HOST),
        lambda cupy, x: cupy.maximum(HOST, x),
        lambda cupy, x: cupy.where(x > 0, HOST, x),
        lambda cupy, x: cupy.concatenate([x, HOST]),
        lambda cupy, x: cupy.add.reduceat(x, np.array([0, 1]), axis=0),
        lambda _, x: np.concatenate([x, x]),
        lambda _, x: x * [1],
        lambda _, x: x + None,
        lambda _, x: np.asarray(x),
        lambda _, x: x.view(np.int32).__iadd__(1.5),
        lambda _, x: x.sum(where=True),
    ],
)
def test_what_is_no_matter_of_the_device_is_a_type_error(cupy: Any, use: Callable[[Any, Any], object]) -> None:
    with pytest.raises(TypeError):
        use(cupy, cupy.asarray(HOST))


@pytest.mark.parametrize("index", [5, (0, 7), [0, 1], np.array([0, 1]), 1.0, True, "a"])
def test_indices(cupy: Any, index: object) -> None:
    with pytest.raises(IndexError):
        cupy.asarray(HOST)[index]


def test_an_index_out_of_range_is_an_error_where_cupy_wraps_around(cupy: Any) -> None:
    x, beyond = cupy.asarray(HOST), cupy.asarray([2])
    with pytest.raises(IndexError):
        x[beyond]
    with pytest.raises(IndexError):
        x[beyond] = 0


def test_elements_are_not_set_twice(cupy: Any) -> None:
    x = cupy.asarray(HOST)
    with pytest.raises(ValueError, match="set twice"):
        x[cupy.asarray([1, 1])] = x


def test_arrays_hold_nothing_until_they_are_written(cupy: Any) -> None:
    assert np.isnan(cupy.empty((2, 3), "float16").get()).all()
    assert np.isnan(cupy.empty_like(cupy.asarray(HOST)).get()).all()
    assert (cupy.empty(3, "int64").get() == -1).all()


def test_results_and_promotion_are_those_of_numpy(cupy: Any) -> None:
    def compute(xp: Any, x: Any, whole: Any) -> list[Any]:
        half = x.astype("float16")
        return [
            *(x + 1, 1 - x, 2 / (x + 1), x**2, -x, abs(-x), x // 2, x * np.float64(2), np.float32(3) * x, whole * 0.5),
            *(x > 1, x != 2, (x > 1) & (x < 4), (x > 1) | (x < 1), ~(x > 1), half * 2.5, half + x, half @ half.T),
            *(x.sum(), x.mean(axis=0), x.max(axis=-1, keepdims=True), x.argmax(axis=-1), (x > 1).all(), half.sum()),
            *((x > 1).any(axis=1), x.min(), whole.sum(), whole.mean(), xp.exp(x), xp.log(x + 1), xp.sqrt(whole)),
            *(xp.tanh(half), xp.maximum(x, 2), xp.isfinite(x / x), xp.vdot(x, x), xp.matmul(x, x.T), x[whole, whole]),
            *(
                xp.where(x > 1, x, -np.inf),
                xp.tril(xp.ones((3, 3), dtype=bool)),
                xp.full_like(x, 2.5),
                x[:, None],
                x[0],
            ),
            *(xp.split(x, 3, axis=-1)[1], xp.concatenate([x, x + 1], axis=-1), xp.argsort(x[:, 1], kind="stable")),
            *(xp.unique(whole, return_index=True)[1], xp.add.reduceat(x, whole, axis=0), xp.arange(4), xp.zeros(2)),
            *(x[x > 1], x.T.reshape(-1), x.swapaxes(0, 1)[1:], x.transpose(1, 0).astype("int32"), xp.arange(1, 4, 2)),
        ]

    whole = np.array([0, 1])
    with np.errstate(invalid="ignore"):
        expected = compute(np, HOST, whole)
    for number, (got, wanted) in enumerate(
        zip(compute(cupy, *map(cupy.asarray, (HOST, whole))), expected, strict=True)
    ):
        assert type(got) is cupy.ndarray, number
        assert got.dtype == wanted.dtype, number
        assert np.array_equal(got.get(), wanted, equal_nan=True), number


def test_views_share_memory_and_copies_do_not(cupy: Any) -> None:
    x = cupy.asarray(HOST)
    views = [x[1:], x.T, x.reshape(3, 2), x.swapaxes(0, 1), *cupy.split(x, 3, axis=1), x.view("int32"), x[:, None]]
    for copy in (x.copy(), x.astype("float32"), x[cupy.asarray([0, 1])], x + 0, x.T.reshape(-1)):
        copy.fill(7)
    assert np.array_equal(x.get(), HOST)
    x.fill(1)
    for view in views:
        assert view.data.mem is x.data.mem
        assert (view.view("float32") if view.dtype == "int32" else view).get().min() == 1


def test_moving_is_counted(cupy: Any, counters: Any) -> None:
    x = cupy.asarray(HOST, dtype="float16")
    assert cupy.asarray(x) is x
    assert (counters.bytes_to_device, counters.synchronisations) == (12, 0)
    x.set(HOST.astype(np.float16))
    assert counters.bytes_to_device == 24
    for wait in (float, int, bool, cupy.asnumpy):
        wait(x[0, 0])
    x.sum().item()
    cupy.unique(x)
    cupy.cuda.Stream.null.synchronize()
    assert counters.synchronisations == 7


# ------------------------------------------------------------------------------------------ memory


def test_memory_is_counted_poisoned_and_used_again(cupy: Any, pool: Any, counters: Any) -> None:
    x = cupy.zeros(1000, "float32")
    view = x[10:]
    left = x.data.mem.block.bytes
    assert x.data.ptr % 512 == 0
    assert pool.used_bytes() == pool.total_bytes() == counters.peak_bytes == 4096
    del x
    gc.collect()
    assert pool.used_bytes() == 4096
    del view
    gc.collect()
    assert (pool.used_bytes(), pool.free_bytes()) == (0, 4096)
    assert (left == 0xFF).all()
    assert np.isnan(cupy.empty(900, "float32").get()).all()
    pool.free_all_blocks()
    assert pool.total_bytes() == 0


def test_memory_comes_to_an_end(cupy: Any, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.set_limit(size=4096)
    x = cupy.zeros(512, "float32")
    message = r"Out of memory allocating 2,560 bytes \(allocated so far: 2,048 bytes, limit set to: 4,096 bytes\)"
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=message):
        cupy.zeros(513, "float32")
    del x
    cupy.zeros(1024, "float32")  # for which the pool gives back what is free
    pool.set_limit(size=0)
    monkeypatch.setenv("STANDIN_MEMORY", "10240")
    assert cupy.cuda.Device(0).mem_info == (10240 - 4096, 10240)
    with pytest.raises(MemoryError, match="so far: 0 bytes"):
        cupy.zeros(2561, "float32")


def test_pinned_memory(cupy: Any) -> None:
    memory = cupy.cuda.alloc_pinned_memory(600)
    host = np.frombuffer(memory, np.float32, 150)
    assert memory.size() == 1024
    assert host.ctypes.data == memory.ptr
    host[...] = 1
    assert cupy.asarray(host).sum() == 150


# ------------------------------------------------------------------------------------------ devices


def test_no_driver(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_DRIVER", "0")
    assert not cupy.cuda.is_available()
    assert cupy.cuda.runtime.driverGetVersion() == 0
    uses = [cupy.cuda.runtime.getDeviceCount, cupy.cuda.Device, cupy.cuda.Event, lambda: cupy.zeros(1)]
    for use in (*uses, lambda: cupy.RawModule(code="").get_function("f"), lambda: cupy.cuda.Stream(non_blocking=True)):
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInsufficientDriver"):
            use()


def test_devices(cupy: Any, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_DEVICES", "2")
    monkeypatch.setenv("STANDIN_CAPABILITY", "75")
    x = cupy.zeros(3)
    with cupy.cuda.Device(1) as device:
        assert (device.compute_capability, pool.used_bytes(), x.device.id) == ("75", 0, 0)
        y = cupy.zeros(3)
        with pytest.raises(ValueError, match="array device = 0 while current = 1"):
            y + x
    assert cupy.cuda.runtime.getDevice() == 0
    assert pool.used_bytes() == 512
    with pytest.raises(ValueError, match="array device = 1 while current = 0"):
        y.get()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"):
        cupy.cuda.Device(2).use()
    monkeypatch.setenv("STANDIN_DEVICES", "0")
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorNoDevice"):
        cupy.cuda.runtime.getDeviceCount()


def test_streams_and_events(cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    with stream:
        assert cupy.cuda.get_current_stream() is stream
        first.record()
        last.record(stream)
    assert cupy.cuda.get_current_stream().ptr == 0 != stream.ptr
    assert cupy.cuda.get_elapsed_time(first, last) >= 0
    stream.wait_event(last)
    with pytest.raises(ValueError, match="never recorded"):
        stream.wait_event(cupy.cuda.Event())


def test_a_program_of_its_own(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    program = "import cupy; cupy.asarray([1.0, 2.0]).get(); print(cupy.__file__)"
    settings = environment(STANDIN_REPORT=report)
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, env=settings, encoding="utf-8")
    assert "standin" in printed
    counted = {name: value for name, value in json.loads(report.read_text("utf-8")).items() if value}
    assert counted == {"synchronisations": 1, "bytes_to_device": 16, "bytes_to_host": 16, "peak_bytes": 512}


# ------------------------------------------------------------------------------------------ kernels

SOURCE = """
template <class T> __global__ void scale(const T* x, T* y, double factor, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x ? x[i] * T(factor) : T(0);
}
"""
NAMES = ("scale<float>", "scale<double>")


@pytest.fixture
def scale(cupy: Any) -> Any:
    return cupy.RawModule(code=SOURCE, options=("-std=c++17",), name_expressions=NAMES).get_function(NAMES[0])


@needs_emulator
def test_a_kernel(cupy: Any, scale: Any, counters: Any) -> None:
    x, y = cupy.asarray(HOST), cupy.empty((2, 3), "float32")
    scale((2,), (4,), (x, y, 2.5, np.int32(6)), shared_mem=64)
    assert np.array_equal(y.get(), HOST * 2.5)
    for null in (np.intp(0), np.uint64(0)):
        scale((2, 1, 1), (4, 1), (null, y, np.float64(1), np.int32(6)))
        assert not y.any()
    assert counters.launches == 3


@needs_emulator
@pytest.mark.parametrize(
    "change", [{1: None}, {3: 6}, {3: np.int64(6)}, {2: 1}, {2: np.float32(1)}, {0: HOST}, {3: "6"}]
)
def test_arguments_are_of_the_parameters_types(cupy: Any, scale: Any, change: dict[int, Any]) -> None:
    x = cupy.asarray(HOST)
    args = [x, x.copy(), 1.0, np.int32(6)]
    scale((1,), (8,), args)
    for place, value in change.items():
        args[place] = value
    with pytest.raises(TypeError):
        scale((1,), (8,), args)


@needs_emulator
def test_launches_that_are_refused(cupy: Any, scale: Any) -> None:
    x = cupy.asarray(HOST)
    args = (x, x, 1.0, np.int32(6))
    with pytest.raises(TypeError, match="takes 4 arguments"):
        scale((1,), (8,), args[:3])
    with pytest.raises(TypeError, match="f4"):
        scale((1,), (8,), (x, x.astype("float64"), 1.0, np.int32(6)))
    with pytest.raises(ValueError, match="not contiguous"):
        scale((1,), (8,), (x.T, x, 1.0, np.int32(6)))
    with pytest.raises(TypeError, match="tuples"):
        scale(1, (8,), args)
    with pytest.raises(ValueError, match="above 0"):
        scale((0,), (8,), args)
    for grid, block, shared in [((1,), (1025,), 0), ((1, 65536), (1,), 0), ((1,), (8,), 48 * 1024 + 1)]:
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
            scale(grid, block, args, shared_mem=shared)
    scale.max_dynamic_shared_size_bytes = 64 * 1024
    scale((1,), (8,), args, shared_mem=48 * 1024 + 1)
    with pytest.raises(cupy.cuda.driver.CUDADriverError):
        scale.max_dynamic_shared_size_bytes = 2**20


@needs_emulator
def test_modules(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="NOT_FOUND"):
        cupy.RawModule(code=SOURCE, name_expressions=NAMES).get_function("scale<int>")
    broken = cupy.RawModule(code='#line 7 "broken.cu"\nnonsense', name_expressions=("f",))
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r"broken\.cu:7"):
        broken.get_function("f")
    monkeypatch.setenv("STANDIN_CHECKED", "1")
    checked = cupy.RawModule(code=SOURCE, name_expressions=NAMES).get_function(NAMES[1])
    x = cupy.ones(3)
    with pytest.raises(Exception, match="out of bounds on x"):
        checked((1,), (8,), (x, cupy.zeros(8), 1.0, np.int32(8)))
    with pytest.raises(Exception, match="uninitialised on x"):
        checked((1,), (8,), (cupy.empty(8), cupy.zeros(8), 1.0, np.int32(8)))
    checked((1,), (8,), (cupy.ones(8), cupy.empty(8), 1.0, np.int32(8)))


@needs_emulator
def test_our_kernels(cupy: Any) -> None:
    module = cupy.RawModule(code=kernels.text("layernorm"), name_expressions=["layernorm_forward<float, 1>"])
    x, gain = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)[:, :, :]
    given = [cupy.asarray(x), cupy.asarray(gain[0])]
    outputs = [cupy.empty((5, 7), "float32"), cupy.empty((5, 7), "float32"), cupy.empty(5, "float32")]
    kernel = module.get_function("layernorm_forward<float, 1>")
    kernel((2,), (128,), (*given, np.intp(0), *outputs, 1e-5, np.int32(5), np.int32(7)))
    expected, _ = layernorm.forward(x, gain[0])
    assert np.abs(outputs[0].get() - expected).max() <= 1e-6


# ------------------------------------------------------------------------------------------ cuBLAS

KINDS = {"float16": 2, "float32": 0, "float64": 1}


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(
    ("factor", "result", "compute", "tolerance"),
    [
        ("float64", "float64", 70, 1e-13),
        ("float32", "float32", 68, 1e-5),
        ("float32", "float32", 77, 1e-2),
        ("float16", "float32", 68, 1e-5),
        ("float16", "float16", 68, 1e-2),
    ],
)
def test_products(
    cupy: Any, factor: str, result: str, compute: int, tolerance: float, transposed: tuple[int, int], beta: float
) -> None:
    """Heads lie side by side in each row: what is multiplied is spread over the arrays."""
    H, m, n, k = 3, 4, 5, 6
    rng, blas = np.random.default_rng(0), cupy.cuda.cublas
    sizes = [(m, k)[:: -1 if transposed[0] else 1], (k, n)[:: -1 if transposed[1] else 1], (m, n)]
    # Column by column (rows, columns) is row by row (columns, rows), here with heads between the two.
    a, b, c = (
        rng.normal(size=(columns, H, rows)).astype(kind)
        for (rows, columns), kind in zip(sizes, (factor, factor, result), strict=True)
    )
    on_device = [cupy.asarray(x) for x in (a, b, c)]
    if beta == 0:
        on_device[2].fill(np.nan)
    scales = np.array([1.5, beta], "float64" if factor == "float64" else "float32")
    places = [[x.data.ptr, KINDS[str(x.dtype)], H * rows, rows] for x, (rows, _) in zip(on_device, sizes, strict=True)]
    blas.gemmStridedBatchedEx(
        cupy.cuda.device.get_cublas_handle(),
        *(*transposed, m, n, k, scales.ctypes.data, *places[0], *places[1]),
        *(scales.ctypes.data + scales.itemsize, *places[2], H, compute, blas.CUBLAS_GEMM_DEFAULT),
    )
    left = np.moveaxis(a.astype(float), 1, 0)  # (H, columns, rows)
    right = np.moveaxis(b.astype(float), 1, 0)
    left, right = (x if swapped else x.swapaxes(1, 2) for x, swapped in zip((left, right), transposed, strict=True))
    expected = 1.5 * left @ right + beta * np.moveaxis(c.astype(float), 1, 0).swapaxes(1, 2)
    error = np.abs(on_device[2].get().astype(float).transpose(1, 2, 0) - expected).max() / np.abs(expected).max()
    assert error <= tolerance
    assert compute != 77 or error > 1e-6  # TF32 is to be seen


def product(cupy: Any, **changes: Any) -> Any:
    """Multiply two 4 x 4 matrices with some arguments changed; return the result."""
    x, y, scales = cupy.ones((4, 4), "float32"), cupy.zeros((4, 4), "float32"), np.array([1, 0], np.float32)
    arguments = {"handle": cupy.cuda.device.get_cublas_handle(), "transa": 0, "transb": 0, "m": 4, "n": 4, "k": 4}
    arguments |= {"alpha": scales.ctypes.data, "A": x.data.ptr, "Atype": 0, "lda": 4, "B": x.data.ptr, "Btype": 0}
    arguments |= {"ldb": 4, "beta": scales.ctypes.data + 4, "C": y.data.ptr, "Ctype": 0, "ldc": 4}
    arguments |= {"computeType": 68, "algo": -1}
    cupy.cuda.cublas.gemmEx(**arguments | {name: change(x, y) for name, change in changes.items()})
    return y


def test_a_single_product(cupy: Any, counters: Any) -> None:
    assert (product(cupy) == 4).all()
    assert counters.products == 1
    assert (product(cupy, k=lambda *_: 0) == 0).all()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("A", lambda x, _: x.data.ptr + 4, "A ends 4 bytes behind"),
        ("B", lambda x, _: x.data.ptr + x.nbytes, "no memory in use"),
        ("B", lambda *_: HOST.ctypes.data, "no memory in use"),
        ("A", lambda x, _: x.data.ptr + 2, "not aligned"),
        ("C", lambda x, _: x.data.ptr, "write to what it reads"),
        ("lda", lambda *_: 3, "INVALID_VALUE"),
        ("lda", lambda *_: 5, "A ends"),
        ("transa", lambda *_: 3, "INVALID_VALUE"),
        ("alpha", lambda x, _: x.data.ptr, "not of the host"),
        ("Btype", lambda *_: 1, "NOT_SUPPORTED"),
        ("Ctype", lambda *_: 2, "NOT_SUPPORTED"),
        ("computeType", lambda *_: 70, "NOT_SUPPORTED"),
        ("handle", lambda *_: 0, "NOT_INITIALIZED"),
    ],
)
def test_products_that_are_refused(cupy: Any, name: str, change: Callable[..., int], words: str) -> None:
    with pytest.raises((ValueError, cupy.cuda.cublas.CUBLASError), match=words):
        product(cupy, **{name: change})


def test_a_product_with_freed_memory(cupy: Any) -> None:
    freed = cupy.ones(1000).data.ptr  # no other takes its place
    gc.collect()
    with pytest.raises(ValueError, match="no memory in use"):
        product(cupy, A=lambda *_: freed)


# ------------------------------------------------------------------------------------------ a model


def test_the_reference_trains_as_on_numpy(cupy: Any) -> None:
    config = ModelConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16, dropout=0.2)

    def losses(xp: types.ModuleType, to_numpy: Callable[[Any], Any]) -> list[float]:
        model = GPT(config, reference(xp, to_numpy), Layout(config).initial(seed=0))
        recipe = steps.recipe(4, learning_rate=1e-2)
        slots = steps.slots_of(model, recipe)
        rng, found = np.random.default_rng(0), []
        for step in range(4):
            tokens, targets = rng.integers(config.vocab_size, size=(2, 4, 8))
            found.append(model.loss_and_grad(tokens, targets, seed=1, step=step, micro_batch=3))
            found.append(steps.update_model(model, slots, recipe, number=step + 1))
        return [*found, model.score(tokens, targets).loss / targets.size]

    assert np.abs(np.subtract(losses(cupy, cupy.asnumpy), losses(np, np.asarray))).max() <= 1e-6


# ------------------------------------------------------------------------------------------ honesty


def test_what_was_loaded_comes_back() -> None:
    def loaded() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "cupy"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
        before, path = loaded(), sys.path.copy()
        with standing_in() as cupy:
            assert sys.modules["cupy"] is cupy is not before["cupy"]
            assert sys.modules["cupy.cuda"] is cupy.cuda
        assert (loaded(), sys.path) == (before, path)


def claims(cupy: Any) -> dict[str, Any]:
    """Return all that the stand-in shows, by dotted names."""
    claimed: dict[str, Any] = {}
    modules = {"cupy": [*cupy.__all__, *importlib.import_module("cupy._array").ufuncs]}
    modules |= {f"cupy.cuda{part}": importlib.import_module(f"cupy.cuda{part}").__all__ for part in ("", ".memory")}
    for part in ("compiler", "device", "driver", "pinned_memory", "runtime", "stream"):
        modules[f"cupy.cuda.{part}"] = getattr(cupy.cuda, part).__all__
    for module, names in modules.items():
        claimed |= {f"{module}.{name}": getattr(sys.modules[module], name) for name in names}
    kernel = {"cupy.RawKernel": importlib.import_module("cupy._raw").RawKernel}
    for name, item in (claimed | kernel).items():
        if isinstance(item, type) and item.__module__.startswith("cupy"):
            claimed |= {f"{name}.{key}": value for key, value in vars(item).items() if shown(key)}
    return {name: item for name, item in claimed.items() if not name.startswith("cupy.cuda.cublas")}


def shown(name: str) -> bool:
    """Is an attribute one that users see? Operators are; what Python adds to each class is not."""
    return not name.startswith("_") or (name.startswith("__") and name not in {*vars(types.new_class("C")), "__hash__"})


def named(function: Callable[..., Any]) -> list[str]:
    """Return the parameters that may be given by name."""
    parameters = inspect.signature(function).parameters.values()
    return [item.name for item in parameters if item.kind != item.POSITIONAL_ONLY and item.name != "self"]


REAL = """
import importlib, inspect, json, sys
found = {}
for name in json.load(sys.stdin):
    item = importlib.import_module("cupy")
    try:
        for part in name.split(".")[1:]:
            item = getattr(item, part)
    except AttributeError:
        continue
    try:
        parameters = list(inspect.signature(item).parameters)
    except (TypeError, ValueError):
        parameters = []
    found[name] = [parameters, item.__doc__ or ""]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def real() -> Path:
    """Where the real CuPy's folders are: importing it needs no GPU."""
    spec = PathFinder.find_spec("cupy", [folder for folder in sys.path if folder != str(FOLDER)])
    if spec is None or spec.origin is None:
        pytest.skip("CuPy is not installed")
    return Path(spec.origin).parents[1]


def ask(*command: str, given: str = "") -> Any:
    """Return what a program with the real CuPy prints as JSON."""
    asked = [sys.executable, *command]
    return json.loads(subprocess.check_output(asked, input=given, cwd=ROOT, encoding="utf-8"))


@pytest.mark.usefixtures("real")
def test_cupy_has_all_that_the_stand_in_has(cupy: Any) -> None:
    claimed = claims(cupy)
    found = ask("-c", REAL, given=json.dumps(list(claimed)))
    assert claimed.keys() - found.keys() == set()
    for name, item in claimed.items():
        made_by_us = isinstance(item, type) and "__init__" in vars(item) and not issubclass(item, Exception)
        if made_by_us or (inspect.isfunction(item) and not name.endswith("__")):
            parameters, text = found[name]
            wanted = [key for key in named(item) if key not in parameters and not re.search(rf"\b{key}\b", text)]
            assert not wanted, f"{name} takes no {wanted}"


@pytest.mark.usefixtures("real")
def test_cupy_decides_the_same(cupy: Any) -> None:
    expected = ask("-m", "tests.cuda.standin.rules")
    got = rules.outcomes(cupy, cupy.zeros(rules.HOST.shape, "float32"))
    for name, (error, words) in expected.items():
        assert got[name][0] == error, name
        assert error or got[name][1] == words, name


def test_cublas_has_all_that_the_stand_in_has(cupy: Any, real: Path) -> None:
    """The module needs its library to be imported, but its file holds the names and the signatures."""
    (file,) = real.glob("cupy_backends/cuda/libs/cublas.*.so")
    text = file.read_bytes()
    for name in cupy.cuda.cublas.__all__:
        item = getattr(cupy.cuda.cublas, name)
        if inspect.isfunction(item):
            parameters = ", ".join(rf"[\w ]+ {key}" for key in inspect.signature(item).parameters)
            assert re.search(rf"\b{name}\({parameters}\)".encode(), text), name
        else:
            assert name.encode() in text, name
