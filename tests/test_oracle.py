"""Other programs open our checkpoints as they are: PyTorch computes the same, `tokenizers` gives the same ids.

Nothing is fetched: a checkpoint folder holds all that `transformers` asks for.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer import CharTokenizer, difference
from scratchgpt.training.checkpoint import Checkpoints, fresh, read_model
from tests.world import CPU, QUICK, make_dataset

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
    folder = Checkpoints(run).save(snapshot, dataset.tokenizer)
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


def test_a_model_of_theirs_can_be_gone_on_from(torch: Any, transformers: Any, tmp_path: Path) -> None:
    """What `save_pretrained` writes is read as it is."""
    sizes = {"vocab_size": TOKENIZER.vocab_size, "n_positions": 16, "n_layer": 2, "n_head": 3, "n_embd": 24}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(save(tmp_path / "run").folder).save_pretrained(tmp_path / "theirs")
    config, params, tokenizer = read_model(tmp_path / "theirs")
    assert difference(tokenizer, TOKENIZER) == ""
    tokens = np.random.default_rng(1).integers(TOKENIZER.vocab_size, size=(2, 16))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(tokens)).logits.numpy()
    ours = GPT(config, CPU, params)
    assert np.abs(ours.logits(ours.hidden(tokens)) - expected).max() <= 1e-4


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
