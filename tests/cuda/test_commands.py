"""Commands with --device gpu as people type them, on the stand-in for CuPy; and what they say where there is no GPU."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.training.checkpoint import own_digest
from tests.cuda.checks import needs_emulator
from tests.cuda.standin import environment
from tests.world import TEXT, scratchgpt

pytestmark = needs_emulator

USAGE, FAILURE = 2, 1
SMALL = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --eval-windows 4 --dropout 0.2"
BATCHES = "--batch-size 5 --micro-batch 2"


def command(typed: str, *, cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command where there is a GPU; `settings` are the stand-in's, without STANDIN_."""
    named = {f"STANDIN_{name}": value for name, value in settings.items()}
    return scratchgpt(*typed.split(), cwd=cwd, environment=environment(**named))


def done(typed: str, *, cwd: Path, **settings: object) -> str:
    """Run a command that succeeds and has nothing to complain of; return what it prints."""
    result = command(typed, cwd=cwd, **settings)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Check what all refusals have in common; return the message on one line."""
    message = " ".join(result.stderr.split())
    assert result.returncode == code, result.stderr
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    return message.removeprefix("Error: ")


def log_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of numbers."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "event" not in row]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log_rows(run) if "loss" in row]


def trainer_json(run: Path, step: int) -> Any:
    return json.loads((run / "checkpoints" / f"step-{step:06d}" / "trainer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data").mkdir()
    (folder / "data" / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    done("prepare data/fox.txt --char", cwd=folder)
    return folder


@pytest.fixture
def world(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may write to."""
    return Path(shutil.copytree(prepared, tmp_path / "world"))


# ---------------------------------------------------------------------------------------- what works


def test_the_commands_chain(world: Path) -> None:
    """The first GPU is taken if nothing is said; 30 steps are those of a CPU, and so is the text."""
    shown = done(f"train --run runs/gpu --steps 30 {SMALL} {BATCHES}", cwd=world)
    assert "on gpu:0 in fp32, about " in shown
    assert "30 steps of 40 tokens" in shown
    done(f"train --device cpu --run runs/cpu --steps 30 {SMALL} {BATCHES}", cwd=world)
    got, expected = losses(world / "runs" / "gpu"), losses(world / "runs" / "cpu")
    assert len(got) == 30
    assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 1e-4
    assert log_rows(world / "runs" / "gpu")[1]["device_mb"] > 0
    text = done("generate runs/gpu --tokens 30", cwd=world)
    assert text == done("generate runs/gpu --tokens 30 --device cpu", cwd=world)


def test_bench(prepared: Path) -> None:
    sizes = "--preset gpt-nano --vocab-size 17 --block-size 8 --n-layer 1 --n-head 2 --n-embd 16 --batch-size 2"
    line = done(f"bench --device gpu --steps 1 --rounds 1 --profile --json {sizes}", cwd=prepared)
    record = json.loads(line)
    assert (record["device"], record["precision"], record["version"]) == ("gpu:0", "fp32", "CuPy 14.2.0")
    assert record["profile"]["attention backward"] > 0
    assert math.isclose(record["first_loss"], math.log(17), rel_tol=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--n-head 1", "attention by one kernel"),
        ("--n-head 2", "attention by products of matrices"),
        ("--n-head 1 --precision tf32", "gpu:0 in tf32"),
        ("--n-head 3 --n-embd 15 --precision fp16", "gpu:0 in fp16"),
    ],
)
def test_it_says_how_it_computes(options: str, words: str, world: Path) -> None:
    """Any size of heads will do."""
    sizes = "--n-layer 1 --n-embd 16 --block-size 8 --eval-windows 1 --batch-size 2 --steps 1"
    assert words in done(f"train --device gpu:0 --verbose {sizes} {options}", cwd=world)


# ---------------------------------------------------------------------------------------- going on


def test_a_run_that_is_resumed_is_the_undisturbed_one(world: Path) -> None:
    """It stays on its GPU, with its precision, its micro-batch and its scale of the loss."""
    options = f"--device gpu --precision fp16 {SMALL} {BATCHES}"
    done(f"train --run whole --steps 20 {options}", cwd=world)
    done(f"train --run parts --steps 10 {options}", cwd=world)
    assert "on gpu:0 in fp16" in done("train --resume parts --steps 20", cwd=world)
    whole, parts = (world / run / "checkpoints" / "step-000020" for run in ("whole", "parts"))
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in parts.iterdir())
    for name in names:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    assert losses(world / "whole") == losses(world / "parts")
    content = trainer_json(world / "parts", 20)
    assert content["loss_scale"] == {"value": 65536.0, "n_good": 20}
    assert content["plan"]["device"] == "gpu:0"


def test_a_run_moves_between_devices_if_it_is_told_to(world: Path) -> None:
    start = "train --run r --steps 2 --batch-size 6 --device"
    done(f"{start} cpu --lanes 1 {SMALL}", cwd=world)
    plans, shown = [], []
    for step, options in enumerate(
        ["", "--device gpu --precision fp16", "", "--precision fp32", "--device cpu --lanes 2", "--device auto"],
        start=3,
    ):
        shown.append(done(f"train --resume r --steps {step} {options}", cwd=world))
        plan = trainer_json(world / "r", step)["plan"]
        plans.append((plan["device"], plan["precision"], plan["lanes"], plan["micro_batch"]))
    assert plans == [
        ("cpu", "fp32", 1, 6),
        ("gpu:0", "fp16", 1, 6),
        ("gpu:0", "fp16", 1, 6),
        ("gpu:0", "fp32", 1, 6),
        ("cpu", "fp32", 2, 3),
        ("gpu:0", "fp32", 1, 6),
    ]
    assert "on gpu:0 in fp16" in shown[1]
    assert "on cpu, 2 lanes" in shown[4]
    assert len(losses(world / "r")) == 8


def test_a_step_whose_gradients_overflow_is_noted_and_left_out(world: Path) -> None:
    done(f"train --run r --steps 2 --device gpu --precision fp16 {SMALL}", cwd=world)
    path = world / "r" / "checkpoints" / "step-000002" / "trainer.json"
    content = json.loads(path.read_text(encoding="utf-8").replace("65536.0", str(2.0**24)))
    path.write_text(json.dumps(content | {"sha256": own_digest(content)}), encoding="utf-8")
    shown = " ".join(done("train --resume r --steps 4", cwd=world).split())
    assert "step 3: gradients overflowed in half precision; the weights stay as they were" in shown
    assert "scaled by 8,388,608" in shown
    assert next(row for row in log_rows(world / "r") if row["step"] == 3)["grad_norm"] is None
    assert trainer_json(world / "r", 4)["loss_scale"] == {"value": 2.0**22, "n_good": 0}


# ---------------------------------------------------------------------------------------- what is missing

NO_GPU = [
    ({"DRIVER": 0}, "There is no NVIDIA driver on this machine"),
    ({"DEVICES": 0}, "The NVIDIA driver finds no GPU"),
]
UNUSABLE = [
    ({"DRIVER": 11}, "The NVIDIA driver is made for CUDA 11, CuPy for CUDA 12. Update the driver"),
    ({"TOOLKIT": 0}, "CUDA's compiler or cuBLAS is missing (Failure finding"),
    ({"HEADERS": 0}, "CUDA's headers are missing, and CuPy compiles no kernel without them. Install them: pip install"),
    ({"CAPABILITY": 60}, "GPU 0 is of compute capability 6.0, and 7.0 is needed"),
]


@pytest.mark.parametrize(("settings", "message"), NO_GPU + UNUSABLE)
def test_what_is_missing_is_said(settings: dict[str, int], message: str, prepared: Path) -> None:
    before = sorted(prepared.rglob("*"))
    said = refused(command("train --device gpu", cwd=prepared, **settings), USAGE)
    assert message in said
    assert "se --device cpu" in said
    assert sorted(prepared.rglob("*")) == before


@pytest.mark.parametrize(("settings", "message"), NO_GPU + UNUSABLE)
def test_where_a_gpu_cannot_be_used_a_cpu_is(settings: dict[str, int], message: str, world: Path) -> None:
    """It is said if there is a GPU."""
    result = command(f"train --lanes 1 --steps 1 {SMALL}", cwd=world, **settings)
    assert result.returncode == 0
    assert "on cpu, 1 lane" in result.stdout
    if (settings, message) in UNUSABLE:
        assert result.stderr.startswith(f"Computing on the CPU. {message}")
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.stderr == ""


@pytest.mark.parametrize(
    ("failing", "refusal", "note"),
    [
        (
            "ModuleNotFoundError(\"No module named 'cupy'\")",
            "A GPU needs CuPy, which cannot be imported (No module named 'cupy'). Install it: pip install",
            "",
        ),
        (  # it makes a folder for kernels; a user's home may be nobody's to write into
            "PermissionError(13, 'Permission denied', '/nowhere')",
            "Permission denied: '/nowhere'). If it is a folder",
            "Computing on the CPU. CuPy cannot be imported",
        ),
    ],
)
def test_cupy_that_cannot_be_imported(failing: str, refusal: str, note: str, world: Path) -> None:
    """A module that fails stands in for it."""
    (world / "cupy.py").write_text(f"raise {failing}", encoding="utf-8")
    without = {"PYTHONPATH": f"{world}:{environment()['PYTHONPATH']}"}
    result = scratchgpt("train", "--device", "gpu", cwd=world, environment=environment() | without)
    assert refusal in refused(result, USAGE)
    result = scratchgpt("train", "--steps", "1", *SMALL.split(), cwd=world, environment=environment() | without)
    assert result.returncode == 0
    assert result.stderr.startswith(note)
    assert len(result.stderr.splitlines()) == bool(note)
    assert "on cpu" in result.stdout


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train --device gpu:7", "There is no GPU number 7 (there are: gpu:0)"),
        ("train --device gpu:", "There is no device 'gpu:'"),
        ("train --device cpu --precision fp16", "A CPU computes in fp32, not in fp16"),
        ("train --device gpu --precision nonsense", "no precision 'nonsense'; choose fp32, tf32, fp16"),
        ("train --device gpu --lanes 2", "Lanes are a CPU's"),
        ("bench --device gpu --lanes 2", "Lanes are a CPU's"),
        ("bench --device gpu --precision fp64", "no precision 'fp64'"),
    ],
)
def test_what_does_not_go_together(typed: str, message: str, prepared: Path) -> None:
    assert message in refused(command(typed, cwd=prepared), USAGE)


def test_a_run_whose_gpu_is_not_there(world: Path) -> None:
    done(f"train --run r --steps 1 --device gpu:1 {SMALL}", cwd=world, DEVICES=2)
    said = refused(command("train --resume r --steps 2", cwd=world), USAGE)
    assert "There is no GPU number 1 (there are: gpu:0)" in said
    assert "on gpu:0" in done("train --resume r --steps 2 --device gpu", cwd=world)


# ---------------------------------------------------------------------------------------- too little memory


def test_too_little_memory_before_a_run(world: Path) -> None:
    said = refused(command(f"train --device gpu --run r {SMALL}", cwd=world, MEMORY=50_000), FAILURE)
    assert "Not enough memory for this" in said
    assert "parameters takes at least" in said
    assert "free on gpu:0" in said
    assert not (world / "r").exists()


def test_too_little_memory_for_a_micro_batch(world: Path) -> None:
    """What fits is told, and with that the run goes on. Left to choose, the program takes less at once."""
    options = f"--device gpu --batch-size 16 {SMALL}"
    memory = 250_000
    result = command(f"train --run r --steps 2 --micro-batch 16 {options}", cwd=world, MEMORY=memory)
    said = refused(result, FAILURE)
    assert "gpu:0 cannot compute 16 sequences at once" in said
    fitting = said.partition("Use --micro-batch ")[2].partition(".")[0]
    assert "The run is saved in r/checkpoints/step-000000; go on with --resume." in said
    resumed = done(f"train --resume r --steps 2 --micro-batch {fitting} --verbose", cwd=world, MEMORY=memory)
    assert f"computes {fitting} sequences at once" in resumed
    assert "sequences at once" in done(f"train --run s --steps 2 -v {options}", cwd=world, MEMORY=memory)
    assert losses(world / "r") == pytest.approx(losses(world / "s"), abs=1e-5)


def test_too_little_memory_to_generate(world: Path) -> None:
    done(f"train --run runs/r --steps 1 --device gpu {SMALL}", cwd=world)
    result = command("generate --device gpu", cwd=world, MEMORY=20_000)
    assert "Not enough memory" in " ".join(result.stderr.split())
    assert (result.returncode, "Traceback" in result.stderr) == (FAILURE, False)
    done("generate --tokens 5 --device cpu", cwd=world)
