"""Every line of a registry matters: with another entry under its name, the equality tests of its backend fail."""

from collections.abc import Callable
from typing import Any

import pytest

from scratchgpt.backend import cpu, gpu
from scratchgpt.backend.decoding import activations, norms
from scratchgpt.backend.gpu import activation
from scratchgpt.config import ModelConfig
from tests.backend.test_cpu import assert_equal_to_reference
from tests.backends import emulated
from tests.cuda.checks import needs_emulator
from tests.cuda.device import Emulated
from tests.cuda.test_table import compare
from tests.generation.growing import SIZES, assert_random_growth, make_model


def on_the_cpu(**choice: Any) -> None:
    """Compare a step with the reference's."""
    assert_equal_to_reference(ModelConfig(**SIZES, **choice), B=2, T=5, scale=0.5, seed=1)


def on_the_gpu(**choice: Any) -> None:
    """Compare a step with the reference's."""
    compare(choice, emulated(Emulated(), "fp64"))


def while_decoding(**choice: Any) -> None:
    """Compare steps and chunks with all positions at once."""
    assert_random_growth(make_model(**choice), seed=0)


REGISTRIES: dict[str, tuple[str, dict[str, Any], Callable[..., None]]] = {
    "norms of the CPU": ("norm", cpu.NORMS, on_the_cpu),
    "activations of the CPU": ("activation", cpu.ACTIVATIONS, on_the_cpu),
    "norms of the GPU": ("norm", gpu.NORMS, on_the_gpu),
    "activations of the GPU": ("activation", activation.KERNELS, on_the_gpu),
    "norms of decoding": ("norm", norms.NORMS, while_decoding),
    "activations of decoding": ("activation", activations.ACTIVATIONS, while_decoding),
}
CASES = [
    pytest.param(*REGISTRIES[key], name, marks=[needs_emulator] if "GPU" in key else [], id=f"{key}, {name}")
    for key, (_, entries, _) in REGISTRIES.items()
    for name in entries
]


@pytest.mark.parametrize(("setting", "entries", "check", "name"), CASES)
def test_another_entry_is_noticed(
    setting: str, entries: dict[str, Any], check: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(**{setting: name})
    for other in entries.keys() - {name}:
        with monkeypatch.context() as patch:
            patch.setitem(entries, name, entries[other])
            with pytest.raises(AssertionError):
                check(**{setting: name})
