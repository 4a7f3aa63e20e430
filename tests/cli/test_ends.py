"""Where texts end, by whatever name and in whatever file; names of special tokens in prompts; marks before texts."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scratchgpt import tokenizer as tokenizers
from scratchgpt.cli import decode, encode, export, generate, train
from scratchgpt.config import ModelConfig
from scratchgpt.data.prepare import prepare
from scratchgpt.data.vocabulary import Given
from scratchgpt.errors import CheckpointError
from scratchgpt.generation import draws
from scratchgpt.model import folder as model_folder
from scratchgpt.model.params import HEAD_BIAS, Layout
from scratchgpt.serving.served import Served
from scratchgpt.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer
from scratchgpt.tokenizer.added import Added
from scratchgpt.tokenizer.bpe_training import train as learn
from scratchgpt.training import checkpoint
from scratchgpt.training.locate import locate

BYTES = learn({}, 257)
NAMES = ["</s>", "[PAD]", "<|im_end|>", "<eos>", "<｜end▁of▁sentence｜>"]
VOCABULARY = BPETokenizer(
    [*BYTES.tokens, *(name.encode("utf-8") for name in NAMES)],
    [],
    added=[*BYTES.added, *(Added(name, 257 + number) for number, name in enumerate(NAMES))],
)
ID = VOCABULARY.special


def make(folder: Path, ends: Any, likely: int, *, vocabulary: Tokenizer = VOCABULARY, **files_beside: Any) -> Path:
    """Write a model that says `likely` nearly always, and in its config.json what ends its texts."""
    folder.mkdir()
    config = ModelConfig(vocab_size=vocabulary.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=8, head_bias=True)
    params = Layout(config).initial(1)
    Layout(config).views(params)[HEAD_BIAS][likely] = 50
    model_folder.save(folder, config, params)
    tokenizers.save(vocabulary, folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(content | {"eos_token_id": ends}), encoding="utf-8")
    for name, beside in files_beside.items():
        (folder / f"{name}.json").write_text(json.dumps(beside), encoding="utf-8")
    return folder


def run(command: Any, *arguments: Any, data: bytes | None = None) -> Any:
    result = CliRunner().invoke(command, list(map(str, arguments)), input=data, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def generated(folder: Path, *options: Any) -> dict[str, Any]:
    given = ("--prompt", "a", "--tokens", 3, "--json", *options)
    return dict(json.loads(run(generate.command, folder, *given).stdout))


@pytest.mark.parametrize("name", NAMES)
def test_a_special_token_by_its_name(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "m", None, ID[name])
    assert generated(folder)["tokens"] == [ID[name]] * 3
    record = generated(folder, "--stop-token", name)
    assert (record["end"], record["tokens"], record["text"]) == ("token", [], "")


@pytest.mark.parametrize(
    ("ends", "beside", "expected"),
    [
        (ID["</s>"], {}, [ID["</s>"]]),
        ([0, ID["<eos>"]], {}, [0, ID["<eos>"]]),
        (None, {"generation_config": {"eos_token_id": ID["[PAD]"]}}, [ID["[PAD]"]]),
        (0, {"generation_config": {"eos_token_id": [ID["[PAD]"], 0]}}, [ID["[PAD]"], 0]),
        (0, {"generation_config": {"temperature": 1}}, [0]),
        (50256, {}, []),  # no token of this vocabulary
        (None, {}, []),
    ],
)
def test_texts_end_as_the_model_says(ends: Any, beside: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    for number, likely in enumerate([*expected, 100]):
        folder = make(tmp_path / str(number), ends, likely, **beside)
        record = generated(folder)
        assert record["end"] == ("token" if likely in expected else "length")
        assert record["tokens"] == ([] if likely in expected else [likely] * 3)
        assert generated(folder, "--ignore-eos")["tokens"] == [likely] * 3
        assert generated(folder, "--ignore-eos", "--stop-token", "z")["tokens"] == [likely] * 3
        config, _, vocabulary = checkpoint.open_model(folder)
        served = Served("m", config, vocabulary, model_folder.end_tokens(folder, config.vocab_size))
        assert served.ends == frozenset(expected or [0])  # as it was before, for a vocabulary with <|endoftext|>
        assert vocabulary.special[str(served.tokenizer_info.eos_token)] in served.ends


@pytest.mark.parametrize("ends", ["</s>", True, [1, None], {"id": 1}, 1.5])
def test_ends_that_are_no_ids(ends: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "m", ends, 100)
    with pytest.raises(CheckpointError, match=r"config.json: its eos_token_id .* is neither an id nor a list of ids"):
        model_folder.end_tokens(folder, 300)


def test_what_a_config_does_not_say_is_gpt2s_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert model_folder.end_tokens(tmp_path, 50257) == (50256,)
    assert model_folder.end_tokens(tmp_path, 300) == ()


def trained(folder: Path, texts: list[str], *options: Any) -> Path:
    """Train two steps on documents, and return the run."""
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
    prepare(folder / "texts.jsonl", folder / "data", vocabulary=Given(VOCABULARY))
    sizes = ("--block-size", 8, "--n-layer", 1, "--n-head", 1, "--n-embd", 8)
    how = ("--steps", 2, "--lanes", 1, "--no-tune", "--quiet", "--eval-windows", 1)
    options = options or sizes
    run(train.command, "--data", folder / "data", "--run", folder / "run", *how, *options)
    return folder / "run"


def said(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return dict(json.loads((locate(folder) / name).read_text(encoding="utf-8")))


def test_a_run_on_documents_knows_their_end(tmp_path: Path) -> None:
    several = trained(tmp_path / "several", ["the cat sat"] * 9)
    assert said(several)["eos_token_id"] == 0
    assert said(several, "tokenizer_config.json")["eos_token"] == END_OF_TEXT
    run(train.command, "--resume", several, "--steps", 3, "--quiet")
    assert said(several)["eos_token_id"] == 0
    one = trained(tmp_path / "one", ["the cat sat on the mat" * 9])
    assert said(one)["eos_token_id"] is None
    assert "eos_token" not in said(one, "tokenizer_config.json")


def test_a_run_from_other_weights_keeps_their_end(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", [ID["</s>"], ID["<eos>"]], 100)
    one = trained(tmp_path / "one", ["the cat sat on the mat" * 9], "--init", folder)
    assert said(one)["eos_token_id"] == [ID["</s>"], ID["<eos>"]]
    several = trained(tmp_path / "several", ["the cat sat"] * 9, "--init", folder)
    assert said(several)["eos_token_id"] == 0


def test_an_old_run_goes_on_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchgpt.data.dataset.Dataset.ends", lambda _: ())  # as runs were before
    old = trained(tmp_path / "old", ["the cat sat"] * 9)
    monkeypatch.undo()
    assert said(old)["eos_token_id"] is None
    run(train.command, "--resume", old, "--steps", 3, "--quiet")
    assert said(old)["eos_token_id"] is None


@pytest.mark.oracle
def test_exports_say_where_texts_end(tmp_path: Path) -> None:
    gguf, onnx = pytest.importorskip("gguf"), pytest.importorskip("onnx")
    vocabulary = BPETokenizer([*VOCABULARY.tokens, b"ab"], [(65, 66)], added=VOCABULARY.added)
    folder = tmp_path / "m"
    folder.mkdir()
    config = ModelConfig(vocab_size=vocabulary.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=8)
    model_folder.save(folder, config, Layout(config).initial(1), [ID["</s>"], 0])
    tokenizers.save(vocabulary, folder)
    run(export.command, folder, "--gguf", tmp_path / "m.gguf", "--onnx", tmp_path / "m.onnx")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == ID["</s>"]
    assert [(prop.key, prop.value) for prop in onnx.load(tmp_path / "m.onnx").metadata_props] == [
        ("eos_token_id", f"{ID['</s>']},0")
    ]


@pytest.mark.parametrize("name", [END_OF_TEXT, *NAMES])
def test_names_in_a_text_are_tokens_on_request(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "m", None, 100)
    seen: list[list[int]] = []

    def watched(model: Any, ids: list[int], *rest: Any, **how: Any) -> Any:
        seen.append(ids)
        return draws(model, ids, *rest, **how)

    monkeypatch.setattr("scratchgpt.generation.draws", watched)
    for options in ((), ("--special",)):
        run(generate.command, folder, "--prompt", f"a{name}b", "--tokens", 1, *options)
        expected = VOCABULARY.encode(f"a{name}b", special=bool(options)).tolist()
        assert seen.pop() == expected
        assert (ID[name] in expected) == bool(options)
        piped = run(encode.command, "--tokenizer", folder, *options, data=f"a{name}b".encode())
        assert piped.stdout.split() == [str(index) for index in expected]


@pytest.mark.parametrize(
    "mark",
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
    ids=lambda mark: mark[1],
)
@pytest.mark.parametrize("block", [1, 3, 2**18])
def test_marks_before_a_text(
    mark: tuple[bytes, str], block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked(text: str) -> bytes:
        return mark[0] + text.encode(mark[1])

    monkeypatch.setattr("scratchgpt.cli.options.BLOCK", block)
    folder = make(tmp_path / "m", None, 100)
    ids = VOCABULARY.encode("the café").tolist()
    assert run(decode.command, "--tokenizer", folder, data=marked(" ".join(map(str, ids)))).stdout == "the café"
    assert run(decode.command, "--tokenizer", folder, data=marked("")).stdout == ""
    (tmp_path / "prompt").write_bytes(marked("the café"))
    record = json.loads(
        run(generate.command, folder, "--prompt-file", tmp_path / "prompt", "--tokens", 1, "--json").stdout
    )
    assert record["prompt"] == "the café"
    content = VOCABULARY.to_json()["model"]
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "vocab.json").write_bytes(marked(json.dumps(content["vocab"])))
    (pair / "merges.txt").write_bytes(marked("#version: 0.2\r\n" + "\r\n".join(content["merges"])))
    (pair / "special_tokens_map.json").write_bytes(marked(json.dumps({"additional_special_tokens": NAMES})))
    assert tokenizers.load(pair).to_json() == VOCABULARY.to_json()
