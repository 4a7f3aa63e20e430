"""What other programs read of a run: CSV by Python's reader, TensorBoard's files by its own, W&B's records."""

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file by Python's reader, empty cells left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[float, int, float]]]:
    """Read event files by TensorBoard's own reader: time, step and value for each tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    events = {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}
    return {
        tag: [(event.wall_time, event.step, event.value) for event in found] for tag, found in events.items() if found
    }


def tensorboard_texts(folder: Path) -> list[tuple[float, int, str]]:
    """Read the sampled texts of event files by TensorBoard's own reader: time, step and Markdown."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    (tag,) = reader.Tags()["tensors"]
    events = reader.Tensors(tag)
    return [(event.wall_time, event.step, event.tensor_proto.string_val[0].decode("utf-8")) for event in events]


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a W&B file: LevelDB's log format around W&B's own messages."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, record, block = 7, b"", 32768
    while position < len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        _, length, part = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if part in {1, 4}:  # whole, or the last part
            yield internal.Record.FromString(record)
            record = b""


def wandb_history(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value for each name in the newest of W&B's folders."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in wandb_records(_newest(run)):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            found.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def wandb_config(run: Path) -> dict[str, Any]:
    """Return the configuration in the newest of W&B's folders."""
    records = wandb_records(_newest(run))
    record = next(record for record in records if record.HasField("run"))
    return {item.key: json.loads(item.value_json) for item in record.run.config.update}


def _newest(run: Path) -> Path:
    return max((run / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
