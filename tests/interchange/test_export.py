"""Files for other programs: what they compute from them is what we compute, and their ids are ours."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model import folder as model_folder
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.tokenizer import CharTokenizer, Tokenizer
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.patterns import split
from scratchgpt.tokenizer.splitting import GPT2_PATTERN
from tests.world import CPU, TEXT, scratchgpt

SIZES: dict[str, Any] = {"block_size": 16, "n_layer": 2, "n_head": 3, "n_embd": 24}
KINDS: list[dict[str, Any]] = [
    {},
    {"bias": False, "norm_epsilon": 0.1},
    {"tie_word_embeddings": False, "n_inner": 37},
    {"activation": "relu", "tie_word_embeddings": False, "head_bias": True},
    {"activation": "relu", "bias": False, "head_bias": True},
]
BPE = train(Counter(split(TEXT, [GPT2_PATTERN])), 290)
CHARACTERS = CharTokenizer(TEXT)

kinds = pytest.mark.parametrize(
    "kind", KINDS, ids=lambda kind: ",".join(f"{k}={v}" for k, v in kind.items()) or "GPT-2"
)


def make_model(tokenizer: Tokenizer = BPE, **kind: Any) -> GPT:
    """Return a small model; no bias is 0, no gain 1."""
    config = ModelConfig(**(SIZES | {"vocab_size": tokenizer.vocab_size} | kind))
    noise = np.random.default_rng(0).normal(scale=0.2, size=Layout(config).size)
    return GPT(config, CPU, (Layout(config).initial(0) + noise).astype(np.float32))


def save(folder: Path, tokenizer: Tokenizer = BPE, **kind: Any) -> GPT:
    """Save a small model and a vocabulary."""
    model = make_model(tokenizer, **kind)
    folder.mkdir(parents=True)
    model_folder.save(folder, model.config, model.params)
    tokenizers.save(tokenizer, folder)
    return model


def batch(model: GPT, B: int, T: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(B).integers(0, model.config.vocab_size, (B, T))


# ------------------------------------------------------------------------------------------------ ONNX


@pytest.mark.oracle
@kinds
def test_onnxruntime_computes_the_same(kind: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from scratchgpt.interchange import onnx as ours  # noqa: PLC0415 - only here is onnx known to be installed

    model = make_model(**kind)
    ours.write(tmp_path / "model.onnx", model.config, model.params)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for B, T in ((1, 1), (2, 7), (5, 16)):
        tokens = batch(model, B, T)
        (logits,) = session.run(None, {"input_ids": tokens})
        assert np.abs(logits - model.logits(model.hidden(tokens))).max() <= 1e-4
    with pytest.raises(Exception, match="ONNXRuntimeError"):  # more tokens than there are positions
        session.run(None, {"input_ids": batch(model, 1, 17)})


def test_weights_of_more_than_two_gigabytes_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("scratchgpt.interchange.onnx", reason="onnx is not installed")
    params = np.broadcast_to(np.float32(0), 2**29)
    with pytest.raises(UsageError, match=r"weights alone are 2\.1 GB; use --gguf"):
        onnx.write(tmp_path / "model.onnx", ModelConfig(vocab_size=5, **SIZES), params)


# ------------------------------------------------------------------------------------------------ GGUF


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    pytest.importorskip("gguf", reason="gguf is not installed")
    pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [*KINDS[:3], {"block_size": 1024}], ids=str)
def test_transformers_computes_the_same_from_gguf(kind: dict[str, Any], transformers: Any, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415 - only here is it known to be installed

    from scratchgpt.interchange import gguf  # noqa: PLC0415 - the same

    model = make_model(**kind)
    assert gguf.write(tmp_path / "model.gguf", model.config, model.params, BPE)
    told = {} if model.config.block_size == 1024 else {"n_positions": 16}
    told |= {"n_inner": model.config.n_inner} if model.config.n_inner else {}
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, gguf_file="model.gguf", **told)
    for B, T in ((1, 1), (3, 16)):
        tokens = batch(model, B, T)
        with torch.no_grad():
            logits = theirs(torch.tensor(tokens)).logits.numpy()
        assert np.abs(logits - model.logits(model.hidden(tokens))).max() <= 1e-4


@pytest.mark.oracle
def test_transformers_gives_the_same_ids_from_gguf(transformers: Any, tmp_path: Path) -> None:
    save(tmp_path / "model")
    result = scratchgpt("export", "model", "--gguf", "model.gguf", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "from_pretrained(..., gguf_file=..., n_positions=16)" in result.stdout
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (TEXT, "", "  naïve\t\r\n— 中文 😀 don't 1234 <|endoftext|> x"):
        ids = BPE.encode(text, special=True).tolist()
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == text


def test_the_width_of_the_mlp_is_in_gguf(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    save(tmp_path / "model", n_inner=37)
    result = scratchgpt("export", "model", "--gguf", "model.gguf", cwd=tmp_path)
    assert "gguf_file=..., n_positions=16, n_inner=37)" in result.stdout
    assert gguf.GGUFReader(tmp_path / "model.gguf").get_field("gpt2.feed_forward_length").contents() == 37


def test_a_vocabulary_that_gguf_does_not_know_is_left_out(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    model = save(tmp_path / "model", CHARACTERS)
    result = scratchgpt("export", "model", "--gguf", "model.gguf", cwd=tmp_path)
    assert "The vocabulary is not in it" in result.stdout
    assert f"n_positions=16, vocab_size={CHARACTERS.vocab_size})" in result.stdout
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.get_field("tokenizer.ggml.model").contents() == "none"
    assert reader.get_field("gpt2.vocab_size").contents() == CHARACTERS.vocab_size
    assert reader.get_field("tokenizer.ggml.tokens") is None
    (table,) = [tensor.data for tensor in reader.tensors if tensor.name == "token_embd.weight"]
    assert np.array_equal(table, model.tree.embed.token_table)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ({"activation": "relu"}, r"cannot hold this model's activation: relu; use --onnx instead\."),
        ({"norm": "rmsnorm"}, r"cannot hold this model's norm: rmsnorm\."),
        ({"head_bias": True}, r"cannot hold this model's head_bias: true; use --onnx instead\."),
    ],
    ids=str,
)
def test_what_gguf_cannot_hold_is_refused(kind: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from scratchgpt.interchange import gguf  # noqa: PLC0415 - the same

    model = make_model(**kind)
    with pytest.raises(UsageError, match=sentence):
        gguf.write(tmp_path / "model.gguf", model.config, model.params, BPE)
    assert not any(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- the command


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    save(tmp_path / "model")
    (tmp_path / "model.gguf").write_bytes(b"mine")
    result = scratchgpt("export", "model", "--gguf", "model.gguf", cwd=tmp_path)
    assert result.returncode == 1
    assert "model.gguf is there already; use --force" in result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == b"mine"
    result = scratchgpt("export", "model", "--gguf", "other.gguf", "--onnx", "model.gguf", cwd=tmp_path)
    assert (result.returncode, result.stdout, (tmp_path / "other.gguf").exists()) == (1, "", False)
    assert scratchgpt("export", "model", "--gguf", "model.gguf", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.gguf"}


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_a_missing_package_is_named(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / f"{kind}.py").write_text("raise ImportError", encoding="utf-8")
    result = scratchgpt("export", "model", f"--{kind}", "file", cwd=tmp_path)
    assert result.returncode == 2
    assert f"pip install 'scratchgpt[{kind}]'" in result.stderr
    assert not (tmp_path / "file").exists()


def test_onnx_has_no_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    save(tmp_path / "model", head_bias=True)
    result = scratchgpt("export", "model", "--onnx", "sub/model.onnx", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "input_ids (B, T), int64, T up to 16 -> logits (B, T, 290). The vocabulary stays" in result.stdout
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["model.onnx"]


def test_a_format_must_be_named(tmp_path: Path) -> None:
    result = scratchgpt("export", cwd=tmp_path)
    assert result.returncode == 2
    assert "Say what to write: --gguf FILE, or --onnx FILE." in result.stderr
