"""Wrong input: one clear sentence on standard error, the right exit code, nothing lost, never a traceback."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from scratchgpt.cli import cli
from scratchgpt.errors import TrainingError
from scratchgpt.lock import FolderLock
from scratchgpt.training.checkpoint import read
from tests.world import TEXT, scratchgpt

USAGE, FAILURE = 2, 1
SMALL = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, prepared data and a run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").mkdir()
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    (folder / "other.txt").write_text("abcdefghijk" * 50, encoding="utf-8", newline="")
    (folder / "empty.txt").touch()
    (folder / "latin1.txt").write_bytes("déjà vu\n".encode("latin-1") * 20)
    for name in ("fox", "other"):
        assert scratchgpt("prepare", f"{name}.txt", cwd=folder).returncode == 0
    result = scratchgpt("train", "--data", "data/fox", "--run", "runs/a", "--steps", "2", *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "world"))


def refused(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Check what all refusals have in common; return the message on one line."""
    message = " ".join(result.stderr.split())
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "Error: " in message
    return message.split("Error: ")[1]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("prepare missing.txt", USAGE, "missing.txt"),
        ("prepare data", FAILURE, "data/fox/train.bin is binary"),
        ("prepare empty.txt", FAILURE, "empty"),
        ("prepare latin1.txt", FAILURE, "offset 1 "),
        ("prepare other.txt --out data/fox", FAILURE, "--force"),
        ("prepare other.txt --out other.txt", USAGE, "--out"),
        ("prepare fox.txt --val-fraction 2", USAGE, "between 0 and 1"),
        ("prepare", USAGE, "FILE"),
        ("trian", USAGE, "did you mean 'train'"),
        ("train --data data/none", USAGE, "scratchgpt prepare"),
        ("train --data data/fox --preset shakespear-cpu", USAGE, "did you mean 'shakespeare-cpu'"),
        ("train --data data/fox --n-hed 2", USAGE, "--n-head"),
        ("train --data data/fox --n-embd 30", USAGE, "30 is not divisible by 4"),
        ("train --data data/fox --n-layer 1000000000", USAGE, "n_layer must be at least 1 and below"),
        ("train --data data/fox --n-embd 100000000 --n-head 1", USAGE, "too large"),
        ("train --data data/fox --n-embd 65536", FAILURE, "Fewer --lanes than "),
        ("train --data data/fox --batch-size 100000000000000000000", USAGE, "batch_size"),
        ("train --data data/fox --n-layer 0", USAGE, "n_layer must be at least 1"),
        ("train --data data/fox --steps -5", USAGE, "steps must be at least 1"),
        ("train --data data/fox --batch-size 0", USAGE, "batch_size"),
        ("train --data data/fox --batch-size many", USAGE, "not a valid integer"),
        ("train --data data/fox --learning-rate nan", USAGE, "finite"),
        ("train --data data/fox --dropout 1", USAGE, "dropout"),
        ("train --data data/fox --activation swish", USAGE, "gelu_new or relu"),
        ("train --data data/fox --order backwards", USAGE, "order must be random or sequential"),
        ("train --data data/fox --on-nan ignore", USAGE, "on_nan must be stop or skip, not 'ignore'"),
        ("train --data data/fox --patience 3 --eval-every 0", USAGE, "patience counts evaluations"),
        ("train --data data/fox --patience -1", USAGE, "patience must be at least 0"),
        ("train --data data/fox --save-minutes -1", USAGE, "save_minutes must be at least 0"),
        ("train --data data/fox --keep 0", USAGE, "keep must be at least 1"),
        ("train --data data/fox --keep-every -1", USAGE, "keep_every must be at least 0"),
        ("train --data data/fox --within-documents", USAGE, "has no <|endoftext|>"),
        ("train --data data/fox --block-size 300", USAGE, "validation part of data/fox has 207 tokens"),
        ("train --data data/fox --block-size 3000", USAGE, "training part of data/fox has 1,863 tokens"),
        ("train --data data/fox --lanes 65", USAGE, "--lanes must be auto or a number from 0 to 64"),
        ("train --data data/fox --lanes many", USAGE, "--lanes must be auto or a number"),
        ("train --data data/fox --device gpu", USAGE, "use --device cpu"),
        ("train --data data/fox --device tpu", USAGE, "choose auto, cpu, gpu or gpu:N"),
        ("train --data data/fox --run runs/a", FAILURE, "already holds a run"),
        ("train --data data/fox --run fox.txt", FAILURE, "fox.txt"),
        ("train --resume runs/none", USAGE, "no run or checkpoint runs/none"),
        ("train --resume runs/a --preset rusted", USAGE, "--preset"),
        ("train --resume runs/a --steps 4 --n-embd 32", USAGE, "n_embd of 16; it cannot become 32"),
        ("train --resume runs/a --steps 4 --n-inner 65", USAGE, "n_inner of 64; it cannot become 65"),
        ("train --resume runs/a --steps 4 --optimizer adm", USAGE, "optimizer of adamw; it cannot become adm"),
        ("train --resume runs/a --steps 4 --bias", USAGE, "bias of False; it cannot become True"),
        ("train --resume runs/a --steps 4 --seed 4", USAGE, "seed"),
        ("train --resume runs/a --run runs/b", USAGE, "leave out --preset, --config, --run"),
        ("train --resume runs/a --steps 4 --data data/other", FAILURE, "not the data"),
        ("generate --prompt fox=", USAGE, "'=' (U+003D, at position 3)"),
        ("generate --prompt=", USAGE, "prompt is empty"),
        ("generate --tokens 0", USAGE, "tokens"),
        ("generate --temperature -1", USAGE, "temperature"),
        ("generate --top-p 2", USAGE, "top-p"),
        ("generate --top-k 0", USAGE, "top-k"),
        ("generate runs/none", USAGE, "no run or checkpoint"),
        ("generate data", USAGE, "has no last checkpoint"),
    ],
)
def test_one_sentence_and_the_right_code(command: str, code: int, message: str, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    assert message in refused(scratchgpt(*command.split(), cwd=trained), code)
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("config.json", json.dumps({"model_type": "gpt2", "activation_function": "x" * 9_999}), "generate ."),
        ("config.json", json.dumps({"model_type": "y" * 9_999}), "export . --gguf a.gguf"),
        ("tokenizer.json", json.dumps({"model": {"type": "z" * 9_999}}), "encode --tokenizer tokenizer.json"),
        ("a.toml", "steps = 3\n" + "n" * 9_999 + " = 1\n", "config --config a.toml"),
        ("a.jsonl", json.dumps({"k" * 9_999: "text"}), "prepare a.jsonl"),
        ("a.txt", "text", "prepare a.txt --out " + "o" * 9_999),
        ("a.txt", "text", "config --set steps=" + "1" * 9_999),
        ("a.txt", "text", "w" * 9_999),
    ],
)
def test_no_message_is_longer_than_a_person_reads(
    name: str, content: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code in (1, 2)
    assert "Error: " in result.output
    assert len(result.output) <= 1200


@pytest.mark.parametrize(
    "command", ["runs", "info .", "config", "encode --gpt2", "generate", "prepare a.txt", "plot ."]
)
def test_an_interrupted_command_has_the_code_of_its_signal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupt)
    result = CliRunner().invoke(cli, command.split())
    assert (result.exit_code, result.output) == (130, "Interrupted.\n")


def test_commands_before_their_time(tmp_path: Path) -> None:
    assert "scratchgpt prepare" in refused(scratchgpt("train", cwd=tmp_path), USAGE)
    assert "scratchgpt train" in refused(scratchgpt("generate", cwd=tmp_path), USAGE)


def test_altered_token_files(world: Path) -> None:
    path = world / "data" / "fox" / "val.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert "val.bin" in refused(scratchgpt("train", "--data", "data/fox", cwd=world), FAILURE)


def test_a_vocabulary_that_is_not_the_datas(world: Path) -> None:
    """Another vocabulary in the place of that of the token files: neither a new run nor an old one takes it."""
    shutil.copy(world / "data" / "other" / "tokenizer.json", world / "data" / "fox")
    for command in (("train", "--data", "data/fox"), ("train", "--resume", "runs/a", "--steps", "4")):
        assert "tokenizer.json is not as `prepare` wrote it" in refused(scratchgpt(*command, cwd=world), FAILURE)


def test_altered_weights(world: Path) -> None:
    path = world / "runs" / "a" / "checkpoints" / "step-000002" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    for command in (("generate",), ("train", "--resume", "runs/a", "--steps", "4")):
        assert "model.safetensors was truncated or altered" in refused(scratchgpt(*command, cwd=world), FAILURE)
    earlier = ("train", "--resume", "runs/a/checkpoints/step-000000", "--steps", "2")
    assert "has later checkpoints, step-000002" in refused(scratchgpt(*earlier, cwd=world), USAGE)
    mended = scratchgpt(*earlier, "--force", cwd=world)
    assert mended.returncode == 0, mended.stderr
    assert scratchgpt("generate", "--tokens", "5", cwd=world).returncode == 0


def test_a_vocabulary_that_is_not_the_models(world: Path) -> None:
    checkpoint = world / "runs" / "a" / "checkpoints" / "step-000002"
    (world / "more.txt").write_text(TEXT + "0123456789", encoding="utf-8", newline="")
    assert scratchgpt("prepare", "more.txt", cwd=world).returncode == 0
    shutil.copy(world / "data" / "more" / "tokenizer.json", checkpoint)
    assert "tokenizer.json was truncated or altered" in refused(scratchgpt("generate", cwd=world), FAILURE)
    (checkpoint / "trainer.json").unlink()
    n = len(set(TEXT))
    expected = f"the model has {n} tokens, but its vocabulary has {n + 10}"
    assert expected in refused(scratchgpt("generate", cwd=world), FAILURE)


def test_weights_that_are_not_numbers(world: Path) -> None:
    checkpoint = world / "runs" / "a" / "checkpoints" / "step-000002"
    (checkpoint / "trainer.json").unlink()
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.wte.weight"][0, 0] = np.inf
    save_file(tensors, checkpoint / "model.safetensors")
    assert "transformer.wte.weight holds numbers that are not finite" in refused(
        scratchgpt("generate", cwd=world), FAILURE
    )


def test_two_trainings_in_one_run(world: Path) -> None:
    with FolderLock(world / "runs" / "a", TrainingError("busy")):
        result = scratchgpt("train", "--resume", "runs/a", "--steps", "4", cwd=world)
    assert "Another training is running in runs/a" in refused(result, FAILURE)


def test_a_checkpoint_of_a_newer_version(world: Path) -> None:
    path = world / "runs" / "a" / "checkpoints" / "step-000002" / "trainer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"format": 1000, "scratchgpt": "17.0"}), encoding="utf-8")
    for command in (("generate",), ("train", "--resume", "runs/a", "--steps", "4")):
        message = refused(scratchgpt(*command, cwd=world), FAILURE)
        assert "trainer.json is of format 1000, written by scratchgpt 17.0; this version, " in message
        assert message.endswith("update scratchgpt.")


def test_a_checkpoint_that_has_left_its_run(world: Path) -> None:
    shutil.copytree(world / "runs" / "a" / "checkpoints" / "step-000002", world / "mine")
    result = scratchgpt("train", "--resume", "mine", "--steps", "4", cwd=world)
    assert "not in the folder `checkpoints` of a run" in refused(result, USAGE)
    inside = world / "runs" / "a" / "checkpoints" / "step-000002"
    result = scratchgpt("train", "--resume", ".", "--steps", "3", "--data", "../../../../data/fox", cwd=inside)
    assert result.returncode == 0, result.stderr
    assert (world / "runs" / "a" / "checkpoints" / "step-000003").is_dir()
    assert scratchgpt("generate", "mine", "--tokens", "5", cwd=world).returncode == 0


def test_a_lost_checkpoint_does_not_stop_a_run(world: Path) -> None:
    checkpoints = world / "runs" / "a" / "checkpoints"
    (checkpoints / "best").write_text("step-000001\n", encoding="utf-8")
    assert scratchgpt("train", "--resume", "runs/a", "--steps", "4", cwd=world).returncode == 0
    (checkpoints / "last").write_text("step-000009\n", encoding="utf-8")
    assert "name one of runs/a/checkpoints/step-000002" in refused(scratchgpt("generate", cwd=world), USAGE)


def test_force_replaces_a_run_and_nothing_else(world: Path) -> None:
    (world / "runs" / "a" / "notes.txt").write_text("mine", encoding="utf-8")
    result = scratchgpt(
        "train", "--data", "data/other", "--run", "runs/a", "--force", "--steps", "1", *SMALL, cwd=world
    )
    assert result.returncode == 0, result.stderr
    assert (world / "runs" / "a" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (world / "runs" / "a" / "checkpoints" / "step-000002").exists()


def limited(world: Path, n_bytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where no file may be larger."""
    program = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({n_bytes}, resource.RLIM_INFINITY))\n"
        "sys.argv[0] = 'scratchgpt'\n"
        "runpy.run_module('scratchgpt', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=world, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_disk_that_is_full_keeps_the_previous_checkpoint(world: Path) -> None:
    """The real program under a file-size limit that the log fits into, but no model of this size."""
    result = limited(world, 20_000, "train", "--resume", "runs/a", "--steps", "4", "--lanes", "1")
    message = refused(result, FAILURE)
    assert "Cannot save runs/a/checkpoints/step-000004" in message
    assert os.strerror(errno.EFBIG) in message
    assert "--resume" in message
    checkpoints = world / "runs" / "a" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "last", "step-000000", "step-000002"]
    assert scratchgpt("generate", "--tokens", "5", cwd=world).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_log_that_cannot_grow_ends_the_run_in_a_sentence(world: Path) -> None:
    result = limited(world, 5000, "train", "--resume", "runs/a", "--steps", "400", "--lanes", "1")
    assert "Cannot save runs/a/checkpoints/step-0000" in refused(result, FAILURE)
    assert scratchgpt("train", "--resume", "runs/a", "--steps", "4", cwd=world).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory, with room for three checkpoints and a log, but not for four."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)  # noqa: S607 - as in mount's manual


def test_a_disk_that_becomes_full(world: Path, small_disk: Path) -> None:
    """It is said once before; then the run ends with a sentence, and goes on where there is room."""
    options = ("--data", "data/fox", "--steps", "30", "--save-every", "2", "--keep", "99", "--lanes", "1", *SMALL)
    result = scratchgpt("train", "--run", small_disk / "run", *options, cwd=world)
    message = refused(result, FAILURE)
    assert f"Cannot save {small_disk}/run/checkpoints/step-0000" in message
    assert os.strerror(errno.ENOSPC) in message
    assert "Earlier checkpoints are untouched. Make room, then go on with --resume." in message
    assert result.stdout.count("make room before the disk is full") == 1
    folders = sorted((small_disk / "run" / "checkpoints").iterdir())
    assert [path.name for path in folders[:2]] == ["best", "last"]
    assert len(folders) >= 4
    for folder in folders[2:]:
        read(folder)
    again = scratchgpt("train", "--resume", small_disk / "run", "--keep", "1", "--steps", "20", cwd=world)
    assert "Cannot save" in refused(again, FAILURE)
    shutil.rmtree(folders[2])
    mended = scratchgpt("train", "--resume", small_disk / "run", "--keep", "1", "--steps", "20", cwd=world)
    assert mended.returncode == 0, mended.stderr


def test_a_folder_that_cannot_be_written(world: Path) -> None:
    """A file stands where the folder should be: that stops even those whom permissions do not."""
    (world / "runs" / "b").touch()
    assert "runs/b" in refused(scratchgpt("train", "--data", "data/fox", "--run", "runs/b/c", cwd=world), FAILURE)
    (world / "blocked").touch()
    assert "blocked" in refused(scratchgpt("prepare", "fox.txt", "--out", "blocked/x", cwd=world), FAILURE)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_run_keeps_its_checkpoint(world: Path) -> None:
    run = world / "runs" / "a"
    (run / "checkpoints").chmod(0o555)
    try:
        result = scratchgpt("train", "--resume", "runs/a", "--steps", "4", cwd=world)
    finally:
        (run / "checkpoints").chmod(0o755)
    assert "Permission denied" in refused(result, FAILURE)
    assert scratchgpt("generate", "--tokens", "5", cwd=world).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "command", ["--version", "--help", "info runs/a", "runs --json", "encode --tokenizer data/fox"]
)
@pytest.mark.parametrize(
    ("redirected", "code", "message"),
    [
        (">/dev/full", FAILURE, "No space left on device"),
        (">&-", FAILURE, "Error: Standard output is closed; send it to a file, or to /dev/null.\n"),
        ("2>&- >/dev/null", 0, ""),
        ("<&- >/dev/null", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(trained: Path, command: str, redirected: str, code: int, message: str) -> None:
    line = f"{sys.executable} -m scratchgpt {command} {redirected}"
    result = subprocess.run(
        ["/bin/sh", "-c", line], check=False, cwd=trained, capture_output=True, encoding="utf-8", input="a"
    )
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == (code > 0)
