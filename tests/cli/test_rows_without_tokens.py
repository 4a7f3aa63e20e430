"""Models with more rows than their vocabulary has tokens: they open, and no unused id is drawn, shown or taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from scratchgpt import tokenizer as tokenizers
from scratchgpt.cli import decode, evaluate, export, generate, surprise, train
from scratchgpt.config import ModelConfig
from scratchgpt.data.prepare import prepare
from scratchgpt.data.vocabulary import Given
from scratchgpt.errors import CheckpointError
from scratchgpt.model import folder as model_folder
from scratchgpt.model.params import HEAD_BIAS, Layout
from scratchgpt.serving.job import Scored
from scratchgpt.serving.problems import ApiError
from scratchgpt.serving.served import Served
from scratchgpt.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, Tokenizer
from scratchgpt.tokenizer.added import Added
from scratchgpt.tokenizer.bpe_training import train as learn
from scratchgpt.tokenizer.counting import count_pieces
from scratchgpt.training import checkpoint
from scratchgpt.training.locate import locate
from tests.world import TEXT

OWN = learn(count_pieces([TEXT]), 280)


def padded(folder: Path) -> int:
    """Pad the rows to a multiple of 64."""
    tokenizers.save(OWN, folder)
    return 320


def characters(folder: Path) -> int:
    tokenizers.save(CharTokenizer(TEXT), folder)
    return 64


def gap(folder: Path) -> int:
    """Leave a gap in the ids, as a vocabulary has from which tokens were taken."""
    content = OWN.to_json()
    content["model"]["merges"].pop()
    del content["model"]["vocab"][max(content["model"]["vocab"], key=content["model"]["vocab"].get)]
    content["model"]["vocab"]["zzz"] = 285
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return 286


def pair(folder: Path) -> list[str]:
    """Write vocab.json and merges.txt; return the merges."""
    content = OWN.to_json()["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(content["merges"]) + "\n", encoding="utf-8")
    return content["merges"]


def added_tokens(folder: Path) -> int:
    pair(folder)
    (folder / "added_tokens.json").write_text('{"[PAD]": 290, "[MORE]": 280}', encoding="utf-8")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}', encoding="utf-8")
    return 291


def described_tokens(folder: Path) -> int:
    tokenizers.save(OWN, folder)
    token = {"content": "[PAD]", "special": True, "lstrip": True}
    config = {"added_tokens_decoder": {"300": token}, "eos_token": {"content": END_OF_TEXT}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return 304


WAYS = [padded, characters, gap, added_tokens, described_tokens]
ways = pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__)


def make(folder: Path, write: Callable[[Path], int]) -> Tokenizer:
    """Write a model whose unused rows are by far the likeliest, and return its vocabulary."""
    folder.mkdir()
    config = ModelConfig(
        vocab_size=write(folder), block_size=8, n_layer=1, n_head=1, n_embd=8, head_bias=True, tie_word_embeddings=False
    )
    vocabulary = tokenizers.load(folder).padded(config.vocab_size)
    assert len(vocabulary.unused) > 2
    params = Layout(config).initial(1)
    Layout(config).views(params)[HEAD_BIAS][list(vocabulary.unused)] = 50
    model_folder.save(folder, config, params)
    return vocabulary


def run(command: Any, *arguments: Any) -> str:
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@ways
@pytest.mark.parametrize("how", [(), ("--temperature", 0), ("--temperature", 1e6), ("--repetition-penalty", 3)])
def test_no_unused_id_is_drawn(write: Callable[[Path], int], how: tuple[Any, ...], tmp_path: Path) -> None:
    vocabulary = make(tmp_path / "m", write)
    record = json.loads(run(generate.command, tmp_path / "m", "--prompt", "the", "--tokens", 40, "--json", *how))
    assert len(record["tokens"]) == 40
    assert not set(record["tokens"]).intersection(vocabulary.unused)


@ways
def test_no_unused_id_is_shown_or_taken(write: Callable[[Path], int], tmp_path: Path) -> None:
    vocabulary = make(tmp_path / "m", write)
    (tmp_path / "text").write_text("the dog", encoding="utf-8")
    run(surprise.command, tmp_path / "text", "--model", tmp_path / "m", "--top", 50, "--out", tmp_path / "s.html")
    scored = Scored(vocabulary, 9999, 0)
    scored.add(int(vocabulary.encode("t")[0]), np.zeros(vocabulary.vocab_size))
    assert scored.entries[0].top is not None
    assert len(scored.entries[0].top) <= vocabulary.vocab_size - len(vocabulary.unused)
    served = Served("m", checkpoint.open_model(tmp_path / "m")[0], vocabulary)
    for index in (vocabulary.unused[0], vocabulary.unused[-1]):
        with pytest.raises(ApiError, match=f"There is no token {index}"):
            served.require_tokens([0, index], "logit_bias")
        refused = CliRunner().invoke(decode.command, ["--tokenizer", str(tmp_path / "m")], input=f"1 {index}")
        assert "is no id" in str(refused.exception) or "is no id" in refused.output


@ways
def test_such_a_model_is_measured_and_trained(write: Callable[[Path], int], tmp_path: Path) -> None:
    make(tmp_path / "m", write)
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    prepare(tmp_path / "text", tmp_path / "data", vocabulary=Given(tokenizers.load(tmp_path / "m")))
    run(evaluate.command, tmp_path / "m", "--data", tmp_path / "data")
    options = ("--steps", 1, "--lanes", 1, "--no-tune", "--quiet", "--eval-windows", 1, "--sample-every", 1)
    run(train.command, "--init", tmp_path / "m", "--data", tmp_path / "data", "--run", tmp_path / "run", *options)
    run(train.command, "--resume", tmp_path / "run", "--steps", 2, "--quiet")
    config, _, vocabulary = checkpoint.open_model(locate(tmp_path / "run"))
    assert config == checkpoint.open_model(tmp_path / "m")[0]
    assert vocabulary.to_json() == tokenizers.load(tmp_path / "m").to_json()


def test_a_vocabulary_that_is_larger_than_the_model(tmp_path: Path) -> None:
    make(tmp_path / "m", padded)
    vocabulary = BPETokenizer([*OWN.tokens, b"[X]"], OWN.merges, added=[*OWN.added, Added("[X]", 280)])
    tokenizers.save(vocabulary.padded(321), tmp_path / "m")
    checkpoint.open_model(tmp_path / "m")  # ids are what counts
    content = OWN.to_json()
    content["added_tokens"].append({"id": 320, "content": "[X]"})
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match="the model has 320 tokens, but its vocabulary has 321; put the model's own"
    ):
        checkpoint.open_model(tmp_path / "m")


def test_another_models_characters(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    config = ModelConfig(vocab_size=characters(tmp_path / "m") + 1, block_size=8, n_layer=1, n_head=1, n_embd=8)
    model_folder.save(tmp_path / "m", config, Layout(config).initial(1))
    with pytest.raises(CheckpointError, match="the model has 65 tokens, but its vocabulary has 30"):
        checkpoint.open_model(tmp_path / "m")


def test_added_tokens_of_other_files(tmp_path: Path) -> None:
    vocabulary = make(tmp_path / "m", added_tokens)
    assert vocabulary.special == {"[PAD]": 290, END_OF_TEXT: 0}
    assert vocabulary.encode("[MORE][PAD]")[0] == 280  # is no special token, so it is found in every text
    assert vocabulary.encode("[PAD]", special=True).tolist() == [290]
    vocabulary = make(tmp_path / "n", described_tokens)
    assert vocabulary.encode("a  [PAD]", special=True).tolist()[-1] == 300
    assert len(vocabulary.encode("a  [PAD]", special=True)) == 2


@pytest.mark.oracle
def test_a_gguf_file_has_a_token_for_each_row(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = tmp_path / "m"
    folder.mkdir()
    config = ModelConfig(vocab_size=padded(folder), block_size=8, n_layer=1, n_head=1, n_embd=8)
    model_folder.save(folder, config, Layout(config).initial(1))
    assert "40 ids, such as 319, stand for no token" in run(export.command, folder, "--gguf", tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert len(tokens) == len(types) == 320
    assert (tokens[300], types[300], types[279]) == ("[PAD300]", gguf.TokenType.UNUSED, gguf.TokenType.NORMAL)
