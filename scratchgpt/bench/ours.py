"""Our model as a contender, and the large matrix product that says what the machine could do at most."""

import atexit
import contextlib
import dataclasses
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from scratchgpt.backend import Backend, select
from scratchgpt.bench import Contender, Workload
from scratchgpt.engine.base import open_engine
from scratchgpt.engine.plan import Plan, cache_sequences, default_lanes
from scratchgpt.model.gpt import GPT
from scratchgpt.model.groups import new_slots
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import clip_scale
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import Update


def build(workload: Workload) -> Contender:
    """Return our model, ready to train."""
    seconds: dict[str, float] = {}
    layout, recipe = Layout(workload.model), workload.recipe
    if workload.device == "cpu":
        lanes = min(workload.lanes or default_lanes(), workload.batch_size)
        plan = Plan(lanes, micro_batch=cache_sequences(workload.model))
    else:
        plan = Plan(1, workload.batch_size, device=workload.device, precision=workload.precision)
    model = open_engine(workload.model, recipe, layout.initial(workload.seed), new_slots(layout, recipe), plan)
    backend = model.gpt.backend

    def wait() -> None:
        """Let a device that computes on after a call come to the end of its work."""
        backend.to_numpy(model.gpt.params[:1])

    if workload.profile:
        _time(model.gpt, seconds, wait)
    running = contextlib.ExitStack()
    running.enter_context(model.running())
    atexit.register(running.close)
    n_done = 0

    def step(tokens: Array, targets: Array) -> float:
        nonlocal n_done
        loss = model.accumulate(tokens, targets, seed=workload.seed, step=n_done)
        n_done += 1
        model.reduce()
        model.update(Update(recipe.learning_rate, clip_scale(model.norm(), recipe.grad_clip), n_done))
        wait()
        return loss

    about = {
        "version": version(backend),
        "device": backend.name,
        "precision": plan.precision,
        "lanes": plan.lanes,
        "parameters": layout.size,
    }
    return Contender(step, about, seconds, model.device_bytes)


def version(backend: Backend) -> str:
    """Return what a backend computes with."""
    if backend.xp is not np:
        return f"CuPy {backend.xp.__version__}"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"NumPy {np.__version__}, {blas['name']} {blas['version']}"


def _time(gpt: GPT, seconds: dict[str, float], wait: Callable[[], None]) -> None:
    """Let every part of a step add to its own sum of `seconds`, after a wait for the work that it has started."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            wait()
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            return result

        return wrapper

    parts: dict[str, Any] = {}
    for entry in ("embed", "attention", "mlp", "head"):
        sublayer = getattr(gpt.table, entry)
        methods = ("loss",) if entry == "head" else ("forward", "backward")
        names = {method: "head_loss" if method == "loss" else f"{entry} {method}" for method in methods}
        parts[entry] = SimpleNamespace(
            **{method: timed(name, getattr(sublayer, method)) for method, name in names.items()}
        )
    gpt.table = dataclasses.replace(gpt.table, **parts)
    backend = gpt.backend
    rules = {name: timed("update", rule) for name, rule in backend.rules.items()}
    gpt.backend = backend._replace(norm=timed("norm", backend.norm), rules=rules)


def build_product(workload: Workload) -> Contender:
    """Return a float32 matrix product, large enough to take a thirtieth of a second on all cores."""
    xp = select(workload.device).xp
    size, took = 512, 0.0
    while took < 1 / 30:
        size *= 2
        a, b = xp.full((size, size), 0.5, dtype="float32"), xp.full((size, size), 0.25, dtype="float32")
        out = xp.matmul(a, b)
        started = time.perf_counter()
        xp.matmul(a, b, out=out)
        float(out[0, 0])
        took = time.perf_counter() - started

    def step(*_: Array) -> float:
        xp.matmul(a, b, out=out)
        return float(out[0, 0])

    return Contender(step, {"flops": 2 * size**3})
