"""Training on a GPU as the trainer sees it, on the stand-in for CuPy: losses, resumption, memory, what goes wrong."""

import gc
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from scratchgpt.backend import has_fused_attention
from scratchgpt.backend.gpu.memory import activation_bytes, state_bytes
from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.cli import views
from scratchgpt.config import ModelConfig, load_preset
from scratchgpt.engine.base import Engine, open_engine
from scratchgpt.engine.loss_scale import LARGEST, PATIENCE, LossScale
from scratchgpt.engine.plan import Plan
from scratchgpt.errors import TrainingError
from scratchgpt.model.groups import new_slots
from scratchgpt.model.params import Layout
from scratchgpt.ops.optimizer import Update
from scratchgpt.training import checkpoint
from scratchgpt.training.backoff import Backoff
from scratchgpt.training.events import Event, Noted, Started, StepDone
from scratchgpt.training.locate import locate
from scratchgpt.training.trainer import Trainer
from tests.cuda.checks import needs_emulator
from tests.engine import steps
from tests.world import make_dataset, make_snapshot, make_trainer

pytestmark = [needs_emulator, pytest.mark.usefixtures("cupy")]

GPU = Plan(lanes=1, micro_batch=2, device="gpu:0")

SMALL: dict[str, Any] = {"n_layer": 1, "batch_size": 3, "eval_windows": 2}
"""Runs in micro-batches of two sequences and one."""

FLASH = {"n_head": 1}
"""Heads of 16 channels, for which there is a kernel; there is none for heads of 8."""


@pytest.fixture
def counters(cupy: Any) -> Any:
    """What the stand-in has counted from here on."""
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    counters = importlib.import_module(f"{cupy.__name__}._settings").counters
    counters.reset()
    return counters


def gpu_trainer(folder: Path, *, precision: str = "fp32", scale: float = 2.0**16, **changes: Any) -> Trainer:
    """Return a trainer of a tiny run in `folder` / run, with dropout."""
    dataset = make_dataset(folder)
    plan, loss_scale = GPU._replace(precision=precision), LossScale(scale)
    snapshot = make_snapshot(dataset, **SMALL | changes)._replace(plan=plan, loss_scale=loss_scale)
    return Trainer(snapshot, dataset, folder / "run")


def resumed(folder: Path, plan: Plan | None = None) -> Trainer:
    """Return the trainer that goes on with the run in `folder`."""
    snapshot = checkpoint.read(locate(folder / "run"))
    return Trainer(snapshot._replace(plan=plan or snapshot.plan), make_dataset(folder), folder / "run")


def until(trainer: Trainer, step: int) -> list[Event]:
    """Train up to a step, and save."""
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, StepDone) and event.step == step:
            trainer.stop()
    return events


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


# ---------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize(
    ("precision", "changes", "steps", "tolerance"),
    [
        ("fp32", {}, 30, 1e-5),
        ("fp32", FLASH, 30, 1e-5),
        ("tf32", {}, 12, 1e-2),
        ("fp16", {}, 12, 1e-2),
        ("fp16", FLASH, 12, 1e-2),
    ],
)
def test_losses_follow_those_of_a_cpu(
    precision: str, changes: dict[str, float], steps: int, tolerance: float, tmp_path: Path
) -> None:
    """The loss falls from 3.4 to below 3.1, in 30 steps to below 2.8, with dropout, in micro-batches.

    What rounding changes in a step, the steps after it make larger.
    """
    expected = losses(list(make_trainer(tmp_path / "cpu", steps=steps, **SMALL | changes).events()))
    got = losses(list(gpu_trainer(tmp_path / "gpu", precision=precision, steps=steps, **changes).events()))
    assert len(got) == steps
    assert min(got) < (2.8 if steps == 30 else 3.1)
    assert np.abs(np.array(got) - np.array(expected)).max() <= tolerance


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_twenty_steps_are_ten_resumed_and_ten(precision: str, tmp_path: Path) -> None:
    whole = list(gpu_trainer(tmp_path / "whole", precision=precision).events())
    parts = until(gpu_trainer(tmp_path / "parts", precision=precision), 10)
    parts += resumed(tmp_path / "parts").events()
    assert losses(parts) == losses(whole)
    one, other = (locate(tmp_path / name / "run") for name in ("whole", "parts"))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    good_steps = 20 if precision == "fp16" else 0
    assert checkpoint.read(other).loss_scale == checkpoint.read(one).loss_scale == LossScale(n_good=good_steps)


def test_a_run_goes_from_a_cpu_to_a_gpu_and_back(tmp_path: Path) -> None:
    expected = losses(list(make_trainer(tmp_path / "cpu", **SMALL).events()))
    got = losses(until(make_trainer(tmp_path / "mixed", **SMALL), 7))
    got += losses(until(resumed(tmp_path / "mixed", GPU), 14))
    got += losses(list(resumed(tmp_path / "mixed", Plan(lanes=2, micro_batch=1)).events()))
    assert len(got) == 20
    assert np.abs(np.array(got) - np.array(expected)).max() <= 1e-5


# ---------------------------------------------------------------------------------------- half precision


def test_a_step_whose_gradients_overflow_is_not_made(tmp_path: Path) -> None:
    trainer = gpu_trainer(tmp_path, precision="fp16", scale=2.0**22, steps=10)
    before = trainer.model.params.get()
    events = trainer.events()
    step = next(event for event in events if isinstance(event, StepDone))
    assert not math.isfinite(step.grad_norm)
    assert math.isfinite(step.loss)
    assert (trainer.model.params.get() == before).all()
    noted = next(events)
    assert isinstance(noted, Noted)
    assert "step 1: gradients overflowed in half precision" in noted.message
    assert "scaled by 2,097,152" in noted.message
    norms = [step.grad_norm, *(event.grad_norm for event in events if isinstance(event, StepDone))]
    assert len(norms) == 10
    assert any(map(math.isfinite, norms))
    assert (trainer.model.params.get() != before).any()
    scale = LossScale(2.0**22)
    for norm in norms:
        scale = scale.after_update() if math.isfinite(norm) else scale.after_overflow()
    assert trainer.engine.loss_scale == scale


def test_a_run_that_has_diverged_in_half_precision_says_so(tmp_path: Path) -> None:
    """Activations beyond 65,504 overflow whatever the loss is multiplied by."""
    trainer = gpu_trainer(tmp_path, precision="fp16", scale=4.0)
    events = trainer.events()
    assert next(event for event in events if isinstance(event, StepDone)).step == 1
    trainer.model.params *= 1e4
    trainer.engine.update(Update(0.0, 1.0, 1))  # renews the copies in half precision
    with pytest.raises(TrainingError, match=r"the run has diverged. Its last checkpoint is .*step-000000\. .*rate"):
        list(events)


def test_a_run_in_half_precision_skips_once_no_scale_helps(tmp_path: Path) -> None:
    """And the state of that can be saved and read: the smallest scale, and a lower learning rate."""
    trainer = gpu_trainer(tmp_path, precision="fp16", scale=2.0, steps=8, eval_every=0, save_every=0, on_nan="skip")
    events = trainer.events()
    compute, seen = trainer.engine.accumulate, []

    def accumulate(*batch: Any, seed: int, step: int) -> float:
        seen.append(step)
        loss = compute(*batch, seed=seed, step=step)
        return math.nan if step < 4 else loss

    vars(trainer.engine)["accumulate"] = accumulate
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert ["half precision" in note for note in notes] == [True, False, False, False]
    assert "the learning rate is 0.125 of the schedule's" in notes[-1]
    assert seen == list(range(8))
    assert trainer.engine.loss_scale == LossScale(0.5, 4)
    snapshot = checkpoint.read(locate(tmp_path / "run"))
    assert (snapshot.loss_scale, snapshot.backoff) == (LossScale(0.5, 4), Backoff(0.125, 4))


def test_the_scale_of_the_loss() -> None:
    scale = LossScale()
    for _ in range(PATIENCE - 1):
        scale = scale.after_update()
    assert scale == LossScale(2.0**16, PATIENCE - 1)
    assert scale.after_update() == LossScale(2.0**17)
    assert scale.after_overflow() == LossScale(2.0**15)
    assert LossScale(LARGEST, PATIENCE - 1).after_update() == LossScale(LARGEST)
    assert not LossScale(1.0).is_exhausted
    assert LossScale(1.0).after_overflow().is_exhausted
    assert LossScale(1.0).after_overflow().after_overflow() == LossScale(0.5)


def test_a_loss_that_is_not_finite_is_shown_and_forgotten() -> None:
    live = views.Live(Console(quiet=True, width=80))
    live.show(Started(Path("run"), 0, 10, 1, "cpu"))
    for step, (loss, shown) in enumerate([(math.nan, "?"), (2.0, "2.000"), (math.inf, "2.000"), (3.0, "2.667")]):
        live.show(StepDone(step, loss, 1e-3, loss, 1.0, 10))
        assert f"loss {shown} " in live._line().plain  # noqa: SLF001


# ---------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_frozen_stays(precision: str) -> None:
    """Its masters and their rounded copy keep their bits, and the norm is that of the rest, as on a CPU."""
    config = ModelConfig.from_mapping(SIZES | {"dropout": 0.0})
    layout, freeze = Layout(config), ("transformer.h.0.*", "transformer.w?e.*", "*.bias")
    norms = []
    for device in ("gpu:0", "cpu"):
        recipe = steps.recipe(2, freeze=freeze)
        plan = Plan(1, 2, device=device, precision=precision if device == "gpu:0" else "fp32")
        model = open_engine(config, recipe, layout.initial(1), new_slots(layout, recipe), plan)
        with model.running():
            norms.append(train(model, 2))
        after, rounded = model.gpt.backend.to_numpy(model.gpt.params), model.gpt.rounded
        trained, frozen = layout.divide(freeze)
        assert all(np.array_equal(after[part], layout.initial(1)[part]) for part in frozen)
        assert not any((after[part] == layout.initial(1)[part]).all() for part in trained)
        if rounded is not None:
            expected = after[: layout.n_decayed].astype(np.float16)
            assert np.array_equal(model.gpt.backend.to_numpy(rounded), expected)
    assert abs(norms[0] - norms[1]) <= (1e-5 if precision == "fp32" else 1e-2) * norms[1]


# ---------------------------------------------------------------------------------------- memory

SIZES: dict[str, Any] = {"vocab_size": 65, "block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.1}


def peak(config: ModelConfig, precision: str, B: int, counters: Any) -> int:
    """Return the most bytes in use at once during a step of two micro-batches of B sequences."""
    model = start(config, Plan(1, B, device="gpu:0", precision=precision))
    counters.reset()
    train(model, 2 * B)
    most: int = counters.peak_bytes
    return most


def start(config: ModelConfig, plan: Plan) -> Engine:
    layout, recipe = Layout(config), steps.recipe(4)
    return open_engine(config, recipe, layout.initial(1), new_slots(layout, recipe), plan)


def train(model: Engine, B: int) -> float:
    """Make one step with B sequences; return the gradient's norm."""
    config = model.gpt.config
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (B, config.block_size))
    model.accumulate(tokens, tokens, seed=1, step=0)
    return steps.update(model)


def predicted(config: ModelConfig, precision: str, B: int) -> int:
    chosen, is_fused = PRECISIONS[precision], has_fused_attention("gpu:0", precision, config)
    activations = activation_bytes(config, B * config.block_size, chosen, is_fused=is_fused)
    return state_bytes(Layout(config).size, chosen, n_slots=2) + activations


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vocab_size": 2000, "n_layer": 1, "dropout": 0.0},
        {"n_head": 4},
        {"n_embd": 96, "n_layer": 1, "n_head": 2, "bias": False},
        {"block_size": 64, "n_layer": 3, "activation": "relu"},
        {"n_inner": 300},
        {"n_inner": 20},
    ],
)
def test_memory_is_what_was_predicted(changes: dict[str, Any], precision: str, counters: Any) -> None:
    config = ModelConfig.from_mapping(SIZES | changes)
    used, expected = peak(config, precision, 4, counters), predicted(config, precision, 4)
    assert used <= expected <= 1.15 * used


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_memory_grows_with_the_length_and_not_with_its_square(precision: str, counters: Any) -> None:
    config = {"vocab_size": 17, "n_layer": 1, "n_head": 2, "n_embd": 32}
    used = [peak(ModelConfig.from_mapping(config | {"block_size": T}), precision, 1, counters) for T in (64, 128, 192)]
    assert abs((used[2] - used[1]) / (used[1] - used[0]) - 1) <= 0.02


def test_memory_for_logits_has_a_limit(counters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is as large as all logits, (B, T, V)."""
    config = ModelConfig.from_mapping(SIZES | {"vocab_size": 2000, "n_layer": 1})
    all_logits = 4 * 32 * 2000 * 4
    whole = peak(config, "fp32", 4, counters)
    monkeypatch.setattr("scratchgpt.backend.gpu.memory.LOGIT_BYTES", 2**16)
    assert whole - peak(config, "fp32", 4, counters) >= 0.7 * all_logits


def test_memory_of_baby_gpt(counters: Any) -> None:
    del counters
    recipe = load_preset("baby-gpt")
    config = ModelConfig.from_mapping({"vocab_size": 65} | recipe.model)
    expected = [predicted(config, precision, recipe.train["batch_size"]) for precision in PRECISIONS]
    assert recipe.train["batch_size"] == 64
    assert all(2**30 <= size <= 4e9 for size in expected)


def test_too_little_memory_for_a_step(cupy: Any, counters: Any, tmp_path: Path) -> None:
    """It says what would fit, the run is saved at the step it has reached, and so goes on."""
    trainer = gpu_trainer(tmp_path, eval_every=0, save_every=0)
    trainer.engine.plan = GPU._replace(micro_batch=3)
    events = trainer.events()
    next(event for event in events if isinstance(event, StepDone) and event.step == 3)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(counters.peak_bytes - 10_000)
    try:
        with pytest.raises(
            MemoryError, match=r"cannot compute 3 sequences at once .* Use --micro-batch 1\..* saved in"
        ):
            list(events)
        assert locate(tmp_path / "run").name == "step-000003"
    finally:
        pool.set_limit(0)
    assert len(losses(list(resumed(tmp_path, GPU).events()))) == 17


def test_too_little_memory_for_an_evaluation(cupy: Any, tmp_path: Path) -> None:
    events = gpu_trainer(tmp_path, eval_every=4, save_every=0).events()
    next(event for event in events if isinstance(event, StepDone) and event.step == 4)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(pool.used_bytes() + 512)
    try:
        with pytest.raises(MemoryError, match=r"Out of memory .* The run is saved in .*step-000004; go on"):
            list(events)
        assert locate(tmp_path / "run").name == "step-000004"
    finally:
        pool.set_limit(0)


# ---------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    ("precision", "dropout", "launches", "products"),
    [
        ("fp32", 0.0, (29, 10), (12, 3)),
        ("fp32", 0.2, (31, 11), (12, 3)),
        ("fp16", 0.0, (31, 10), (12, 3)),
        ("fp16", 0.2, (31, 11), (12, 3)),
        ("tf32", 0.2, (34, 11), (18, 3)),
    ],
)
def test_what_a_step_costs(
    precision: str, dropout: float, launches: tuple[int, int], products: tuple[int, int], counters: Any
) -> None:
    """The table in docs/performance.md: for each layer and besides, of two micro-batches; and 4 for the update.

    The host waits twice, for the loss and for the norm. To the device go tokens and targets, back come these numbers.
    """
    for L in (1, 2):
        config = ModelConfig.from_mapping(SIZES | {"block_size": 8, "n_layer": L, "dropout": dropout})
        model = start(config, Plan(1, 2, device="gpu:0", precision=precision))
        counters.reset()
        train(model, 4)
        assert counters.launches == 2 * (launches[0] * L + launches[1]) + 4
        assert counters.products == 2 * (products[0] * L + products[1])
        assert counters.synchronisations == 2
        assert counters.bytes_to_host == 4 + 4
        assert counters.bytes_to_device == 4 * 8 * (8 + 8)
