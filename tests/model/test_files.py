"""Models from elsewhere: what has the same tensors and computes something else is refused."""

from pathlib import Path

import pytest

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError
from scratchgpt.files import read_json, write_json
from scratchgpt.model import files
from scratchgpt.model.params import Layout

CONFIG = ModelConfig(vocab_size=11, block_size=7, n_layer=2, n_head=3, n_embd=12)


@pytest.mark.parametrize(("name", "usual"), [("scale_attn_by_inverse_layer_idx", False), ("scale_attn_weights", True)])
def test_a_model_that_computes_otherwise_is_refused(name: str, *, usual: bool, tmp_path: Path) -> None:
    files.save(tmp_path, CONFIG, Layout(CONFIG).initial(1))
    content = read_json(tmp_path / "config.json", CheckpointError)
    write_json(tmp_path / "config.json", content | {name: usual})
    assert files.load(tmp_path)[0] == CONFIG
    write_json(tmp_path / "config.json", content | {name: not usual})
    with pytest.raises(CheckpointError, match=f"whose {name} is {not usual} cannot be used"):
        files.load(tmp_path)
