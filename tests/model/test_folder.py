"""Models from elsewhere: what is the same opens, what computes something else or makes no sense is refused."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError
from scratchgpt.files import read_json, write_json
from scratchgpt.generation.decoder import Decoder
from scratchgpt.model import folder as model_folder
from scratchgpt.model import tensors
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import HEAD, TOKEN_TABLE, Layout
from tests.world import CPU

CONFIG = ModelConfig(vocab_size=11, block_size=7, n_layer=2, n_head=3, n_embd=12)
PARAMS = Layout(CONFIG).initial(1)
INNER = "transformer.h.1.mlp.c_fc.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model."""
    model_folder.save(tmp_path, CONFIG, PARAMS)
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    """Change config.json; None removes an entry."""
    content = read_json(folder / "config.json", CheckpointError) | changes
    write_json(folder / "config.json", {name: value for name, value in content.items() if value is not None})


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the weights' file: by what a function returns, or else does."""
    weights = load_file(folder / "model.safetensors")
    weights = change(weights) or weights
    tensors.save(folder / "model.safetensors", {name: np.ascontiguousarray(array) for name, array in weights.items()})


def divide(folder: Path) -> None:
    """Divide the weights among two files."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in sorted(set(places.values())):
        tensors.save(folder / file, {name: weights[name] for name, place in places.items() if place == file})
    write_json(folder / model_folder.INDEX, {"metadata": {}, "weight_map": places})


def assert_opens(folder: Path, config: ModelConfig = CONFIG) -> None:
    found, params = model_folder.load(folder)
    assert found == config
    assert params.tobytes() == PARAMS.tobytes()


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        model_folder.load(folder)
    return str(caught.value)


def test_weights_in_their_file_compute_the_same(folder: Path) -> None:
    config, parts = model_folder.load_parts(folder)
    assert not any(part.flags.owndata or part.flags.writeable for part in parts)
    there, copied = GPT(config, CPU, *parts), GPT(config, CPU, PARAMS)
    tokens = np.arange(7)[None] % 11
    assert np.array_equal(there.logits(there.hidden(tokens)), copied.logits(copied.hidden(tokens)))
    first, second = Decoder(there, 1), Decoder(copied, 1)
    for decoder in (first, second):
        decoder.cache.n_used = 1
        decoder.extend([0], tokens[:, :6])
    assert np.array_equal(first.step([3]), second.step([3]))


# ---------------------------------------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [
        ("scale_attn_by_inverse_layer_idx", False, True),
        ("scale_attn_weights", True, False),
        ("add_cross_attention", False, True),
    ],
)
def test_a_model_that_computes_otherwise_is_refused(name: str, usual: Any, other: Any, folder: Path) -> None:
    configure(folder, **{name: usual})
    assert_opens(folder)
    configure(folder, **{name: other})
    assert f"config.json cannot be used: {name} is {other}, and only " in refusal(folder)


def test_the_epsilon_of_the_norm(folder: Path) -> None:
    configure(folder, layer_norm_epsilon=1e-6)
    config = model_folder.load_config(folder / "config.json")
    assert config == dataclasses.replace(CONFIG, norm_epsilon=1e-6)
    model_folder.save(folder, config, PARAMS)
    assert model_folder.load_config(folder / "config.json") == config


def test_the_width_of_the_mlp(tmp_path: Path) -> None:
    """The usual width is null, as in GPT-2's own files, whichever way it was asked for."""
    for n_inner, written in ((0, None), (48, None), (17, 17)):
        config = dataclasses.replace(CONFIG, n_inner=n_inner)
        model_folder.save(tmp_path, config, Layout(config).initial(1))
        assert read_json(tmp_path / "config.json", CheckpointError)["n_inner"] == written
        found, params = model_folder.load(tmp_path)
        assert found == config
        assert params.tobytes() == Layout(config).initial(1).tobytes()
    configure(tmp_path, n_inner=18)
    assert "is of the shape (12, 17), not (12, 18)" in refusal(tmp_path)


def test_what_is_not_said_is_as_in_transformers(folder: Path) -> None:
    names = ("model_type", "n_inner", "activation_function", "resid_pdrop", "tie_word_embeddings", "layer_norm_epsilon")
    configure(folder, **dict.fromkeys((*names, "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "bias")))
    assert_opens(folder, ModelConfig(**(vars(CONFIG) | {"dropout": 0.1})))
    write_json(folder / "config.json", {"n_ctx": 1024})
    config = model_folder.load_config(folder / "config.json")
    gpt2: dict[str, Any] = {"vocab_size": 50257, "block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}
    assert config == ModelConfig(**gpt2, dropout=0.1)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_one_function_has_several_names(name: str, folder: Path) -> None:
    configure(folder, activation_function=name)
    assert_opens(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_type", "llama", "a model of the type 'llama'; known types: gpt2, scratchgpt."),
        ("model_type", "gpt-2", "a model of the type 'gpt-2' (did you mean 'gpt2'?); known types: gpt2, scratchgpt."),
        ("model_type", ["gpt2"], "a model of the type ['gpt2']"),
        (
            "activation_function",
            "gelu",
            "activation_function is 'gelu', and only gelu_new, gelu_pytorch_tanh, ",
        ),
        ("activation_function", ["gelu"], "activation_function is ['gelu'], and only "),
        ("n_layer", "2", "n_layer must be of type int"),
        ("n_head", 5, "12 is not divisible by 5"),
        ("layer_norm_epsilon", 0.0, "norm_epsilon must be above 0"),
        ("layer_norm_epsilon", "small", "norm_epsilon must be of type float"),
        ("n_embd", 0, "n_embd must be at least 1"),
        ("n_inner", "wide", "n_inner must be of type int"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings must be of type bool"),
    ],
)
def test_a_config_that_cannot_be_used(name: str, value: Any, message: str, folder: Path) -> None:
    configure(folder, **{name: value})
    assert message in refusal(folder)


@pytest.mark.parametrize("sizes", [{"n_embd": 2**20 * 3}, {"vocab_size": 2**30}, {"n_layer": 999}])
def test_sizes_that_are_not_those_of_the_tensors(sizes: dict[str, int], folder: Path) -> None:
    """Nothing of such a size is made."""
    configure(folder, **sizes)
    assert "not" in refusal(folder)


# --------------------------------------------------------------------------------------------------- weights


def test_files_that_others_write(folder: Path) -> None:
    rewrite(folder, lambda weights: {name.removeprefix("transformer."): array for name, array in weights.items()})
    assert_opens(folder)
    rewrite(
        folder,
        lambda weights: weights.update(
            {"h.0.attn.bias": np.tri(7, dtype=np.uint8), "h.1.attn.masked_bias": np.array(-1e4, np.float32)}
        ),
    )
    assert_opens(folder)
    divide(folder)
    assert_opens(folder)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions(dtype: Any, folder: Path) -> None:
    rewrite(folder, lambda weights: {name: array.astype(dtype) for name, array in weights.items()})
    assert np.array_equal(model_folder.load(folder)[1], PARAMS.astype(dtype).astype(np.float32))


def test_a_head_of_its_own_and_one_that_is_the_table(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")[TOKEN_TABLE]
    rewrite(folder, lambda weights: weights.update({HEAD: table}))
    assert_opens(folder)
    rewrite(folder, lambda weights: weights.update({HEAD: table + 1}))
    assert "lm_head.weight is not transformer.wte.weight, though" in refusal(folder)
    configure(folder, tie_word_embeddings=False)
    config, params = model_folder.load(folder)
    assert np.array_equal(Layout(config).views(params)[HEAD], table + 1)
    rewrite(folder, lambda weights: weights.pop(HEAD) is None)
    assert "missing lm_head.weight; unexpected nothing" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(INNER) is None, f"missing {INNER}; unexpected nothing"),
        (lambda w: w.update({"h.9.ln_1.bias": w[INNER]}), "missing nothing; unexpected transformer.h.9.ln_1.bias"),
        (lambda w: w.update({"lm_head.bias": w[INNER]}), "missing nothing; unexpected lm_head.bias"),
        (lambda w: w.update({INNER: w[INNER].T}), rf"{INNER} is of the shape (48, 12), not (12, 48)"),
        (lambda w: w.update({INNER: w[INNER] * np.nan}), f"{INNER} holds numbers that are not finite"),
        (lambda w: w.update({INNER: w[INNER].astype(float) + 1e300}), f"{INNER} holds numbers that are not finite"),
        (lambda w: w.update({INNER: w[INNER].astype(np.int8)}), f"{INNER} is I8; only F64, F32, F16, BF16"),
        (lambda w: w.update({"wte.weight": w[TOKEN_TABLE]}), f"holds {TOKEN_TABLE}, which is there already"),
    ],
)
def test_weights_that_do_not_fit(change: Callable[[dict[str, Any]], Any], message: str, folder: Path) -> None:
    rewrite(folder, change)
    assert message in refusal(folder)


def test_huge_numbers_are_numbers(folder: Path) -> None:
    """Their squares are not."""
    rewrite(folder, lambda weights: weights.update({INNER: np.full_like(weights[INNER], 1e30)}))
    assert model_folder.load(folder)[1].max() == np.float32(1e30)


@pytest.mark.parametrize(
    "place", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a.bin", "", 3, None]
)
def test_an_index_that_points_elsewhere(place: Any, folder: Path) -> None:
    divide(folder)
    write_json(folder / model_folder.INDEX, {"weight_map": {TOKEN_TABLE: place}})
    message = refusal(folder)
    assert f"{model_folder.INDEX} names {place!r}, which is no safetensors file of this folder" in message


def test_an_index_that_makes_no_sense(folder: Path) -> None:
    divide(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "Cannot read" in refusal(folder)
    contents: list[dict[str, Any]] = [{}, {"weight_map": {}}, {"weight_map": [1]}]
    for content in contents:
        write_json(folder / model_folder.INDEX, content)
        assert "it has no weight_map" in refusal(folder)
    (folder / model_folder.INDEX).write_text("[", encoding="utf-8")
    assert "is damaged" in refusal(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights, neither model.safetensors nor model.safetensors.index.json." in refusal(folder)
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x02.")
    message = refusal(folder)
    assert "pytorch_model-00001-of-00002.bin is a pickle: to open it would run the code" in message
    _, program, named = shlex.split(message.partition("python ")[2])
    assert named == folder.as_posix()
    compile(program, "advice", "exec")
