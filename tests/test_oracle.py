"""Other programs open our checkpoints as they are: PyTorch computes the same, `tokenizers` gives the same ids.

Nothing is fetched: a checkpoint folder holds all that `transformers` asks for.
"""

import json
import runpy
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.generation import Sampling, generate
from scratchgpt.model import folder as model_folder
from scratchgpt.model.gpt import GPT
from scratchgpt.ops import rmsnorm
from scratchgpt.tokenizer import CharTokenizer, difference
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.patterns import split
from scratchgpt.tokenizer.splitting import GPT2_PATTERN
from scratchgpt.training import checkpoint as checkpoints
from scratchgpt.training.locate import locate
from scratchgpt.training.snapshot import fresh
from scratchgpt.training.store import Checkpoints
from tests.world import CPU, QUICK, TEXT, make_dataset, scratchgpt

pytestmark = pytest.mark.oracle

TEXTS = [
    "",
    " ",
    "  two  spaces\tand\t\ttabs , here  ",
    "\n\nFirst Citizen:\n\nWe proceed .\r\n\r\n",
    "naïve — ‘quoted’ ß 中文 \u00a0\u3000 e\u0301",
    "😀 👩‍🚀 𝄞",
    "<unk> <|endoftext|> </s> do n't",
]
TOKENIZER = CharTokenizer("".join(TEXTS))
KINDS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"tie_word_embeddings": False},
    {"activation": "relu"},
    {"bias": False, "tie_word_embeddings": False, "activation": "relu"},
    {"n_inner": 37},
]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def transformers(torch: Any) -> Iterator[Any]:
    assert torch  # without it, transformers has no models
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("transformers", reason="transformers is not installed")


class Checkpoint(NamedTuple):
    """A checkpoint's folder, and the model that was saved there."""

    folder: Path
    model: GPT


def save(run: Path, **kind: Any) -> Checkpoint:
    """Save a small model with the vocabulary of TEXTS."""
    dataset = make_dataset(run, "".join(TEXTS))
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, block_size=16, n_layer=2, n_head=3, n_embd=24, dropout=0.1, **kind
    )
    snapshot = fresh(config, TrainConfig.from_mapping(QUICK), dataset)
    noise = np.random.default_rng(0).normal(scale=0.2, size=snapshot.params.shape)  # no bias is to be 0, no gain 1
    snapshot = snapshot._replace(params=(snapshot.params + noise).astype(np.float32))
    folder = checkpoints.save(Checkpoints(run), snapshot, dataset.tokenizer)
    return Checkpoint(folder, GPT(config, CPU, snapshot.params))


# ----------------------------------------------------------------------------------------------- model


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: ",".join(f"{k}={v}" for k, v in kind.items()) or "GPT-2")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save(tmp_path_factory.mktemp("run"), **request.param)


def test_logits(checkpoint: Checkpoint, torch: Any, transformers: Any) -> None:
    model, report = transformers.GPT2LMHeadModel.from_pretrained(checkpoint.folder, output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, unexpected or of another shape
    assert model.config.tie_word_embeddings == checkpoint.model.config.tie_word_embeddings
    tokens = np.random.default_rng(1).integers(TOKENIZER.vocab_size, size=(2, 16))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    logits = checkpoint.model.logits(checkpoint.model.hidden(tokens))
    assert np.abs(logits - expected).max() <= 1e-4


def test_generation(checkpoint: Checkpoint, torch: Any, transformers: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    tokens = TOKENIZER.encode("two").astype(np.int64)[np.newaxis]
    generated = model.generate(torch.from_numpy(tokens), max_new_tokens=8, do_sample=False)
    for _ in range(8):
        likeliest = checkpoint.model.logits(checkpoint.model.hidden(tokens)[:, -1]).argmax(axis=-1)
        tokens = np.append(tokens, likeliest[:, np.newaxis], axis=1)
    assert np.array_equal(generated.numpy(), tokens)


def make_theirs(transformers: Any, torch: Any, **settings: Any) -> Any:
    """Return a model of `transformers` whose logits are far apart: no bias is 0, no gain 1."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_positions=64, bos_token_id=None, eos_token_id=None, **settings)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return theirs


def check_logits(theirs: Any, folder: Path, torch: Any) -> None:
    """Assert that what is read from a folder has the logits of a model."""
    ours = GPT(*load_ours(folder))
    tokens = np.random.default_rng(1).integers(ours.config.vocab_size, size=(2, 64))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(ours.logits(ours.hidden(tokens)) - expected).max() <= 1e-4


def check_against(theirs: Any, folder: Path, torch: Any) -> None:
    """Assert that what is read from a folder has the logits of a model, and goes on with the same 50 tokens."""
    check_logits(theirs, folder, torch)
    ours = GPT(*load_ours(folder))
    prompt = np.random.default_rng(1).integers(ours.config.vocab_size, size=(1, 8))
    generated = theirs.generate(torch.from_numpy(prompt), max_new_tokens=50, do_sample=False, pad_token_id=0)
    assert [*generate(ours, prompt[0].tolist(), 50, Sampling(temperature=0))] == generated[0, 8:].tolist()


def load_ours(folder: Path) -> tuple[ModelConfig, Any, Any]:
    config, params = model_folder.load(folder)
    return config, CPU, params


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 65, "n_layer": 1, "n_head": 1, "n_embd": 8},
        {"vocab_size": 101, "n_layer": 4, "n_head": 4, "n_embd": 32},
        {"vocab_size": 3001, "n_layer": 2, "n_head": 3, "n_embd": 96},
    ],
    ids=lambda sizes: str(sizes["n_embd"]),
)
def test_models_of_theirs(sizes: dict[str, int], tied: bool, torch: Any, transformers: Any, tmp_path: Path) -> None:  # noqa: FBT001
    theirs = make_theirs(transformers, torch, **sizes, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    check_against(theirs, tmp_path, torch)


def test_an_mlp_of_another_width(torch: Any, transformers: Any, tmp_path: Path) -> None:
    theirs = make_theirs(transformers, torch, **SIZES, n_inner=50)
    theirs.save_pretrained(tmp_path)
    assert model_folder.load_config(tmp_path / "config.json").inner_size == 50
    check_against(theirs, tmp_path, torch)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 64)])
def test_rmsnorm(shape: tuple[int, ...], torch: Any) -> None:
    rng = np.random.default_rng(0)
    x, dy, gain = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape[-1])
    y, saved = rmsnorm.forward(x, gain, epsilon=1e-3)
    dx, dgain, _ = rmsnorm.backward(dy, saved, gain)
    their_x, their_gain = (torch.tensor(array, requires_grad=True) for array in (x, gain))
    theirs = torch.nn.functional.rms_norm(their_x, shape[-1:], their_gain, 1e-3)
    theirs.backward(torch.tensor(dy))
    for ours, expected in ((y, theirs.detach()), (dx, their_x.grad), (dgain, their_gain.grad)):
        assert np.abs(ours - expected.numpy()).max() <= 1e-12


SIZES = {"vocab_size": 101, "n_layer": 2, "n_head": 2, "n_embd": 16}
SAVED: dict[str, Callable[[Any, Path], Any]] = {
    "sharded": lambda theirs, folder: theirs.save_pretrained(folder, max_shard_size="10KB"),
    "half precision": lambda theirs, folder: theirs.half().save_pretrained(folder),
    "bfloat16": lambda theirs, folder: theirs.bfloat16().save_pretrained(folder),
    "double precision": lambda theirs, folder: theirs.double().save_pretrained(folder),
    "without head": lambda theirs, folder: theirs.transformer.save_pretrained(folder),
    "relu": lambda theirs, folder: theirs.save_pretrained(folder),
}


@pytest.mark.parametrize("kind", SAVED)
def test_however_they_are_saved(kind: str, torch: Any, transformers: Any, tmp_path: Path) -> None:
    theirs = make_theirs(transformers, torch, **SIZES, activation_function="relu" if kind == "relu" else "gelu_new")
    SAVED[kind](theirs, tmp_path)
    assert (tmp_path / model_folder.INDEX).exists() == (kind == "sharded")
    check_against(theirs.float(), tmp_path, torch)


def test_advice_on_pickles_helps(
    torch: Any, transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path /= "it's a $(folder)"
    tmp_path.mkdir()
    theirs = make_theirs(transformers, torch, **SIZES)
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle: to open it would run the code") as caught:
        model_folder.load(tmp_path)
    _, program, folder = shlex.split(str(caught.value).partition("python ")[2])
    monkeypatch.setattr(sys, "argv", ["-c", folder])
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    runpy.run_path(str(tmp_path / "program.py"))
    check_against(theirs, tmp_path, torch)


@pytest.mark.slow
@pytest.mark.parametrize("is_old", [False, True], ids=["tokenizer.json", "vocab.json and merges.txt"])
def test_from_their_folder_to_theirs_again(is_old: bool, torch: Any, transformers: Any, tmp_path: Path) -> None:  # noqa: FBT001
    """Prepare with their vocabulary, train from their weights, evaluate, generate; they open what comes of it."""
    folder = tmp_path / "theirs"
    theirs = make_theirs(transformers, torch, **SIZES | {"vocab_size": 290})
    theirs.save_pretrained(folder, max_shard_size="10KB")
    learnt = train(Counter(split(TEXT, [GPT2_PATTERN])), 290)
    model = learnt.to_json()["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *model["merges"], ""]), encoding="utf-8")
    if not is_old:
        transformers.GPT2Tokenizer.from_pretrained(folder).save_pretrained(folder)
        assert (folder / "tokenizer.json").exists()
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
    assert tokenizers.load(folder).encode(TEXT).tolist() == learnt.encode(TEXT).tolist()

    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    small = ("--steps", "3", "--block-size", "16", "--batch-size", "2", "--lanes", "1")
    for command in (
        ("prepare", "fox.txt", "--tokenizer", "theirs"),
        ("evaluate", "theirs", "--data", "data/fox"),
        ("generate", "theirs", "--tokens", "5"),
        ("train", "--init", "theirs", "--run", "runs/a", *small),
        ("generate", "--tokens", "5"),
    ):
        result = scratchgpt(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    folder = locate(tmp_path / "runs" / "a")
    again, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    ours = GPT(*load_ours(folder))
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("the quick brown fox", return_tensors="np").input_ids
    assert tokens[0].tolist() == learnt.encode("the quick brown fox").tolist()
    with torch.no_grad():
        expected = again(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(ours.logits(ours.hidden(tokens)) - expected).max() <= 1e-4


def test_a_character_vocabulary_that_they_have_saved(transformers: Any, tmp_path: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(save(tmp_path / "run").folder).save_pretrained(tmp_path / "theirs")
    assert difference(tokenizers.load(tmp_path / "theirs"), TOKENIZER) == ""


# ------------------------------------------------------------------------------------------- tokenizer


class Library(NamedTuple):
    """A tokenizer as another program has loaded it."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


@pytest.fixture(scope="module", params=["tokenizers", "transformers"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = save(tmp_path_factory.mktemp("run")).folder
    if request.param == "transformers":
        auto = request.getfixturevalue("transformers").AutoTokenizer.from_pretrained(folder)
        return Library(auto.encode, auto.decode)
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Library(lambda text: loaded.encode(text).ids, loaded.decode)


def check_text(library: Library, text: str) -> None:
    """Assert that a text's ids are ours, and that they give it back."""
    ids = library.encode(text)
    assert ids == TOKENIZER.encode(text).tolist()
    assert library.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_texts(library: Library, text: str) -> None:
    check_text(library, text)


@given(text=st.text(TOKENIZER.characters))
def test_any_text_of_known_characters(library: Library, text: str) -> None:
    check_text(library, text)


def test_unknown_characters_are_errors_there_too(library: Library) -> None:
    with pytest.raises(UsageError, match="'X'"):
        TOKENIZER.encode("two X")
    with pytest.raises(Exception, match=r"Missing .* token from the vocabulary"):
        library.encode("two X")
