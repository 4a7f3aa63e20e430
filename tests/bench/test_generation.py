"""The benchmark of generation: equal texts, numbers that follow, failures told in a sentence. No speed is demanded."""

import json
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.bench import OURS
from scratchgpt.bench.generation import Text, Workload, measure
from scratchgpt.bench.rounds import Turn
from scratchgpt.config import ModelConfig
from scratchgpt.errors import BenchmarkError
from tests.world import scratchgpt

SIZES: dict[str, Any] = {"block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 16}
SHORT = ["--generate", "--steps=5", "--rounds=1", "--batch-size=3"]
SMALL = ["--block-size=32", "--n-layer=2", "--n-head=2", "--n-embd=16"]
ONE = {"median": 1, "min": 1, "max": 1}
ROOT = Path(__file__).parents[2]
POSITIVE = ("token_ms", "token_ms_deviation", "tokens_per_s", "together_tokens_per_s", "prefill_tokens_per_s")
LIMITS = ("limit_gb_per_s", "limit_threads", "weights_mb", "peak_memory_mb")
SPREADS = ("gain_together", "share_of_limit")


def test_alone_as_json(tmp_path: Path) -> None:
    result = scratchgpt("bench", *SHORT, *SMALL, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    [record] = (json.loads(line) for line in result.stdout.splitlines())
    assert (record["contender"], record["name"]) == ("ours", "shakespeare-cpu")
    assert (record["n_prompt"], record["n_tokens"], record["n_samples"], record["n_long_prompt"]) == (8, 5, 3, 32)
    assert all(record[name] > 0 for name in POSITIVE + LIMITS)
    for spread in (*(record[name] for name in SPREADS), record["start_s"]):
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert record["ratio"].keys() == {"alone", "together", "prefill"}
    assert all(ratio.items() >= ONE.items() for ratio in record["ratio"].values())
    assert list(tmp_path.iterdir()) == []


def test_beside_another_checkout_for_people(tmp_path: Path) -> None:
    result = scratchgpt("bench", "--generate", *SMALL, "--rounds=1", f"--vs=ours@{ROOT}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"ours@{ROOT} / ours, a token" in " ".join(result.stdout.split())
    assert "Discarded rounds" in result.stdout
    assert "Not worth quoting: For an interval there are too few rounds or starts." in result.stdout


@pytest.mark.slow
@pytest.mark.oracle
def test_beside_transformers_for_people(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    with measure.random_model(ModelConfig(vocab_size=11, **SIZES, bias=False), 1) as folder:
        result = scratchgpt("bench", *SHORT, "--vs=transformers", "--model", str(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    for words in (
        "transformers / ours, a token",
        "5 tokens after 8",
        "prefill 32",
        "3 at once",
        "first character",
        "V 11,",
    ):
        assert words in told


def test_numbers_follow_from_the_rounds() -> None:
    """A round's medians are compared within it, so that a slow round is slow for all."""
    ours = {"alone": [[2.0, 2.0, 9.0], [20.0, 20.0, 20.0]], "together": [[4.0], [40.0]], "prefill": [[1.0], [1.0]]}
    theirs = {"alone": [[4.0, 4.0, 4.0], [80.0, 80.0, 1.0]], "together": [[4.0], [40.0]], "prefill": [[2.0], [2.0]]}
    turns, our_turns = ({kind: list(map(Turn, rounds)) for kind, rounds in times.items()} for times in (theirs, ours))
    found = measure.numbers(turns, our_turns, [Turn([1.0]), Turn([10.0])], n_samples=8)
    assert found["ratio"]["alone"] == {"median": 3, "min": 2, "max": 4, "low": None, "high": None}
    assert found["ratio"]["prefill"] == {"median": 2, "min": 2, "max": 2, "low": None, "high": None}
    assert found["gain_together"] == {"median": 12, "min": 8, "max": 16, "low": None, "high": None}
    assert found["share_of_limit"] == {"median": 3 / 16, "min": 1 / 8, "max": 1 / 4, "low": None, "high": None}
    assert (found["token_ms"], found["tokens_per_s"]) == (4000, 1 / 4)
    assert found["token_ms_mean"] == pytest.approx(1000 * 173 / 6)


@pytest.mark.parametrize("other", [Text([], [1, 3], [-1.0, -2.0]), Text([], [1, 2], [-1.0, float("nan")])])
def test_what_writes_something_else_is_not_timed(other: Text) -> None:
    ours = Text([], [1, 2], [-1.0, -2.0])
    measure.check_texts({OURS: ours, "peer": Text([], [1, 2], [-1.0005, -2.0])})
    with pytest.raises(BenchmarkError, match="peer does not write the same text"):
        measure.check_texts({OURS: ours, "peer": other})


def test_weights_that_a_token_needs() -> None:
    C, V, L = 16, 11, 2
    sizes: dict[str, Any] = {"vocab_size": V, **SIZES}
    expected = L * (12 * C * C + 13 * C) + 2 * C + V * C
    for tied in (True, False):
        assert Workload(folder="", model=ModelConfig(**sizes, tie_word_embeddings=tied)).n_weights == expected


def test_texts_fit_into_the_context() -> None:
    def lengths(block_size: int) -> tuple[int, int, int]:
        model = ModelConfig(vocab_size=11, **SIZES | {"block_size": block_size})
        return Workload(folder="", model=model).lengths

    assert lengths(1024) == (16, 1008, 512)
    assert lengths(64) == (16, 48, 64)
    assert lengths(2) == (1, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--generate --vs torch", "no peer 'torch'"),
        ("--generate --lanes 2", "leave them out with --generate"),
        ("--generate --profile", "leave them out with --generate"),
        ("--generate --model . --n-embd 32", "has its sizes"),
        ("--generate --model . --preset gpt2", "has its sizes"),
        ("--generate --model nowhere", "no run or checkpoint nowhere"),
        ("--model .", "goes with --generate"),
    ],
)
def test_misuse_is_refused_in_a_sentence(arguments: str, message: str, tmp_path: Path) -> None:
    result = scratchgpt("bench", *arguments.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
