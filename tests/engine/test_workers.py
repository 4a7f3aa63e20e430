"""Lanes: several processes compute what one computes, the same bits every time, and leave nothing behind."""

import dataclasses
import gc
import math
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.backend import cpu
from scratchgpt.backend.cpu import exchange, head
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.messages import Failed, Message, Value
from scratchgpt.engine.plan import Plan, default_lanes
from scratchgpt.engine.worker import Worker
from scratchgpt.engine.workers import Workers, _Process, serve
from scratchgpt.errors import LaneError
from scratchgpt.model import groups
from scratchgpt.model.groups import Group, new_slots
from scratchgpt.model.params import SPLIT_ABOVE, Layout
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import SLOTS, State, Update
from tests.engine.steps import recipe, update

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other lanes than the first need POSIX")

CONFIG = ModelConfig(vocab_size=11, block_size=9, n_layer=2, n_head=3, n_embd=12, dropout=0.2)
LARGE = dataclasses.replace(CONFIG, vocab_size=SPLIT_ABOVE + 52)  # so many tokens that lanes divide them
UNTIED = dataclasses.replace(LARGE, tie_word_embeddings=False, head_bias=True)


FREEZE = ("transformer.wpe.weight", "transformer.wte.*", "transformer.h.0.*")


def make(n_lanes: int, config: ModelConfig = CONFIG, size: float = 1, freeze: Sequence[str] = ()) -> Workers:
    """Make lanes; logits are of about `size`."""
    layout = Layout(config)
    params = layout.initial(1)
    layout.tree(params).head.weight[...] *= size / 0.02 / math.sqrt(config.n_embd)
    train = recipe(7, freeze=freeze)
    return Workers(config, train, params, new_slots(layout, train), Plan(n_lanes, micro_batch=2))


def batch(B: int = 7, config: ModelConfig = CONFIG) -> tuple[Array, Array]:
    tokens, targets = np.random.default_rng(B).integers(0, config.vocab_size, (2, B, 9))
    return tokens, targets


def train(
    n_lanes: int, config: ModelConfig = CONFIG, *, size: float = 1, n_steps: int = 3, freeze: Sequence[str] = ()
) -> dict[str, Any]:
    lanes = make(n_lanes, config, size, freeze)
    losses, norms = [], []
    with lanes.running():
        for step in range(n_steps):
            losses.append(lanes.accumulate(*batch(7, config), seed=5, step=step))
            norms.append(update(lanes, number=step + 1))
        score = lanes.score(*batch(7, config))
    return {"losses": losses, "norms": norms, "score": score, "params": lanes.gpt.params.copy(), "lanes": lanes}


@pytest.mark.parametrize("config", [CONFIG, LARGE, UNTIED], ids=["small", "large", "untied"])
@pytest.mark.parametrize("n_lanes", [2, 3, 8])
def test_many_lanes_agree_with_one(n_lanes: int, config: ModelConfig) -> None:
    """Even if there are more lanes than sequences."""
    alone, many = train(1, config), train(n_lanes, config)
    assert np.abs(np.subtract(many["losses"], alone["losses"])).max() <= 5e-7 * alone["losses"][0]
    assert np.abs(np.subtract(many["norms"], alone["norms"])).max() <= 1e-5
    assert np.abs(many["params"] - alone["params"]).max() <= 1e-4  # Adam amplifies what is nearly zero
    assert abs(many["score"].loss - alone["score"].loss) <= 1e-3
    assert many["score"].n_targets == alone["score"].n_targets == 63


@pytest.mark.parametrize("config", [CONFIG, LARGE, UNTIED], ids=["small", "large", "untied"])
@pytest.mark.parametrize("n_lanes", [2, 8])
def test_many_lanes_agree_with_one_about_weights_and_targets_that_do_not_count(
    n_lanes: int, config: ModelConfig
) -> None:
    tokens, targets = batch(7, config)
    targets[2:4], targets[6, :5] = -1, -1  # no target of the second of two lanes' sequences counts
    weights = np.random.default_rng(0).normal(size=targets.shape)
    found = []
    for lanes in (make(1, config), make(n_lanes, config)):
        with lanes.running():
            losses = [lanes.accumulate(tokens, targets, given, seed=5, step=0) for given in (weights, None)]
            grads = lanes.reduce().copy()
            found.append((losses, grads, lanes.score(tokens, targets)))
    alone, many = found
    assert np.abs(np.subtract(many[0], alone[0])).max() <= 1e-6
    assert np.abs(many[1] - alone[1]).max() <= 1e-5 * np.abs(alone[1]).max()
    assert many[2].n_targets == alone[2].n_targets == np.count_nonzero(targets >= 0) == 40
    assert many[2].n_correct == alone[2].n_correct


def by_direction(state: State, span: slice, settings: object, update: Update) -> None:  # noqa: ARG001
    """Move by a gradient of length 1: a rule that must see all of it."""
    grads = state.grads[span]
    state.params[span] -= update.learning_rate * grads / np.linalg.norm(grads)
    grads.fill(0)


def test_a_rule_that_needs_whole_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of lanes moves each matrix as one does, and a frozen one not at all."""

    def each_by_itself(layout: Layout, train: TrainConfig) -> list[Group]:
        views = layout.views(np.arange(layout.size))
        spans = [slice(int(view.flat[0]), int(view.flat[0]) + view.size) for view in views.values()]
        return [Group(span, "direction", train.learning_rate, is_whole=True) for span in spans]

    rules = cpu.rules
    monkeypatch.setitem(groups.OPTIMIZERS, "adamw", each_by_itself)
    monkeypatch.setitem(SLOTS, "direction", ())
    monkeypatch.setattr(cpu, "rules", lambda *args, **kwargs: rules(*args, **kwargs) | {"direction": by_direction})
    monkeypatch.setattr(subprocess, "Popen", no_process)  # threads see what has been changed here
    alone, many = train(1, freeze=FREEZE), train(3, freeze=FREEZE)
    assert np.abs(many["params"] - alone["params"]).max() <= 1e-6
    moved = Layout(CONFIG).views(np.abs(alone["params"] - make(1).gpt.params))
    frozen = Layout(CONFIG).named(FREEZE)
    assert {name for name, change in moved.items() if not change.any()} == frozen


@pytest.mark.parametrize("config", [CONFIG, LARGE, UNTIED], ids=["small", "large", "untied"])
def test_what_is_frozen_stays_in_all_lanes(config: ModelConfig) -> None:
    """It keeps its bits, its gradients count in no norm and are zeroed, and lanes agree about the rest."""
    runs = [train(n_lanes, config, freeze=FREEZE) for n_lanes in (1, 3)]
    trained, frozen = Layout(config).divide(FREEZE)
    begun = make(1, config).gpt.params
    for run in runs:
        for part in frozen:
            assert np.array_equal(run["params"][part], begun[part])
        assert not run["lanes"]._arrays["grads"].any()  # noqa: SLF001
        assert not any(slot[part].any() for slot in run["lanes"].slots.values() for part in frozen)
    alone, many = runs
    assert np.abs(np.subtract(many["norms"], alone["norms"])).max() <= 1e-5
    assert np.abs(many["params"] - alone["params"]).max() <= 1e-4
    lanes = make(1, config)
    lanes.accumulate(*batch(7, config), seed=5, step=0)
    expected = math.sqrt(sum(float(np.square(lanes._arrays["grads"][part]).sum()) for part in trained))  # noqa: SLF001
    assert abs(alone["norms"][0] - expected) <= 1e-5 * expected


def test_lanes_that_divide_the_vocabulary_agree_that_logits_are_too_large() -> None:
    """With logits of some hundreds, in float32, all of them must begin again with the maxima of all parts."""
    alone, many = train(1, LARGE, size=100, n_steps=1), train(3, LARGE, size=100, n_steps=1)
    assert alone["losses"][0] > 50
    assert np.abs(np.subtract(many["losses"], alone["losses"])).max() <= 1e-4
    assert np.abs(np.subtract(many["norms"], alone["norms"])).max() <= 1e-4 * alone["norms"][0]


@pytest.mark.parametrize("config", [CONFIG, LARGE], ids=["small", "large"])
def test_the_same_lanes_give_the_same_bits(config: ModelConfig) -> None:
    one, other = train(2, config), train(2, config)
    assert one["losses"] == other["losses"]
    assert one["params"].tobytes() == other["params"].tobytes()


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["small", "untied"])
def test_gradients_of_all_lanes_are_zero_after_an_update(config: ModelConfig) -> None:
    lanes = train(2, config)["lanes"]
    assert not lanes._arrays["grads"].any()  # noqa: SLF001 - seen from inside: what the next step begins with


@pytest.fixture
def two() -> Iterator[Workers]:
    lanes = make(2)
    with lanes.running():
        lanes.score(*batch())
        yield lanes


def process_of(lanes: Workers) -> "subprocess.Popen[str]":
    """Return the process of the second lane: tests are about the process itself."""
    (worker,) = lanes._others  # noqa: SLF001
    assert isinstance(worker, _Process)
    return worker.process


def test_lanes_end_with_the_run(two: Workers) -> None:
    worker = process_of(two)
    assert worker.poll() is None
    two._stop()  # noqa: SLF001
    assert worker.returncode == 0


def test_a_lane_that_dies_is_reported(two: Workers) -> None:
    worker = process_of(two)
    worker.kill()
    worker.wait()
    with pytest.raises(LaneError, match="ended by SIGKILL, as happens when memory runs out"):
        two.score(*batch())


def test_lanes_ignore_signals_that_are_meant_for_the_first(two: Workers) -> None:
    worker = process_of(two)
    assert os.getpgid(worker.pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        worker.send_signal(number)
    assert two.score(*batch()).n_targets == 63


def test_lanes_do_not_outlive_a_parent_that_is_killed() -> None:
    program = (
        "import os, signal, sys\n"
        "from tests.engine.test_workers import batch, make\n"
        "lanes = make(2)\n"
        "with lanes.running():\n"
        "    lanes.score(*batch())\n"
        "    print(lanes._others[0].process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    pid = int(output.stdout)
    deadline = time.monotonic() + 60
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to see this process's descriptors")
def test_memory_is_given_back() -> None:
    def n_descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = n_descriptors()
    for _ in range(3):
        train(2, n_steps=1)
    assert n_descriptors() == before


def no_shared_memory(*_: int) -> None:
    raise OSError(28, "No space left on device")


def no_process(*_: Any, **__: Any) -> None:
    raise OSError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize("config", [CONFIG, LARGE], ids=["small", "large"])
def test_threads_where_processes_are_not_to_be_had(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say why, and compute the same to the last bit."""
    processes = train(3, config)
    assert processes["lanes"].note == ""
    monkeypatch.setattr(os, "posix_fallocate", no_shared_memory)
    without_memory = train(3, config)
    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "Popen", no_process)
    without_processes = train(3, config)
    for threads, reason in (
        (without_memory, "No space left on device"),
        (without_processes, "temporarily unavailable"),
    ):
        assert reason in threads["lanes"].note
        assert threads["losses"] == processes["losses"]
        assert threads["params"].tobytes() == processes["params"].tobytes()


def test_more_rows_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chunks of 7 rows, lanes that have shown all of theirs wait for those that have more."""
    expected = train(1, LARGE)
    for module in (exchange, head):
        monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(subprocess, "Popen", no_process)  # threads see what has been changed here
    for n_lanes in (1, 3):
        got = train(n_lanes, LARGE)
        assert np.abs(np.subtract(got["losses"], expected["losses"])).max() <= 5e-7 * expected["losses"][0]
        assert np.abs(got["params"] - expected["params"]).max() <= 1e-4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", no_shared_memory)
    lanes = make(2)
    with lanes.running():
        lanes._others[0].send(Value(0.0))  # noqa: SLF001 - no request
        with pytest.raises(LaneError, match="thread"):
            lanes.score(*batch())


def test_memory_that_runs_out_in_a_lane_is_reported() -> None:
    """The error is the same as if it had run out in lane 0."""
    said: list[Message] = []

    def make_none(_: Callable[[], None]) -> Worker:
        raise MemoryError("Unable to allocate 7.5 TiB")

    serve(make_none, lambda: None, said.append)
    assert said == [Failed("Unable to allocate 7.5 TiB")]
    lanes = make(2)
    with lanes.running():
        lanes._others[0].receive = lambda: said[0]  # type: ignore[method-assign] # noqa: SLF001
        with pytest.raises(MemoryError, match=r"7\.5 TiB"):
            lanes.score(*batch())


def test_memory_for_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", none)
    with pytest.raises(MemoryError, match=r"parameters, with gradients for each lane.*Cannot allocate memory"):
        make(1)


def test_lanes_by_default() -> None:
    assert 1 <= default_lanes() <= 64
