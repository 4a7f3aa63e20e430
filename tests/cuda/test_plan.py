"""How many sequences a GPU is given at once, on the stand-in for CuPy."""

import sys
from collections.abc import Iterator

import pytest

from scratchgpt.backend import gpu
from scratchgpt.backend.gpu.memory import activation_bytes, state_bytes
from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine import plan
from scratchgpt.engine.plan import Plan, default_plan, require_memory
from scratchgpt.model.params import Layout
from tests.cuda.standin import standing_in

MODEL = ModelConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
TRAIN = TrainConfig(steps=1, batch_size=512, learning_rate=1e-3)


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU of 80 GB."""
    monkeypatch.setattr(plan, "free_memory", lambda _: 80 * 10**9)
    with standing_in():
        yield
        sys.modules.pop("scratchgpt.backend.gpu.cuda", None)
        vars(gpu).pop("cuda", None)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(("precision", "is_fused"), [("fp32", True), ("tf32", False), ("fp16", True)])
def test_what_is_kept_fits(precision: str, is_fused: bool) -> None:  # noqa: FBT001
    """Without flash attention, the probabilities are most of what is kept."""
    size = default_plan(MODEL, TRAIN, device="gpu:0", precision=precision).micro_batch
    room = 0.9 * 80e9 - state_bytes(Layout(MODEL).size, PRECISIONS[precision], n_slots=2)
    needed = activation_bytes(MODEL, size * 1024, PRECISIONS[precision], is_fused=is_fused)
    assert needed <= room < 2.1 * needed


@pytest.mark.usefixtures("_gpu")
def test_a_grid_holds_no_more() -> None:
    train = TrainConfig(steps=1, batch_size=10**6, learning_rate=1e-3, micro_batch=10**6)
    model = ModelConfig(vocab_size=11, block_size=8, n_layer=1, n_head=1, n_embd=16)
    assert default_plan(model, train, device="gpu:0").micro_batch == 65_535


def test_memory_of_the_machine_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot's three arrays, and no lanes."""
    monkeypatch.setattr(plan, "free_memory", lambda _: 80 * 10**9)
    monkeypatch.setattr(plan, "available_memory", lambda: 2e9)
    require_memory(MODEL, TRAIN, Plan(1, 8, device="gpu:0"))
    monkeypatch.setattr(plan, "available_memory", lambda: 1e9)
    with pytest.raises(
        MemoryError, match=r"takes 1\.5 GB of this machine's own memory besides gpu:0's, and 1\.0 GB are"
    ):
        require_memory(MODEL, TRAIN, Plan(1, 8, device="gpu:0"))
