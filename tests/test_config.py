"""Configurations: what cannot be meant is refused in a sentence; presets are what they claim to be."""

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.config import (
    ModelConfig,
    TrainConfig,
    load_config,
    load_preset,
    load_recipe,
    preset_names,
    read_setting,
)
from scratchgpt.errors import UsageError
from scratchgpt.files import read_json
from scratchgpt.ops.sublayers import ACTIVATIONS

MODEL = {"vocab_size": 65, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
TRAIN = {"steps": 10, "batch_size": 4, "learning_rate": 1e-3}

DESIGN = {  # T, C, H, L, B, biases, dropout, steps, peak learning rate, final / peak, warm-up, beta2
    "shakespeare-cpu": (64, 128, 4, 4, 12, False, 0.0, 2000, 3e-3, 0.1, 100, 0.99),
    "rusted": (64, 128, 4, 3, 32, True, 0.0, 15000, 1e-3, 1, 0, 0.99),
    "rust512": (512, 256, 4, 8, 8, True, 0.0, 5000, 1e-3, 1, 0, 0.99),
    "gpt-nano": (128, 48, 3, 3, 8, True, 0.2, 2500, 1e-3, 1, 0, 0.99),
    "gpt-micro": (128, 128, 4, 4, 8, True, 0.2, 2500, 1e-3, 1, 0, 0.99),
    "gpt-mini": (128, 192, 6, 6, 8, True, 0.2, 2500, 1e-3, 1, 0, 0.99),
    "baby-gpt": (256, 384, 6, 6, 64, False, 0.2, 5000, 1e-3, 0.1, 100, 0.99),
    "gpt2": (1024, 768, 12, 12, 480, True, 0.0, 600000, 6e-4, 0.1, 2000, 0.95),
    "gpt2-medium": (1024, 1024, 16, 24, 480, True, 0.0, 600000, 6e-4, 0.1, 2000, 0.95),
    "gpt2-large": (1024, 1280, 20, 36, 480, True, 0.0, 600000, 6e-4, 0.1, 2000, 0.95),
    "gpt2-xl": (1024, 1600, 25, 48, 480, True, 0.0, 600000, 6e-4, 0.1, 2000, 0.95),
}


def test_there_are_just_these_presets() -> None:
    assert set(preset_names()) == set(DESIGN)


@pytest.mark.parametrize("name", DESIGN)
def test_presets_hold_what_the_documentation_says(name: str) -> None:
    preset = load_preset(name)
    model = ModelConfig.from_mapping({"vocab_size": 65} | dict(preset.model))
    train = TrainConfig.from_mapping(preset.train)
    assert DESIGN[name] == (
        *(model.block_size, model.n_embd, model.n_head, model.n_layer, train.batch_size, model.bias, model.dropout),
        *(train.steps, train.learning_rate, train.min_lr_ratio, train.warmup_steps, train.beta2),
    )
    assert (train.beta1, train.weight_decay, train.grad_clip) == (0.9, 0.1, 1.0)
    assert (model.activation, model.tie_word_embeddings) == ("gelu_new", True)
    assert ("vocab_size" in preset.model) == name.startswith("gpt2")


def test_every_field_has_help() -> None:
    for record in (ModelConfig, TrainConfig):
        assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(record))


def test_every_activation_can_be_configured() -> None:
    for activation in ACTIVATIONS:
        assert ModelConfig.from_mapping(MODEL | {"activation": activation}).activation == activation


def test_widths() -> None:
    model = ModelConfig.from_mapping(MODEL)
    assert (model.head_size, model.qkv_size, model.inner_size) == (8, 48, 64)
    assert ModelConfig.from_mapping(MODEL | {"n_inner": 17}).inner_size == 17
    assert ModelConfig.from_mapping(MODEL | {"n_inner": 64}) == model


@pytest.mark.parametrize(("asked", "is_right"), [(0, True), (64, True), (17, False)])
def test_the_usual_width_of_an_mlp_may_be_asked_for_in_two_ways(asked: int, *, is_right: bool) -> None:
    recipe = load_recipe(None, None).changed({"n_inner": asked}, "--n-inner")
    model = ModelConfig.from_mapping(MODEL)
    with (
        contextlib.nullcontext() if is_right else pytest.raises(UsageError, match="n_inner is 17 by --n-inner, but 64")
    ):
        assert recipe.for_weights(model, "--init").of(ModelConfig)["n_inner"] == 64


def test_a_whole_number_will_do_for_a_fraction() -> None:
    config = TrainConfig.from_mapping(TRAIN | {"learning_rate": 1})
    assert (config.learning_rate, type(config.learning_rate)) == (1.0, float)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_head": 3}, "16 is not divisible by 3"),
        ({"n_layer": 0}, "n_layer must be at least 1 and below 1001, not 0"),
        ({"n_embd": -16}, "n_embd must be at least 1"),
        ({"n_inner": -1}, "n_inner must be at least 0"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"block_size": 8.0}, r"block_size must be of type int, not 8\.0"),
        ({"n_head": True}, "n_head must be of type int, not True"),
        ({"bias": 1}, "bias must be of type bool, not 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below"),
        ({"dropout": float("nan")}, "finite"),
        ({"activation": "swish"}, "gelu_new or relu"),
        ({"n_hed": 2}, r"'n_hed' \(did you mean 'n_head'\?\)"),
    ],
)
def test_impossible_models(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ModelConfig.from_mapping(MODEL | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": -1}, "batch_size"),
        ({"micro_batch": -1}, "micro_batch"),
        ({"order": "backwards"}, "order must be random or sequential, not 'backwards'"),
        ({"optimizer": "adam"}, r"optimizer must be adamw, not 'adam' \(did you mean 'adamw'\?\)"),
        ({"adam_epsilon": 0.0}, "adam_epsilon must be at least 1e-30, not 0.0"),
        ({"within_documents": "yes"}, "within_documents must be of type bool, not 'yes'"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"learning_rate": "fast"}, "of type float, not 'fast'"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"min_lr_ratio": 1.5}, "between 0 and 1"),
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1"),
        ({"beta2": -0.1}, "beta2"),
        ({"seed": 2**63}, "seed"),
        ({"keep": 0}, "keep"),
        ({"warmup_steps": 10**30}, "warmup_steps must be at least 0 and below 2147483648"),
        ({"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ({"freeze": "transformer.wte.*"}, "freeze must be a list of patterns"),
        ({"freeze": ["a\nb"]}, "freeze must be a list of patterns"),
    ],
)
def test_impossible_recipes(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        TrainConfig.from_mapping(TRAIN | change)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="'n_embd' is missing"):
        ModelConfig.from_mapping({name: value for name, value in MODEL.items() if name != "n_embd"})


def test_unknown_presets_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'gpt-mini'.*shakespeare-cpu"):
        load_preset("gpt-mimi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("step = 3\n", "wrong.toml: there is no setting 'step' (did you mean 'steps'?)"),
        ("steps = 3\n[train]\nsteps = 4\n", "wrong.toml: steps is there twice, also in [train]; remove one of them."),
        ("steps = 3\ntrain = 4\n", "wrong.toml: train must be a table"),
        ("[n_layer]\n", "wrong.toml: there is no table [n_layer]"),
        ("[trian]\n", "wrong.toml: there is no table [trian] (did you mean 'train'?)"),
        ("[train]\nlearning_rat = 1\n", "in [train] (did you mean 'learning_rate'?)"),
        ("[train]\nn_layer = 1\n", "there is no setting 'n_layer' in [train]: it belongs into [model]"),
        ("[train]\nsteps = 'many'\n", "wrong.toml: steps must be of type int, not 'many'"),
        ("[train]\nfreeze = 'x'\n", """wrong.toml: freeze must be a list of patterns, such as ["transformer.h.0.*"]"""),
        ("[train\n", "wrong.toml is no TOML"),
        ("train = 3\n", "train must be a table"),
        ("[train]\nsteps = 1\nsteps = 2\n", "wrong.toml is no TOML"),
        ("a = " + "[" * 99_999, "wrong.toml is no TOML"),
        ("# \udcff", "wrong.toml is no TOML"),
    ],
)
def test_files_that_cannot_be_meant(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=re.escape(reason)):
        load_config(tmp_path / "wrong.toml")


@pytest.mark.parametrize(
    ("text", "model", "train"),
    [
        ("steps = 3\n", {}, {"steps": 3}),
        ("n_layer = 2\nsteps = 3\n", {"n_layer": 2}, {"steps": 3}),
        ("n_layer = 2\n[train]\nsteps = 3\n", {"n_layer": 2}, {"steps": 3}),
        ("learning_rate = 1\n[model]\nbias = true\n", {"bias": True}, {"learning_rate": 1.0}),
        ("# nothing\n", {}, {}),
    ],
)
def test_settings_need_no_table(text: str, model: dict[str, Any], train: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "mine.toml") == (model, train)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Cannot read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=3", ("steps", 3)),
        ("learning_rate=1", ("learning_rate", 1.0)),
        ("bias=false", ("bias", False)),
        ("bias=False", ("bias", False)),
        ("bias=TRUE", ("bias", True)),
        ("bias=no", ("bias", False)),
        ("bias=on", ("bias", True)),
        ("learning_rate=.001", ("learning_rate", 0.001)),
        ("learning_rate=1.", ("learning_rate", 1.0)),
        ("learning_rate=1.e-3", ("learning_rate", 0.001)),
        ("learning_rate= +.5", ("learning_rate", 0.5)),
        ("steps=1_000", ("steps", 1000)),
        ("steps=007", ("steps", 7)),
        ("steps=0x10", ("steps", 16)),
        ("order=sequential", ("order", "sequential")),
        ("order='sequential'", ("order", "sequential")),
        ("freeze=['a', 'b']", ("freeze", ("a", "b"))),
        ("freeze=[]", ("freeze", ())),
    ],
)
def test_settings_are_toml_or_a_word(text: str, expected: tuple[str, Any]) -> None:
    assert read_setting(text) == expected
    assert type(read_setting(text)[1]) is type(expected[1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps", "KEY=VALUE, not 'steps'"),
        ("step=3", "no setting 'step' (did you mean 'steps'?)"),
        ("steps=3.5", "steps must be of type int, not 3.5"),
        ("learning_rate=1" + "0" * 400, "learning_rate must be a finite number"),
        ("freeze=" + "[" * 9999, "freeze must be a list of patterns"),
        ("steps=many", "steps must be of type int, not 'many'"),
        ("learning_rate=nan", "learning_rate must be a finite number"),
        ("bias=none", "bias must be of type bool, not 'none'"),
        ("bias=1", "bias must be of type bool, not 1"),
        ("bias='no'", "bias must be of type bool, not 'no'"),
        ("learning_rate='.1'", "learning_rate must be of type float, not '.1'"),
        ("steps=1.", "steps must be of type int, not '1.'"),
        ("learning_rate=inf", "learning_rate must be a finite number"),
        ("learning_rate=1.2.3", "learning_rate must be of type float, not '1.2.3'"),
        ("freeze=a", "freeze must be a list of patterns"),
        ("vocab_size=9", "it is the data's"),
    ],
)
def test_settings_that_cannot_be_meant(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        read_setting(text)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be with a mark"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_any_editor(tmp_path: Path, encoding: str, newline: str) -> None:
    name, _, mark = encoding.partition(" ")
    text = newline.join(["# Größe €", "[train]", "steps = 3", ""])
    (tmp_path / "a.toml").write_bytes((("\ufeff" if mark else "") + text).encode(name))
    assert load_config(tmp_path / "a.toml").train == {"steps": 3}
    text = newline.join(["{", '"Größe": "€"', "}"])
    (tmp_path / "a.json").write_bytes((("\ufeff" if mark else "") + text).encode(name))
    assert read_json(tmp_path / "a.json", UsageError) == {"Größe": "€"}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe[\x00t",
        b"\xef\xbb\xbf\xff",
        b"\xff\xfe\x00\xd8",
        b"\xff\xfe\x00\x00[",
        b"[train]\n#\xe9",
        b"\xfe\xff\x00",
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.toml is no TOML"):
        load_config(tmp_path / "a.toml")
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.json is"):
        read_json(tmp_path / "a.json", UsageError)
