"""Flip bytes of a checkpoint: each is noticed with a sentence, or harmless. `python -m tests.training.flips` does all.

A flip changes one byte to any other. Of files of up to 10,000 bytes every byte is flipped, and a sample of bytes of all
files together.
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scratchgpt.errors import CheckpointError
from scratchgpt.training import checkpoint
from scratchgpt.training.locate import locate
from scratchgpt.training.snapshot import Snapshot
from scratchgpt.training.trainer import Trainer
from tests.world import make_dataset, make_snapshot

SMALL = 10_000
"""Bytes of a file all of which are flipped."""


def make_checkpoint(folder: Path) -> Path:
    """Train a little, with everything that a checkpoint can hold."""
    dataset = make_dataset(folder)
    snapshot = make_snapshot(dataset, steps=4, eval_every=2, patience=3, on_nan="skip")
    snapshot = snapshot._replace(plan=snapshot.plan._replace(lanes=1))
    list(Trainer(snapshot, dataset, folder / "run").events())
    return locate(folder / "run")


def everything(folder: Path) -> tuple[object, ...]:
    """Return all that a resumed run or a generation takes from a checkpoint, as what can be compared."""
    snapshot = checkpoint.read(folder)
    config, params, tokenizer = checkpoint.read_model(folder)
    arrays = [array.tobytes() for array in (snapshot.params, *snapshot.slots.values(), params)]
    rest = [str(getattr(snapshot, name)) for name in Snapshot._fields if name not in {"params", "slots"}]
    return (*arrays, *rest, config, tokenizer.decode(range(tokenizer.vocab_size)))


def flip(folder: Path, places: Iterator[tuple[Path, int]], chance: random.Random) -> Counter[str]:
    """Flip the byte at each place and read everything; return how often that was noticed, and how often harmless."""
    counts: Counter[str] = Counter()
    expected = everything(folder)
    for path, at in places:
        content = path.read_bytes()
        flipped = content[at] ^ chance.randrange(1, 256)
        path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        try:
            found = everything(folder)
        except CheckpointError:
            counts["noticed"] += 1
        else:
            assert found == expected, f"{path.name} at {at}, now {flipped}: a silent difference"
            counts["harmless"] += 1
        path.write_bytes(content)
    return counts


def sampled(folder: Path, n: int, chance: random.Random) -> Iterator[tuple[Path, int]]:
    """Yield n places, each byte of all files as likely as any other."""
    files = sorted(folder.iterdir())
    sizes = [path.stat().st_size for path in files]
    for path in chance.choices(files, sizes, k=n):
        yield path, chance.randrange(path.stat().st_size)


def in_small_files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield every place in the small files."""
    for path in sorted(folder.iterdir()):
        if path.stat().st_size <= SMALL:
            yield from ((path, at) for at in range(path.stat().st_size))


def main() -> None:
    """Flip, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000, help="in the sample of all files")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)  # noqa: S311 - nothing secret
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(Path(scratch))
        for name, places in (
            ("sampled", sampled(folder, args.flips, chance)),
            ("every byte of small files", in_small_files(folder)),
        ):
            counts = flip(folder, places, chance)
            print(f"{name}: {counts.total():,} flips, {counts['noticed']:,} noticed, {counts['harmless']:,} harmless")


if __name__ == "__main__":
    main()
