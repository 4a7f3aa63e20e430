"""What CuPy decides before it needs a device: run on the stand-in and, as a program, on the real one."""

import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

HOST = np.ones((2, 3), np.float32)


def set_item(x: Any, index: Any, value: Any) -> None:
    """x[index] = value."""
    x[index] = value


RULES: dict[str, Callable[[Any, Any], object]] = {
    "to NumPy": lambda _, x: np.asarray(x),
    "into NumPy": lambda _, x: set_item(HOST.copy(), ..., x),
    "NumPy into all": lambda _, x: set_item(x, ..., HOST),
    "NumPy into a slice": lambda _, x: set_item(x, slice(1), HOST[:1]),
    "a list into all": lambda _, x: set_item(x, ..., [1, 2, 3]),
    "fill with NumPy": lambda _, x: x.fill(HOST),
    "times NumPy": lambda _, x: x @ HOST.T,
    "vdot with NumPy": lambda cupy, x: cupy.vdot(x, HOST),
    "index out of range": lambda _, x: x[5],
    "set a list": lambda _, x: x.set([1]),
    "set another type": lambda _, x: x.set(HOST.astype(float)),
    "set another shape": lambda _, x: x.set(HOST.T),
    "set what is not contiguous": lambda _, x: x[:, 1:].set(HOST[:, 1:]),
    "an array of objects": lambda cupy, _: cupy.empty(3, object),
    "as objects": lambda _, x: x.astype(object),
    "as wider elements": lambda _, x: x.T.view(np.float16),
    "an uneven split": lambda cupy, x: cupy.split(x, 2, axis=-1),
    "another sort": lambda cupy, x: cupy.argsort(x, kind="quicksort"),
    "hash": lambda _, x: hash(x),
    "as an index": lambda _, x: range(x),
    "nonsense of an array": lambda _, x: x.nonsense,
    "errstate": lambda cupy, _: cupy.errstate,
    "size 6 as a number": lambda _, x: x.item(),
    "size 6 as a truth": lambda _, x: bool(x),
    "a list of options": lambda cupy, _: cupy.RawModule(code="", options=["-a"]),
    "code by position": lambda cupy, _: cupy.RawModule(""),
    "nvcc and names": lambda cupy, _: cupy.RawModule(code="", backend="nvcc", name_expressions=("a",)),
    "length": lambda _, x: len(x),
    "shape of the transpose": lambda _, x: x.T.shape,
    "strides of swapped axes": lambda _, x: x.swapaxes(0, 1).strides,
    "strides of a slice": lambda _, x: x[:, ::2].strides,
    "strides of a new axis": lambda _, x: x[:, None].shape,
    "contiguous": lambda _, x: (x.flags.c_contiguous, x.T.flags.c_contiguous, x.T.flags.f_contiguous),
    "bytes": lambda _, x: (x.nbytes, x.itemsize, x.size, x.ndim),
    "other bytes": lambda _, x: x.view(np.float16).shape,
    "offset of a view": lambda _, x: x[1:, 1:].data.ptr - x.data.ptr,
    "an in-place product": lambda _, x: hasattr(x, "__imatmul__"),
    "module of an array": lambda _, x: type(x).__module__,
    "numbers of types": lambda cupy, _: [
        getattr(cupy.cuda.runtime, f"CUDA_R_{kind}") for kind in ("16F", "32F", "64F")
    ],
    "no memory": lambda cupy, _: str(cupy.cuda.memory.OutOfMemoryError(1024, 2048, 4096)),
    "no memory, no limit": lambda cupy, _: str(cupy.cuda.memory.OutOfMemoryError(1024, 2048, 0)),
    "no memory is a MemoryError": lambda cupy, _: issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError),
    "no driver": lambda cupy, _: str(cupy.cuda.runtime.CUDARuntimeError(35)),
    "no device": lambda cupy, _: str(cupy.cuda.runtime.CUDARuntimeError(100)),
    "wrong device": lambda cupy, _: str(cupy.cuda.runtime.CUDARuntimeError(101)),
    "does not compile": lambda cupy, _: str(cupy.cuda.compiler.CompileException("why", "text", "name", ())),
}
"""Of cupy and an array (2, 3) of float32 whose elements nobody reads."""


def outcomes(cupy: Any, x: Any) -> dict[str, list[str]]:
    """Return what each rule gives, or the type of the error and its words."""

    def outcome(rule: Callable[[Any, Any], object]) -> list[str]:
        try:
            return ["", repr(rule(cupy, x))]
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the outcome)
            return [type(error).__name__, str(error)]

    return {name: outcome(rule) for name, rule in RULES.items()}


if __name__ == "__main__":
    real = importlib.import_module("cupy")
    memory = real.cuda.UnownedMemory(HOST.ctypes.data, HOST.nbytes, HOST, device_id=0)  # needs no driver
    print(json.dumps(outcomes(real, real.ndarray(HOST.shape, HOST.dtype, real.cuda.MemoryPointer(memory, 0)))))
