"""Windows: whatever the order, the documents and the shards, they are those that a list of all would give."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.chance import Place, philox
from scratchgpt.data import windows
from scratchgpt.data.dataset import Batch, Dataset
from scratchgpt.data.shards import ShardWriter
from scratchgpt.errors import UsageError
from tests.world import make_dataset, make_documents, make_tokens

END = 0
"""The id of <|endoftext|>."""


def all_windows(tokens: Sequence[int], block_size: int, *, is_sequential: bool, within: bool) -> list[list[int]]:
    """Return all windows in order, found one by one."""
    stretches: list[list[int]] = [[]]
    for token in tokens:
        stretches[-1].append(token)
        if within and token == END:
            stretches.append([])
    stride = block_size if is_sequential else 1
    return [
        stretch[start : start + block_size + 1]
        for stretch in stretches
        for start in range(0, len(stretch) - block_size, stride)
    ]


def together(batch: Batch) -> list[list[int]]:
    """Return the windows that a batch was made of."""
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()
    return np.concatenate([batch.tokens, batch.targets[:, -1:]], axis=1).tolist()


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    ends_with_separator=st.booleans(),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9)),
    block_size=st.integers(1, 12),
    batch_size=st.integers(1, 9),
    order=st.sampled_from(["random", "sequential"]),
    within=st.booleans(),
)
def test_batches_are_those_of_a_list_of_all_windows(
    *,
    lengths: list[int],
    ends_with_separator: bool,
    sizes: tuple[int, int, int],
    block_size: int,
    batch_size: int,
    order: str,
    within: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ids = itertools.cycle(range(1, 257))
    tokens = [token for length in lengths for token in (*itertools.islice(ids, length), END)]
    if not ends_with_separator and len(tokens) > 1:
        del tokens[-1]
    train_shard, val_shard, chunk = sizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "CHUNK", chunk)
        dataset = make_tokens(tmp_path_factory.mktemp("tokens"), tokens, tokens, shard_sizes=(train_shard, val_shard))
        expected = all_windows(tokens, block_size, is_sequential=order == "sequential", within=within)
        if not expected:
            with pytest.raises(UsageError, match=r"Use a smaller --block-size|Use a longer text"):
                dataset.require(block_size, order=order, within_documents=within)
            return
        dataset.require(block_size, order=order, within_documents=within)
        for step in (*range(5), 10**12):
            batch = dataset.batch(
                seed=7,
                step=step,
                batch_size=batch_size,
                block_size=block_size,
                order=order,
                within_documents=within,
            )
            if order == "sequential":
                numbers = [(step * batch_size + row) % len(expected) for row in range(batch_size)]
            else:
                generator = np.random.Generator(philox(Place.BATCH, seed=7, step=step))
                numbers = generator.integers(0, len(expected), size=batch_size).tolist()
            assert together(batch) == [expected[number] for number in numbers]
        everywhere = all_windows(tokens, block_size, is_sequential=False, within=within)
        batches = dataset.validation_windows(
            n_windows=6, batch_size=batch_size, block_size=block_size, within_documents=within
        )
        places = np.linspace(0, len(everywhere) - 1, 6).astype(int)
        assert list(itertools.chain.from_iterable(map(together, batches))) == [everywhere[place] for place in places]


def test_every_token_but_the_first_is_a_target_once(tmp_path: Path) -> None:
    """In sequential order, save the last ones, which fill no window; then it begins again."""
    dataset = make_dataset(tmp_path)
    tokens = dataset.train.read(0, dataset.train.size)
    n_windows = (dataset.train.size - 1) // 16
    batches = [
        dataset.batch(seed=1, step=step, batch_size=5, block_size=16, order="sequential")
        for step in range(n_windows // 5 + 1)
    ]
    targets = np.concatenate([batch.targets for batch in batches]).reshape(-1)
    assert n_windows % 5
    assert targets[: n_windows * 16].tolist() == tokens[1 : n_windows * 16 + 1].tolist()
    assert targets[n_windows * 16 :].tolist() == tokens[1:][: len(targets) - n_windows * 16].tolist()


def test_sequential_order_knows_no_seed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    one, other = (
        dataset.batch(seed=seed, step=3, batch_size=4, block_size=16, order="sequential").tokens for seed in (1, 2)
    )
    assert (one == other).all()


@pytest.mark.parametrize("order", ["random", "sequential"])
def test_within_documents_a_separator_is_the_last_token_or_none(order: str, tmp_path: Path) -> None:
    dataset = make_documents(tmp_path)
    drawn = dataset.batch(seed=1, step=0, batch_size=2000, block_size=16, order=order, within_documents=True)
    assert not (drawn.tokens == END).any()
    assert not (drawn.targets[:, :-1] == END).any()
    assert (drawn.targets[:, -1] == END).any()
    anywhere = dataset.batch(seed=1, step=0, batch_size=2000, block_size=16, order=order)
    assert (anywhere.tokens == END).any()


def test_documents_that_cannot_be_told_apart(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"has no <\|endoftext\|>, .*Use --no-within-documents"):
        dataset.require(4, within_documents=True)


@pytest.mark.parametrize(("part", "name"), [("train", "training"), ("val", "validation")])
def test_documents_that_are_all_too_short(part: str, name: str, tmp_path: Path) -> None:
    parts = {"train": [1, 2, 3, END], "val": [1, 2, 3, END]}
    parts[part] = [1, 2, END] * 10
    dataset = make_tokens(tmp_path, parts["train"], parts["val"])
    dataset.require(2, within_documents=True)
    with pytest.raises(UsageError, match=f"No document in the {name} part .* has more than 3 tokens"):
        dataset.require(3, within_documents=True)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory that is resident")
@pytest.mark.parametrize("order", ["random", "sequential"])
def test_resident_memory_does_not_grow(order: str, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", np.dtype("<u2"), shard_size=60_000_000) as writer:
        for _ in range(100):
            writer.append(np.ones(1_000_000, np.uint16))
    make_tokens(tmp_path, None, [1] * 5000)

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = resident()
    dataset = Dataset.open(tmp_path)
    for step in range(2000):
        dataset.batch(seed=1, step=step, batch_size=12, block_size=4000, order=order)
    assert resident() - before <= 20  # of 200: the process of the tests has more to do than this
