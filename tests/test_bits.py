"""scripts/bits, which holds trainings to the bit: it repeats itself, and it shows what has changed."""

import copy
import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bits"


@pytest.fixture(scope="module")
def bits() -> ModuleType:
    """The script, which has no .py, as a module."""
    loader = importlib.machinery.SourceFileLoader("bits", str(SCRIPT))
    spec = importlib.util.spec_from_loader("bits", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_it_writes_then_compares(
    bits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bits.json"
    monkeypatch.setattr("sys.argv", ["bits", str(file), "--only", "micro-batches, 1 worker"])
    bits.main()
    assert f"Wrote 1 results to {file}." in capsys.readouterr().out
    bits.main()
    assert "All 1 results are the same." in capsys.readouterr().out
    monkeypatch.setitem(bits.SMALL, "dropout", 0.25)
    with pytest.raises(SystemExit, match="1 of 1 results differ"):
        bits.main()
    assert "micro-batches, 1 worker: step 1: loss was" in capsys.readouterr().out


@pytest.mark.slow
def test_every_way_computes_differently(bits: ModuleType) -> None:
    """If two ways give the same bits, one of them did not take effect."""
    results = bits.measured("heads of 5 channels")["results"]
    ways = [way for way in bits.WAYS if not (bits.no_emulator() and way.startswith("gpu"))]
    assert list(results) == [f"heads of 5 channels, {way}" for way in ways]
    assert len({result["weights"] for result in results.values()}) == len(ways)


RESULT: dict[str, Any] = {
    "rows": [{"step": 0, "val_loss": 4.0}, {"step": 1, "loss": 4.0, "grad_norm": None}, {"step": 2, "loss": 3.5}],
    "weights": "a",
    "moments": ["b", "c"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict, ""),
        (
            lambda result: result["rows"][2].update(loss=3.5000035),
            "step 2: loss was 3.5 and is 3.5000035 (relative change 1e-06)",
        ),
        (lambda result: result["rows"][1].update(grad_norm=1.0), "step 1: grad_norm was None and is 1.0"),
        (lambda result: result["rows"][0].pop("val_loss"), "step 0: val_loss was 4.0 and is None"),
        (lambda result: result["rows"].pop(), "the log had 3 rows of numbers and has 2"),
        (lambda result: result.update(weights="d"), "the log is the same, the last weights are not"),
        (lambda result: result["moments"].reverse(), "the log is the same, the last moments are not"),
    ],
)
def test_differences_are_named(bits: ModuleType, change: Any, message: str) -> None:
    changed = json.loads(json.dumps(RESULT))
    change(changed)
    old, new = ({"results": {"same": RESULT, "m": result}} for result in (RESULT, changed))
    assert list(bits.differences(old, new)) == ([f"m: {message}"] if message else [])


def test_results_that_only_one_side_has_are_named(bits: ModuleType) -> None:
    old, new = {"results": {"a": RESULT}}, {"results": {"b": copy.deepcopy(RESULT)}}
    assert list(bits.differences(old, new)) == ["a: only in the old results", "b: only in the new results"]
