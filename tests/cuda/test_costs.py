"""What is counted of a training step, and the page that shows it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.backend.gpu import kernels
from scratchgpt.bench import Workload
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from tests import backends
from tests.cuda import costs, device
from tests.cuda.checks import needs_emulator
from tests.engine import steps

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {"vocab_size": 65, "block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}


@needs_emulator
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_counted_is_what_is_launched(precision: str) -> None:
    config, emulated = ModelConfig(**SIZES, dropout=0.2), device.Emulated(checked=False)
    params = Layout(config).initial(0)
    model = GPT(config, backends.emulated(emulated, precision), params)
    costs.step(model, steps.slots_of(model, steps.recipe(3)), 3)
    counted = costs.count(config, 3, precision)
    assert [cost.name for cost in counted if not cost.is_product] == emulated.launched


@pytest.mark.parametrize("n_inner", [0, 300])
def test_products_multiply_as_often_as_the_benchmark_says(n_inner: int) -> None:
    config = ModelConfig(**SIZES | {"n_embd": 256, "n_inner": n_inner})
    with costs.by_products():
        counted = sum(cost.flops for cost in costs.count(config, 4, "fp32"))
    expected = Workload(model=config, batch_size=4).flops
    assert 0.99 * expected <= counted <= expected  # which counts vectors, too


def test_flash_attention_multiplies_below_the_diagonal() -> None:
    config = ModelConfig(**SIZES)
    flops = {cost.name: cost.flops for cost in costs.count(config, 3, "fp32") if not cost.is_product and cost.flops}
    pairs = sum(range(1, 33))
    assert flops == {
        f"attention_{name}<float, 16>": 2 * n * 3 * 2 * pairs * 16 for name, n in costs.FUSED_PRODUCTS.items() if n
    }


def test_bytes() -> None:
    """AdamW reads and writes parameters, gradients and two moments; a sum of squares reads the gradients."""
    config = ModelConfig(**SIZES)
    P = Layout(config).size
    counted = costs.count(config, 3, "fp32")
    found = {cost.name.partition("<")[0]: cost.bytes for cost in counted}
    assert sum(cost.bytes for cost in counted if cost.name.startswith("adamw_update")) == 2 * 4 * 4 * P
    assert found["sum_of_squares"] == 4 * (P + -(-P // 1024))
    assert found["gelu_forward"] == 2 * 4 * (3 * 32) * 128 + 4 * 128
    assert found["embedding_forward"] == 8 * 3 * 32 + 4 * 32 * (65 + 32 + 3 * 32)  # tokens; both tables, x


def test_parameters_of_all_kernels_are_understood() -> None:
    for source in kernels.sources().values():
        for kernel in source.kernels:
            assert all(name.isidentifier() for name, _ in costs.parameters(kernel))
            assert not kernel.startswith("attention") or kernel.rpartition("_")[2] in costs.FUSED_PRODUCTS


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    shown, page = ROOT / "docs" / "gpu-cost.md", tmp_path / "gpu-cost.md"
    shutil.copy(shown, page)
    subprocess.run([sys.executable, ROOT / "scripts" / "cost_model", page], check=True, capture_output=True)
    assert page.read_text("utf-8") == shown.read_text("utf-8"), "run scripts/cost_model"
    assert len(re.findall("^## ", shown.read_text("utf-8"), re.MULTILINE)) >= 11
