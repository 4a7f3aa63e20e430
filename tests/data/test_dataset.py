"""A data set: checked when opened, batches a function of (seed, step), the whole validation part covered once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.data.dataset import Batch, Dataset
from scratchgpt.data.prepare import prepare
from scratchgpt.data.shards import ShardReader
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_record
from scratchgpt.inspection.describe import describe
from tests.world import make_dataset, make_tokens


def test_targets_follow_their_tokens(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    tokens, targets = dataset.batch(seed=1, step=2, batch_size=50, block_size=16)
    assert tokens.shape == targets.shape == (50, 16)
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    text = dataset.tokenizer.decode(dataset.train.read(0, dataset.train.size))
    for row, target in zip(tokens, targets, strict=True):
        assert dataset.tokenizer.decode(row) + dataset.tokenizer.decode(target[-1:]) in text


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)

    def draw(seed: int, step: int) -> bytes:
        return dataset.batch(seed=seed, step=step, batch_size=4, block_size=8).tokens.tobytes()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, step) for seed in range(5) for step in range(5)}) == 25


def test_every_place_of_the_text_can_be_drawn(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, text="".join(chr(0x4E00 + i) for i in range(100)))  # id = place
    drawn = dataset.batch(seed=1, step=0, batch_size=4000, block_size=5)
    assert set(drawn.tokens[:, 0].tolist()) == set(range(90 - 5))
    assert drawn.targets.max() == 89


@pytest.mark.parametrize("block_size", [1, 4, 7, 30, 206])
@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_whole_validation_part_is_covered_once(block_size: int, batch_size: int, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    batches = list(dataset.whole(dataset.val, batch_size=batch_size, block_size=block_size))
    val = dataset.val.read(0, dataset.val.size)
    assert dataset.val.size == 207
    assert len(batches) == dataset.n_whole_batches(dataset.val, batch_size=batch_size, block_size=block_size)
    assert np.concatenate([batch.targets.reshape(-1) for batch in batches]).tolist() == val[1:].tolist()
    assert np.concatenate([batch.tokens.reshape(-1) for batch in batches]).tolist() == val[:-1].tolist()


def test_validation_windows_are_always_the_same_and_spread_out(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)

    def windows(batch_size: int) -> Batch:
        batches = list(dataset.validation_windows(n_windows=5, batch_size=batch_size, block_size=10))
        return Batch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))

    val = dataset.val.read(0, dataset.val.size)
    expected = [val[start : start + 10].tolist() for start in (0, 49, 98, 147, 196)]
    assert windows(2).tokens.tolist() == windows(5).tokens.tolist() == expected
    assert windows(2).targets[-1, -1] == val[-1]


def test_too_short_for_the_block_size(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    dataset.require(206)
    with pytest.raises(UsageError, match=r"validation part .* 207 tokens.*--block-size of at most 206"):
        dataset.require(207)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("plain.txt",),
        ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        ("log.jsonl", "checkpoints/last"),
        ("train.txt", "val.txt", "meta.pkl"),
        ("train.bin.gz", "meta.json"),
        ("data/train.bin", "data/val.bin"),
    ],
    ids=["empty", "text", "model", "run", "nanoGPT without prepare.py", "packed", "one folder deeper"],
)
def test_a_folder_of_something_else_has_no_data(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^There is no prepared data in .*\. Run `scratchgpt prepare FILE`, or name "):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "lengthened", "removed"])
def test_damaged_files_are_found(name: str, damage: str, tmp_path: Path) -> None:
    path = make_dataset(tmp_path).folder / name
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-2])
        case "altered":
            path.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        case "lengthened":
            path.write_bytes(content + b"\0\0")
        case "removed":
            path.unlink()
    with pytest.raises(DataError, match=name):
        Dataset.open(path.parent)


def in_shards(dataset: Dataset, sizes: Sequence[int]) -> Path:
    """Write the training part anew in shards of these sizes, as `prepare` would have; return the folder."""
    folder = dataset.folder
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    tokens = dataset.train.read(0, dataset.train.size)
    for path in dataset.train.paths:
        path.unlink()
        del meta["files"][path.name]
    for number, shard in enumerate(np.split(tokens, np.cumsum(sizes)), start=1):
        path = folder / f"train-{number:05}.bin"
        path.write_bytes(shard.tobytes())
        meta["files"][path.name] = file_record(path)
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return folder


def test_shards_are_the_same_data(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole")
    sharded = Dataset.open(in_shards(make_dataset(tmp_path / "shards"), [700, 20]))
    assert len(sharded.train.paths) == 3
    for order in ("random", "sequential"):
        one, other = (
            dataset.batch(seed=1, step=0, batch_size=100, block_size=50, order=order) for dataset in (whole, sharded)
        )
        assert (one.tokens == other.tokens).all()
        assert (one.targets == other.targets).all()


@pytest.mark.parametrize("name", ["train-00001.bin", "train-00002.bin", "train-00003.bin"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_damaged_shards_are_found(name: str, damage: str, tmp_path: Path) -> None:
    folder = in_shards(make_dataset(tmp_path), [700, 20])
    path = folder / name
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-2])
        case "altered":
            path.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
        case "removed":
            path.unlink()
    with pytest.raises(DataError, match=name):
        Dataset.open(folder)


def test_a_shard_too_many_is_found(tmp_path: Path) -> None:
    folder = in_shards(make_dataset(tmp_path), [700, 20])
    (folder / "train-00004.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"train-00004\.bin is not as `prepare` wrote it"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "[" * 100_000, '{"format": 2}', '{"format": 1}', '{"format": 1, "files": 3}']
)
def test_a_damaged_record_is_found(content: str, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path).folder
    (folder / "meta.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"meta\.json"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"train_tokens": {}},
        {"val_tokens": None},
        {"vocab_size": "17"},
        {"train_tokens": 1.5},
        {"parts": 3},
        {"parts": [None]},
        {"parts": [{"name": "a"}]},
        {"parts": [{"name": "a", "documents": 1, "tokens": "many"}]},
    ],
)
def test_a_record_whose_numbers_are_none_is_found(change: dict[str, Any], tmp_path: Path) -> None:
    """To prepare the same again, to train and to look at it all end in the sentence, not in a traceback."""
    folder = make_dataset(tmp_path).folder
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "meta.json").write_text(json.dumps(meta | change), encoding="utf-8")
    for use in (lambda: prepare(tmp_path / "source.txt", folder), lambda: Dataset.open(folder)):
        with pytest.raises(DataError, match=r"meta\.json is damaged"):
            use()
    assert "meta.json is damaged" in " ".join(describe(folder)["problems"])


@pytest.mark.parametrize("n_bytes", [1, 3, 5, 101, 201])
def test_half_a_token_is_found(n_bytes: int, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path).folder
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:n_bytes])
    reader = ShardReader(folder, "train", np.dtype("<u2"))
    if n_bytes > 1:
        with pytest.raises(DataError, match="is truncated: its size is no multiple of 2 bytes"):
            reader.read(0, 1)
    assert any("train.bin" in problem for problem in describe(folder)["problems"])


def test_token_files_of_another_program_can_be_used(tmp_path: Path) -> None:
    """Without meta.json, as when nanoGPT made them: the ids are checked against the vocabulary."""
    folder = make_dataset(tmp_path).folder
    (folder / "meta.json").unlink()
    vocab_size = Dataset.open(folder).tokenizer.vocab_size
    for content, reason in [
        (np.array([0, vocab_size], "<u2").tobytes(), f"holds the id {vocab_size}"),
        (b"\0\0\0", "truncated"),
        (b"", "empty"),
    ]:
        (folder / "val.bin").write_bytes(content)
        with pytest.raises(DataError, match=reason):
            Dataset.open(folder)


def test_the_digest_changes_with_tokens_and_vocabulary_only(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path).folder
    first = Dataset.open(folder).digest
    (folder / "meta.json").unlink()
    assert Dataset.open(folder).digest == first
    (folder / "val.bin").write_bytes((folder / "train.bin").read_bytes())
    assert Dataset.open(folder).digest != first
    assert make_dataset(tmp_path / "other", text="abc" * 99).digest != first


def test_the_digest_of_data_without_shards_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    """So that older runs can go on."""
    dataset = make_dataset(tmp_path)
    names = ("train.bin", "val.bin", "tokenizer.json")
    hashes = "".join(hashlib.sha256((dataset.folder / name).read_bytes()).hexdigest() for name in names)
    assert dataset.digest == hashlib.sha256(hashes.encode("ascii")).hexdigest()


def test_the_digest_tells_which_part_a_shard_belongs_to(tmp_path: Path) -> None:
    datasets = [
        make_tokens(tmp_path / str(n), [1, 2, 3, 4, 5, 6][:n], [1, 2, 3, 4, 5, 6][n:], shard_sizes=(2, 2))
        for n in (2, 4)
    ]
    assert datasets[0].digest != datasets[1].digest


def test_token_files_replaced_while_in_use(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (tmp_path / "other.txt").write_text("abc" * 1000, encoding="utf-8")
    prepare(tmp_path / "other.txt", dataset.folder, force=True)
    with pytest.raises(DataError, match=r"train\.bin was replaced"):
        dataset.batch(seed=1, step=0, batch_size=1, block_size=1)
    (dataset.folder / "train.bin").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*train\.bin"):
        dataset.batch(seed=1, step=0, batch_size=1, block_size=1)
