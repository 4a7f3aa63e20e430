"""A flipped byte in a checkpoint is noticed, or harmless: a sample of what tests/training/flips.py does."""

import random
from pathlib import Path

from tests.training import flips


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - nothing secret
    folder = flips.make_checkpoint(tmp_path)
    counts = flips.flip(folder, flips.sampled(folder, 100, chance), chance)
    record = [(folder / "trainer.json", at) for at in range((folder / "trainer.json").stat().st_size)]
    counts += flips.flip(folder, iter(record), chance)
    assert counts.total() == 100 + len(record)
    assert counts["harmless"] <= counts.total() / 10  # white space in trainer.json
