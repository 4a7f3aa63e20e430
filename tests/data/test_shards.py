"""Token files in shards: read and written as if they were one, whatever their sizes and however often interrupted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data.shards import ShardReader, ShardWriter, shard_paths
from scratchgpt.errors import DataError

IDS = np.dtype("<u2")


def write_shards(folder: Path, sizes: Sequence[int]) -> np.ndarray:
    """Write shards of these sizes, each token its own place; return all tokens."""
    tokens = np.arange(sum(sizes), dtype=IDS)
    for number, shard in enumerate(np.split(tokens, np.cumsum(sizes[:-1])), start=1):
        (folder / f"train-{number:05}.bin").write_bytes(shard.tobytes())
    return tokens


def content(folder: Path) -> dict[str, bytes]:
    """Return all files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), data=st.data())
def test_shards_of_any_sizes_read_as_one(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tokens = write_shards(folder, sizes)
    reader = ShardReader(folder, "train", IDS)
    assert reader.size == len(tokens)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(tokens) + 3), st.integers(0, len(tokens) + 3))))
    drawn = reader.read(start, stop)
    assert type(drawn) is np.ndarray
    assert drawn.dtype == IDS
    assert drawn.tolist() == tokens[start:stop].tolist()
    length = data.draw(st.integers(1, len(tokens)))
    starts = data.draw(st.lists(st.integers(0, len(tokens) - length), min_size=1))
    windows = reader.windows(np.array(starts), length)
    assert type(windows) is np.ndarray
    assert windows.dtype == IDS
    assert windows.tolist() == [tokens[at : at + length].tolist() for at in starts]


@given(pieces=st.lists(st.integers(0, 9), max_size=5), shard_size=st.integers(2, 7), data=st.data())
def test_tokens_are_written_as_asked_and_cut_anywhere(
    pieces: list[int], shard_size: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is written, cut back and written again: the files are those of what it comes to, written at once."""
    straight, interrupted = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("interrupted")
    tokens = np.zeros(0, np.int64)
    for size in pieces:
        with ShardWriter(interrupted, "train", IDS, shard_size=shard_size) as writer:
            assert writer.size == len(tokens)
            kept = data.draw(st.integers(0, len(tokens)))
            writer.truncate(kept)
            tokens = np.append(tokens[:kept], np.arange(size) + 1000 * size)
            writer.append(tokens[kept:])
            writer.sync()
            assert writer.size == len(tokens)
    with ShardWriter(straight, "train", IDS, shard_size=shard_size) as writer:
        writer.append(tokens)
    if pieces:
        assert content(interrupted) == content(straight)
    paths = shard_paths(straight, "train")
    assert len(paths) == max(-(-len(tokens) // shard_size), 1)
    assert (len(paths) == 1) == (paths == [straight / "train.bin"])
    assert b"".join(path.read_bytes() for path in paths) == tokens.astype(IDS).tobytes()
    assert all(path.stat().st_size == shard_size * IDS.itemsize for path in paths[:-1])


def test_half_a_token_is_dropped_when_writing_goes_on(tmp_path: Path) -> None:
    """As after a crash, when the single file still had a number."""
    (tmp_path / "val-00001.bin").write_bytes(b"\1\0\2")
    with ShardWriter(tmp_path, "val", IDS) as writer:
        writer.append(np.array([3]))
    assert content(tmp_path) == {"val.bin": b"\1\0\3\0"}


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    write_shards(tmp_path, [4, 3])
    for shard_size in (3, 5):
        with pytest.raises(DataError, match=f"do not hold {shard_size} tokens each"):
            ShardWriter(tmp_path, "train", IDS, shard_size=shard_size)
    with (
        ShardWriter(tmp_path, "train", IDS, shard_size=4) as writer,
        pytest.raises(DataError, match="hold 7 tokens, not 8"),
    ):
        writer.truncate(8)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["train.bin", "train-00001.bin"], r"both train\.bin and train-00001\.bin"),
        (["train-00002.bin"], r"train-00002\.bin stands where train-00001\.bin should be"),
        (["train-00001.bin", "train-00003.bin"], r"train-00003\.bin stands where train-00002\.bin should be"),
        (["train-00000.bin", "train-00001.bin"], r"train-00000\.bin stands where train-00001\.bin should be"),
        ([], r"lacks train\.bin"),
        (["train-1.bin", "val.bin", "retrain-00001.bin"], r"lacks train\.bin"),
    ],
)
def test_files_that_are_no_part(names: list[str], reason: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"\0\0")
    with pytest.raises(DataError, match=reason):
        ShardReader(tmp_path, "train", IDS)
