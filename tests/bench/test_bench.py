"""The benchmark compares equal things, counts rightly, and tells failures in a sentence. No speed is demanded here."""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from scratchgpt.bench import OURS, PEERS, SOURCES, Workload, measure, processes, settings_of
from scratchgpt.bench.rounds import Turn
from scratchgpt.config import ModelConfig
from scratchgpt.errors import BenchmarkError, UsageError
from scratchgpt.model.params import Layout
from tests.world import scratchgpt

SIZES: dict[str, Any] = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
WORKLOAD = Workload(model=ModelConfig(vocab_size=11, **SIZES), batch_size=3)
SMALL = "--block-size=8 --n-layer=2 --n-head=2 --n-embd=16 --batch-size=3 --steps=2 --rounds=1"
OPTIONS = SMALL.split()
ROOT = Path(__file__).parents[2]
NUMBERS = ("step_ms", "tokens_per_s", "gflops", "blas_limit_ms", "peak_memory_mb", "lanes", "rounds", "ratio")
KINDS: list[dict[str, Any]] = [
    {},
    {"bias": False, "tie_word_embeddings": False, "head_bias": True, "activation": "relu"},
]


def records(*arguments: str, cwd: Path) -> list[dict[str, Any]]:
    """Run the command; return its JSON lines."""
    result = scratchgpt("bench", "--json", *OPTIONS, *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_alone_with_a_profile(tmp_path: Path) -> None:
    [record] = records("--profile", "--vocab-size", "11", cwd=tmp_path)
    assert record["contender"] == "ours"
    assert record["preset"] == "shakespeare-cpu"
    assert all(record[name] > 0 for name in NUMBERS)
    assert record["ratio"] == 1
    assert record["model"]["vocab_size"] == 11
    assert record["model"]["dropout"] == 0
    parts = record["profile"]
    pairs = {f"{name} {way}" for name in ("embed", "attention", "mlp") for way in ("forward", "backward")}
    assert parts.keys() == pairs | {"head_loss", "norm", "update", "other"}
    assert all(ms > 0 for ms in parts.values()), "a part took longer than the whole"


def test_beside_another_checkout(tmp_path: Path) -> None:
    peer, our = records("--vs", f"ours@{ROOT}", "--starts", "2", cwd=tmp_path)
    assert (peer["contender"], our["contender"]) == (f"ours@{ROOT}", "ours")
    assert peer["first_loss"] == our["first_loss"]
    assert peer["ratio"] > 0
    assert peer["ratio_low"] is None
    assert "For an interval there are too few rounds or starts" in peer["doubts"][-1]
    assert peer["starts"] == 2
    if processes.load() is not None:
        assert peer["cpu_ratio"] > 0
        assert peer["cpu_ms"] > 0
        assert 0 <= peer["discarded_rounds"] <= 4


def test_the_other_checkout_is_the_one_that_runs(tmp_path: Path) -> None:
    package = tmp_path / "scratchgpt" / "bench"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "worker.py").write_text('print(\'{"version": "of yore"}\')', encoding="utf-8")
    name = f"ours@{tmp_path}"
    measure.check_peers([name])
    with measure.started(name, WORKLOAD) as (_, about):
        assert about == {"version": "of yore"}


def test_another_version_gets_only_what_differs_from_the_defaults() -> None:
    assert settings_of(WORKLOAD) == {"model": {"vocab_size": 11, **SIZES}, "batch_size": 3}
    assert Workload.from_mapping(settings_of(WORKLOAD)) == WORKLOAD


@pytest.mark.slow
@pytest.mark.oracle
def test_beside_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    peer, our = records("--vs", "torch-bf16", cwd=tmp_path)
    assert (peer["contender"], our["contender"]) == ("torch-bf16", "ours")
    assert peer["precision"] == "bf16"
    assert peer["ratio"] > 0
    assert abs(peer["first_loss"] - our["first_loss"]) <= 1e-3
    assert peer["blas_limit_ms"] == our["blas_limit_ms"]


def test_the_table_for_people(tmp_path: Path) -> None:
    result = scratchgpt("bench", "--preset", "gpt-nano", "--profile", *OPTIONS, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("ms/step", "GFLOP/s", "ours", "head_loss", "V 50,257"))


def losses_of(name: str, workload: Workload) -> np.ndarray:
    """Return the losses of six steps."""
    module = importlib.import_module(f"scratchgpt.bench.{SOURCES[name].module}")
    with threadpool_limits(1):
        contender = getattr(module, SOURCES[name].function)(workload)
        return np.array([contender.step(*workload.batch(step)) for step in range(6)])


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peer", ["torch", "jax"])
def test_peers_compute_the_same(peer: str, kind: dict[str, Any]) -> None:
    pytest.importorskip(peer, reason=f"{peer} is not installed")
    workload = Workload(model=ModelConfig(vocab_size=11, **SIZES, **kind), batch_size=3)
    our_losses, losses = losses_of(OURS, workload), losses_of(peer, workload)
    assert np.abs(our_losses - losses).max() <= 2e-5
    assert np.unique(our_losses).size == 6


@pytest.mark.oracle
def test_bfloat16_rounds_less_than_a_mistake_moves_the_losses() -> None:
    """The looser tolerance still refuses another activation."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    sizes: dict[str, Any] = {"vocab_size": 65, "block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 64}
    gelu, relu = (Workload(model=ModelConfig(**sizes, activation=name), batch_size=8) for name in ("gelu_new", "relu"))
    expected = losses_of(OURS, gelu)
    rounded = losses_of("torch-bf16", gelu)
    assert 0 < np.abs(rounded - expected).max() <= measure.TOLERANCES["torch-bf16"] / 10
    measure.check_losses({OURS: [*expected], "torch-bf16": [*rounded]}, "fp32")
    with pytest.raises(BenchmarkError, match="does not compute the same"):
        measure.check_losses({OURS: [*expected], "torch-bf16": [*losses_of("torch-bf16", relu)]}, "fp32")


def test_operations_are_counted() -> None:
    # 2 layers of 12 C² + 13 C, the final norm's 2 C, the tied tokens' V C; the position table is not multiplied with.
    C, T, V = 16, 8, 11
    multiplied = 2 * (12 * C * C + 13 * C) + 2 * C + V * C
    assert multiplied == Layout(WORKLOAD.model).size - T * C
    assert WORKLOAD.flops == 3 * T * (6 * multiplied + 12 * 2 * C * T)
    untied = Workload(model=ModelConfig(vocab_size=11, tie_word_embeddings=False, **SIZES), batch_size=3)
    assert untied.flops == WORKLOAD.flops


def test_ratio_is_the_median_over_rounds() -> None:
    """A machine that is slow for one round is slow for both sides, and an outlier stays one."""
    theirs = [Turn([2.0, 2.0, 9.0], 2.0), Turn([20.0, 20.0, 20.0], 2.0), Turn([3.0, 3.0, 3.0], 2.0)]
    our = [Turn([1.0, 1.0, 1.0], 0.5), Turn([10.0, 9.0, 11.0], 0.25), Turn([1.0], 1.0)]
    found = measure.numbers(theirs, our, workload=WORKLOAD, rate=1e6)
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (2, None, None)
    assert (found["cpu_ratio"], found["cpu_ms"]) == (4, 2000)
    assert found["step_ms"] == 3000
    assert (found["step_ms_min"], found["step_ms_max"]) == (2000, 20000)
    assert found["tokens_per_s"] == 3 * 8 / 3
    assert found["gflops"] == pytest.approx(WORKLOAD.flops / 3 / 1e9)
    assert found["blas_limit_ms"] == pytest.approx(WORKLOAD.flops / 1e3)


@pytest.mark.parametrize(
    ("peer", "precision", "tolerance"), [("torch", "fp32", 1e-4), ("torch", "fp16", 1e-3), ("torch-bf16", "fp32", 3e-3)]
)
def test_what_computes_something_else_is_not_timed(peer: str, precision: str, tolerance: float) -> None:
    measure.check_losses({OURS: [2.0, 1.9], peer: [2 + 0.9 * tolerance, 1.9 - 0.9 * tolerance]}, precision)
    for loss in (2 + 1.1 * tolerance, float("nan")):
        with pytest.raises(BenchmarkError, match=f"{peer} does not compute the same as ours: at step 2"):
            measure.check_losses({OURS: [2.0, 2.0], peer: [2.0, loss]}, precision)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('long story', file=sys.stderr); sys.exit('last words\\n')", "died with exit code 1: last words$"),
        ("os._exit(9)", "died with exit code 9: it said nothing$"),
    ],
)
def test_a_worker_that_dies(program: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PYTHON", (sys.executable, "-c", f"import os, sys; {program}"))
    with pytest.raises(BenchmarkError, match=message), measure.started(OURS, WORKLOAD):
        pass


def test_a_worker_that_dies_later() -> None:
    with measure.started(OURS, WORKLOAD) as (worker, about):
        assert about["parameters"] == Layout(WORKLOAD.model).size
        turn = worker.take_turn(2)
        assert len(turn.seconds) == 2
        worker.process.kill()
        with pytest.raises(BenchmarkError, match="ours died"):
            worker.take_turn(2)


def test_a_worker_that_fails() -> None:
    with (
        pytest.raises(BenchmarkError, match=r"^The contender nobody failed: KeyError: 'nobody'$"),
        measure.started("nobody", WORKLOAD),
    ):
        pass


def test_peers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no peer 'tirch' \(did you mean 'torch'\?\)"):
        measure.check_peers(["tirch"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in PEERS:
        with pytest.raises(UsageError, match="must be installed: pip install"):
            measure.check_peers([name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--vs tirch", "did you mean 'torch'"),
        ("--vs ours", "no peer 'ours'"),
        ("--vs ours@nowhere", "nowhere holds no checkout of scratchgpt"),
        ("--vs torch --norm rmsnorm", "The peer torch cannot hold this model's norm: rmsnorm; leave it out."),
        ("--preset nano", "no preset 'nano'"),
        ("--n-embd 17", "17 is not divisible by"),
        ("--vocab-size 0", "vocab_size must be at least 1"),
        ("--steps 0", "--steps"),
        ("--batch-size -1", "--batch-size"),
        ("--device tpu", "no device 'tpu'"),
    ],
)
def test_misuse_is_refused_in_a_sentence(arguments: str, message: str, tmp_path: Path) -> None:
    result = scratchgpt("bench", *arguments.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not processes.PROC.exists(), reason="there is no /proc")
def test_children_count() -> None:
    before = processes.memory_mb(os.getpid())
    with measure.started(OURS, WORKLOAD) as (worker, _):
        child = processes.memory_mb(worker.process.pid)
        assert processes.cpu_seconds(worker.process.pid) > 0
        assert processes.memory_mb(os.getpid()) >= before + 0.1 * child
    assert 1 < child < 10_000
    assert processes.memory_mb(worker.process.pid) == 0


@pytest.mark.skipif(not processes.PROC.exists(), reason="there is no /proc")
def test_our_own_processes_are_no_foreign_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither idle nor used by this process and its ended children is foreign."""
    monkeypatch.setattr(processes, "PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2})
    assert processes.load() is None
    rows = [f"cpu{core} 1 1 1 {idle * processes.TICKS} {processes.TICKS} 1" for core, idle in enumerate([900, 20, 30])]
    (tmp_path / "stat").write_text("\n".join(["cpu 1 1 1 1 1 1", *rows, "intr 1"]), encoding="utf-8")
    (tmp_path / f"{os.getpid()}").mkdir()
    of_children = f"{2 * processes.TICKS} {3 * processes.TICKS}"
    stat = f"1 (a) b) S 0 {'0 ' * 9} 7 8 {of_children} 20"
    (tmp_path / f"{os.getpid()}" / "stat").write_text(stat, encoding="utf-8")
    before = time.monotonic(), time.process_time()
    load = processes.load()
    after = time.monotonic(), time.process_time()
    assert load is not None
    assert 2 * before[0] <= load.total <= 2 * after[0]
    known = 20 + 30 + 1 + 1 + 2 + 3
    assert before[1] <= load.total - load.foreign - known <= after[1]
    (tmp_path / "stat").write_text("cpu1 0 0 0 0 0 0\n", encoding="utf-8")
    assert processes.load() is None, "a system that counts nothing"
