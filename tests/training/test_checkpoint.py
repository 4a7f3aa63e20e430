"""Checkpoints: whole or not at all, verified when read, the older ones never harmed."""

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scratchgpt.config import TrainConfig
from scratchgpt.engine import plan
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.training import checkpoint
from scratchgpt.training.checkpoint import FILES, TRAINER, own_digest
from scratchgpt.training.locate import locate
from scratchgpt.training.places import newest_run
from scratchgpt.training.snapshot import Snapshot, fresh
from scratchgpt.training.store import Checkpoints
from tests.world import make_dataset, make_snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    made = make_snapshot(make_dataset(tmp_path), keep=2)
    rng = np.random.default_rng(0)
    slots = {name: rng.normal(size=made.params.size).astype(np.float32) for name in made.slots}
    return made._replace(slots=slots, step=10, best_loss=1.25)


def save(tmp_path: Path, snapshot: Snapshot) -> Path:
    dataset = make_dataset(tmp_path)
    return checkpoint.save(Checkpoints(tmp_path / "run"), snapshot, dataset.tokenizer)


def keep_all(snapshot: Snapshot) -> TrainConfig:
    return dataclasses.replace(snapshot.train, keep=9)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())


def test_what_is_read_is_what_was_saved(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    assert folder == tmp_path / "run" / "checkpoints" / "step-000010"
    assert {path.name for path in folder.iterdir()} == {*FILES, TRAINER}
    read = checkpoint.read(folder)
    none = np.empty(0)
    rest, expected_rest = (each._replace(params=none, slots={}) for each in (read, snapshot))
    assert str(rest) == str(expected_rest)
    arrays, expected_arrays = ({"params": each.params, **each.slots} for each in (read, snapshot))
    assert list(arrays) == list(expected_arrays)
    for got, expected in zip(arrays.values(), expected_arrays.values(), strict=True):
        assert got.dtype == np.float32
        assert got.tobytes() == expected.tobytes()
    config, params, tokenizer = checkpoint.read_model(folder)
    assert (config, params.tobytes()) == (snapshot.model, snapshot.params.tobytes())
    assert tokenizer.vocab_size == snapshot.model.vocab_size


def test_the_same_state_gives_the_same_bytes(tmp_path: Path, snapshot: Snapshot) -> None:
    folders = [save(tmp_path / name, snapshot) for name in ("one", "two")]
    for name in (*FILES, TRAINER):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_pointers_and_what_is_kept(tmp_path: Path, snapshot: Snapshot) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    for step in (0, 5, 10, 15):
        folder = save(tmp_path, snapshot._replace(step=step))
        if step == 5:
            checkpoints.mark_best(step)
    assert names(tmp_path) == ["best", "last", "step-000005", "step-000010", "step-000015"]
    assert checkpoints.pointed("last") == folder
    assert checkpoints.pointed("best") == tmp_path / "run" / "checkpoints" / "step-000005"
    assert locate(tmp_path / "run") == folder
    assert locate(folder) == folder


def test_steps_beyond_a_million_are_in_order(tmp_path: Path, snapshot: Snapshot) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, snapshot._replace(step=step))
    assert [folder.name for folder in Checkpoints(tmp_path / "run").all()] == ["step-999999", "step-1000000"]


def test_milestones_are_never_removed(tmp_path: Path, snapshot: Snapshot) -> None:
    train = dataclasses.replace(snapshot.train, keep=1, keep_every=10)
    for step in range(0, 35, 5):
        save(tmp_path, snapshot._replace(step=step, train=train, best_step=5 if step >= 5 else None))
    assert names(tmp_path) == ["best", "last", *(f"step-{step:06d}" for step in (0, 5, 10, 20, 30))]


def test_a_run_killed_before_it_could_point_at_its_first_checkpoint(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    (folder.parent / "last").unlink()
    assert locate(tmp_path / "run") == folder


def test_a_checkpoint_is_never_replaced(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    with pytest.raises(CheckpointError, match="another run has left it there"):
        save(tmp_path, snapshot._replace(params=snapshot.params + 1))
    assert checkpoint.read(folder).params.tobytes() == snapshot.params.tobytes()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    params = snapshot.params.copy()
    params[7] = np.inf
    with pytest.raises(CheckpointError, match="not finite"):
        save(tmp_path, snapshot._replace(params=params, step=20))
    assert locate(tmp_path / "run") == folder


def test_going_back_drops_what_came_after(tmp_path: Path, snapshot: Snapshot) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    folders = [save(tmp_path, snapshot._replace(step=step, train=keep_all(snapshot))) for step in (1, 2, 3)]
    checkpoints.mark_best(3)
    checkpoints.rewind(folders[1], best_step=2)
    assert names(tmp_path) == ["best", "last", "step-000001", "step-000002"]
    assert checkpoints.pointed("last") == checkpoints.pointed("best") == folders[1]
    checkpoints.rewind(folders[0], best_step=None)
    assert names(tmp_path) == ["last", "step-000001"]
    checkpoints.clear()
    assert names(tmp_path) == []


def test_clearing_touches_checkpoints_only(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot).parent
    for name in ("notes.txt", "step-mine", "step-²"):
        (folder / name).touch()
    Checkpoints(tmp_path / "run").clear()
    assert names(tmp_path) == ["notes.txt", "step-mine", "step-²"]


@pytest.mark.parametrize("name", [*FILES, TRAINER])
def test_every_damaged_file_is_named(name: str, tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    content = (folder / name).read_bytes()
    middle = len(content) // 2
    for damaged in (b"", content[:-1], content + b" \n", content[:middle] + b"\xff" + content[middle + 1 :]):
        (folder / name).write_bytes(damaged)
        if name == TRAINER and damaged.strip() == content.strip():
            continue  # white space around JSON says nothing
        with pytest.raises(CheckpointError, match=name):
            checkpoint.read(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, r"of format 99, written by scratchgpt .* reads formats up to 5: update scratchgpt\."),
        ({"format": 0}, "damaged"),
        ({"format": True}, "damaged"),
        ({"best_step": -1}, "-1 is no whole number"),
        ({"n_worse": None}, "damaged"),
        ({"last_evaluation": 1.0}, "damaged"),
        ({"backoff": {"factor": 2.0, "n_made": 0, "n_skipped": 0}}, "2.0 is no number"),
        ({"backoff": None}, "damaged"),
        ({"step": -5}, "-5 is no whole number"),
        ({"step": 1.5}, "damaged"),
        ({"step": float("inf")}, "damaged"),
        ({"best_loss": "x"}, "damaged"),
        ({"plan": {"lanes": 10**9, "micro_batch": 1, "block_bytes": 2**18}}, "damaged"),
        ({"plan": {"lanes": 2, "micro_batch": 0, "block_bytes": 2**18}}, "damaged"),
        ({"plan": 2}, "damaged"),
        ({"files": 3}, "damaged"),
        ({"format": None}, "damaged"),
        ({"files": {}}, "altered"),
        ({"train": {"steps": 3}}, "damaged"),
        ({"train": {"stepz": 3}}, "did you mean 'steps'"),
        ({"step": "many"}, "damaged"),
        ({"data": None}, "damaged"),
    ],
)
def test_a_record_that_makes_no_sense(
    change: dict[str, object], reason: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    folder = save(tmp_path, snapshot)
    content = json.loads((folder / TRAINER).read_text(encoding="utf-8"))
    changed = content | change
    (folder / TRAINER).write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(CheckpointError):
        checkpoint.read(folder)
    (folder / TRAINER).write_text(json.dumps(changed | {"sha256": own_digest(changed)}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.read(folder)


@pytest.mark.parametrize("fault", ["nan", "shape", "dtype", "missing", "extra"])
def test_a_model_from_elsewhere_is_checked_tensor_by_tensor(fault: str, tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    (folder / TRAINER).unlink()  # no hashes: the tensors must speak for themselves
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "transformer.h.1.mlp.c_fc.weight"
    match fault:
        case "nan":
            tensors[name][3, 4] = np.nan
        case "shape":
            tensors[name] = tensors[name].T.copy()
        case "dtype":
            tensors[name] = tensors[name].astype(np.int32)
        case "missing":
            del tensors[name]
        case "extra":
            name = "transformer.h.9.mlp.c_fc.weight"
            tensors[name] = np.zeros(3, np.float32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read_model(folder)


def test_a_model_and_a_vocabulary_that_do_not_fit(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = save(tmp_path, snapshot)
    (folder / TRAINER).unlink()
    other = make_dataset(tmp_path / "other", text="".join(map(chr, range(33, 73))) * 50)
    shutil.copy(other.folder / "tokenizer.json", folder)
    with pytest.raises(CheckpointError, match=r"30 tokens.*40"):
        checkpoint.read_model(folder)


def test_biases_where_there_should_be_none(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    made = make_snapshot(dataset)
    model = type(made.model)(**(vars(made.model) | {"bias": False}))
    folder = save(tmp_path, fresh(model, made.train, dataset))
    assert checkpoint.read(folder).model == model
    (folder / TRAINER).unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ln_f\.bias is not zero"):
        checkpoint.read_model(folder)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From the second file that is to be synced on, the disk is full."""
    real, calls = os.fsync, iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def test_a_failed_save_harms_nothing(tmp_path: Path, snapshot: Snapshot, request: pytest.FixtureRequest) -> None:
    folder = save(tmp_path, snapshot)
    before = names(tmp_path)
    request.getfixturevalue("full_disk")
    with pytest.raises(CheckpointError, match=r"step-000020: No space left.*untouched.*--resume"):
        save(tmp_path, snapshot._replace(step=20))
    assert names(tmp_path) == before
    assert locate(tmp_path / "run") == folder
    assert checkpoint.read(folder).step == 10


def test_what_a_killed_save_leaves_is_cleaned_up(tmp_path: Path, snapshot: Snapshot) -> None:
    save(tmp_path, snapshot)
    (tmp_path / "run" / "checkpoints" / ".unfinished-x" / "step-000020").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / ".unfinished-last").touch()
    checkpoints = Checkpoints(tmp_path / "run")
    assert [folder.name for folder in checkpoints.all()] == ["step-000010"]
    checkpoints.clean()
    assert names(tmp_path) == ["last", "step-000010"]


@pytest.mark.parametrize("content", ["", "step-000099\n", "../../elsewhere\n", "\xff"])
def test_a_pointer_to_nowhere(content: str, tmp_path: Path, snapshot: Snapshot) -> None:
    save(tmp_path, snapshot)
    (tmp_path / "run" / "checkpoints" / "last").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"no last checkpoint; name one of .*step-000010"):
        locate(tmp_path / "run")
    save(tmp_path, snapshot._replace(step=20))  # and a save mends it
    assert locate(tmp_path / "run").name == "step-000020"


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run or checkpoint"):
        locate(tmp_path / "nothing")
    with pytest.raises(UsageError, match="has no last checkpoint"):
        locate(tmp_path)
    with pytest.raises(UsageError, match="scratchgpt train"):
        newest_run(tmp_path)


def test_the_newest_run_is_the_one_saved_last(tmp_path: Path, snapshot: Snapshot) -> None:
    dataset = make_dataset(tmp_path)
    for at, run in enumerate(("b", "a", "c")):
        checkpoint.save(Checkpoints(tmp_path / run), snapshot, dataset.tokenizer)
        os.utime(tmp_path / run / "checkpoints" / "last", ns=(0, at if run != "c" else 0))
    assert newest_run(tmp_path) == tmp_path / "a"


def test_a_run_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything large is made, and with what was asked for and what there is."""
    monkeypatch.setattr(plan, "available_memory", lambda: 123_000.0)
    with pytest.raises(MemoryError, match=r"takes \d+ MB of memory, and \d+ .B are available"):
        make_snapshot(make_dataset(tmp_path))
    monkeypatch.setattr(plan, "available_memory", lambda: 1e9)
    make_snapshot(make_dataset(tmp_path))
