"""Formats: which architectures they hold, and where their tensors belong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.model import folder as model_folder
from scratchgpt.model import formats
from scratchgpt.model.formats.base import Known, require_known
from scratchgpt.model.params import Layout

CONFIG = ModelConfig(vocab_size=11, block_size=7, n_layer=2, n_head=3, n_embd=12)
GPT2, OWN = formats.FORMATS["gpt2"], formats.FORMATS["scratchgpt"]

KINDS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"tie_word_embeddings": False, "activation": "relu"},
    {"bias": False, "head_bias": True, "n_inner": 17, "norm_epsilon": 0.1, "dropout": 0.5},
]


def test_formats_are_found_by_their_type() -> None:
    assert all(name == known.model_type for name, known in formats.FORMATS.items())
    assert model_folder.DEFAULT_TYPE in formats.FORMATS


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_architecture_survives_its_format(kind: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **kind)
    known = formats.format_for(config)
    content = known.to_json(config, (3,))
    assert content["model_type"] == known.model_type
    assert known.from_json(content) == config


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_parameter_has_one_place(kind: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **kind)
    places = formats.format_for(config).places(config)
    leaves = {leaf.name: leaf.shape for leaf in Layout(config).leaves}
    assert {place.leaf: place.shape for place in places.values() if place.leaf and not place.is_copy} == leaves
    assert sum(bool(place.leaf) and not place.is_copy for place in places.values()) == len(leaves)
    assert {place.leaf for place in places.values() if place.is_copy} <= leaves.keys()


@pytest.mark.parametrize(
    ("kind", "known", "parts"),
    [
        ({"activation": "relu"}, {}, "activation: relu"),
        ({"activation": "relu"}, {"activation": ("gelu_new",)}, "activation: relu"),
        ({}, {"activation": ("relu",)}, "activation: gelu_new"),
        ({"head_bias": True, "bias": False}, {"bias": (True,)}, "bias: false, head_bias: true"),
        ({}, {"norm": ("rmsnorm",)}, "norm: layernorm"),
    ],
)
def test_parts_that_cannot_be_held_are_named(kind: dict[str, Any], known: Known, parts: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_known(dataclasses.replace(CONFIG, **kind), known, "A file", "; use another")
    assert str(caught.value) == f"A file cannot hold this model's {parts}; use another."
    require_known(CONFIG, {}, "A file")


def test_a_model_that_no_format_can_hold_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, activation="relu", bias=False)
    less = GPT2._replace(model_type="less", known={})
    more = GPT2._replace(model_type="more", known={"bias": (True, False)})
    monkeypatch.setattr(formats, "FORMATS", {"less": less, "more": more})
    with pytest.raises(UsageError, match=r"^The format of more cannot hold this model's activation: relu\.$"):
        model_folder.save(tmp_path, config, Layout(config).initial(1))
    assert not any(tmp_path.iterdir())


def test_a_format_that_forgets_a_number_cannot_hold_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = GPT2._replace(to_json=lambda config, ends: GPT2.to_json(config, ends) | {"n_inner": None})
    monkeypatch.setattr(formats, "FORMATS", {"gpt2": forgetful})
    assert formats.format_for(CONFIG) is forgetful
    with pytest.raises(UsageError, match=r"cannot hold this model's n_inner: 17\.$"):
        formats.format_for(dataclasses.replace(CONFIG, n_inner=17))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_our_own_format_holds_every_architecture(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, **kind)
    monkeypatch.setattr(formats, "FORMATS", {"scratchgpt": OWN})
    params = Layout(config).initial(1)
    model_folder.save(tmp_path, config, params, (3, 4))
    loaded, numbers = model_folder.load(tmp_path)
    assert loaded == config
    assert np.array_equal(numbers, params)
    assert model_folder.end_tokens(tmp_path, 11) == (3, 4)


def test_our_own_format_of_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the setting that this version does not know, or its value."""
    monkeypatch.setattr(formats, "FORMATS", {"scratchgpt": OWN})
    model_folder.save(tmp_path, CONFIG, Layout(CONFIG).initial(1))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for change, reason in (
        ({"n_kv_head": 1}, r"There is no setting 'n_kv_head' \(did you mean 'n_head'\?\)"),
        ({"norm": "layernorm2"}, r"norm must be .*, not 'layernorm2' \(did you mean 'layernorm'\?\)"),
    ):
        path.write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(CheckpointError, match=reason):
            model_folder.load(tmp_path)


def test_what_other_programs_open_comes_first() -> None:
    assert list(formats.FORMATS) == ["gpt2", "scratchgpt"]
    assert formats.format_for(CONFIG) is GPT2


def test_names_in_files() -> None:
    assert GPT2.name_of("h.0.attn.c_attn.bias") == "transformer.h.0.attn.c_attn.bias"
    assert GPT2.name_of("lm_head.weight") == "lm_head.weight"
    assert GPT2.name_of("h.0.attn.bias") is None
    assert GPT2.name_of("transformer.h.10.attn.masked_bias") is None


def test_zeros_stand_for_biases(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, bias=False)
    model_folder.save(tmp_path, config, Layout(config).initial(1))
    _, places, found = model_folder.find(tmp_path)
    missing = [name for name, place in places.items() if place.leaf is None]
    assert len(missing) == 2 * 6 + 1
    assert all(not np.any(found[name].numbers()) for name in missing)
