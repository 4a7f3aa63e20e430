"""`info`, `attention` and `surprise` as they are typed."""

import contextlib
import html.parser
import io
import json
import math
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from scratchgpt import tokenizer as tokenizers
from scratchgpt.cli import cli
from scratchgpt.cli.attention import figure
from scratchgpt.config import ModelConfig
from scratchgpt.model import folder as model_folder
from scratchgpt.model.params import Layout
from scratchgpt.tokenizer.bpe_training import train
from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "4")
USAGE, FAILURE = 2, 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    call("prepare", "fox.txt", cwd=folder)
    call("train", "--lanes", "1", "--run", "runs/a", "--steps", "2", *SMALL, cwd=folder)
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "world"))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model whose tokens are bytes and a few pairs of them, as another program leaves one."""
    folder = tmp_path_factory.mktemp("bytewise")
    tokenizers.save(train({" the": 9, "€": 8}, 261), folder)
    config = ModelConfig(vocab_size=261, block_size=8, n_layer=2, n_head=2, n_embd=12)
    model_folder.save(folder, config, Layout(config).initial(seed=1))
    return folder


def call(
    *typed: str | Path, cwd: Path, code: int = 0, given: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command in this process; return what it says, on one line if that is an error."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, list(map(str, typed)), input=given, env=environment)
    assert result.exit_code == code, result.output
    assert code == 0 or not result.stdout
    return " ".join(result.stderr.split()) if code else result.stdout


def info(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(call("info", "--json", *arguments, cwd=cwd))
    return report


@pytest.mark.parametrize("vocab_size", ["261", [261], None, 261.5, {"a": 1}, -1])
def test_a_number_of_rows_that_is_none_is_a_problem(vocab_size: object, bytewise: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bytewise, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}), encoding="utf-8")
    assert "vocab_size" in " ".join(info(folder, cwd=tmp_path)["problems"])


# ------------------------------------------------------------------------------------------------ info


def test_the_newest_run(trained: Path) -> None:
    result = scratchgpt("info", "--json", cwd=trained)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["path"], report["kind"], report["problems"]) == ("runs/a", "run", [])
    assert report["architecture"]["n_layer"] == 2
    assert report["parameters"]["total"] == sum(part["count"] for part in report["parameters"]["parts"])
    config = ModelConfig(**{name: value for name, value in report["architecture"].items() if name != "model_type"})
    assert report["parameters"]["total"] == Layout(config).size
    counts = {part["part"]: (part["count"], part["layers"]) for part in report["parameters"]["parts"]}
    assert counts["attention"] == (2 * 4 * 16 * 16, 2)
    assert counts["MLP"] == (2 * 8 * 16 * 16, 2)
    assert counts["norms"] == (2 * 2 * 16, 2)
    assert counts["final norm"] == (16, 0)
    assert report["parameters"]["tied_head"] is True
    assert report["tokenizer"]["kind"] == "characters"
    assert report["training"]["step"] == report["training"]["steps"] == 2
    assert report["training"]["recipe"]["batch_size"] == 12
    assert report["training"]["last"] == "step-000002"
    assert report["bytes"] == sum(path.stat().st_size for path in (trained / "runs" / "a").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("path", "kind", "parts"),
    [
        ("runs/a/checkpoints/step-000002", "checkpoint", {"architecture", "parameters", "tokenizer", "training"}),
        ("runs/a/checkpoints/last", "checkpoint", {"architecture", "parameters", "tokenizer", "training"}),
        ("runs/a/checkpoints/step-000002/model.safetensors", "safetensors file", {"parameters"}),
        ("runs/a/checkpoints/step-000002/optimizer.safetensors", "safetensors file", {"parameters"}),
        ("runs/a/checkpoints/step-000002/config.json", "configuration", {"architecture"}),
        ("data/fox", "prepared data", {"tokenizer", "data"}),
        ("data/fox/tokenizer.json", "tokenizer", {"tokenizer"}),
        ("data/fox/train.bin", "token file", {"data"}),
    ],
)
def test_all_that_it_knows(path: str, kind: str, parts: set[str], trained: Path) -> None:
    report = info(path, cwd=trained)
    assert (report["kind"], report["problems"]) == (kind, [])
    assert report.keys() - {"path", "kind", "bytes", "problems"} == parts
    shown = call("info", path, cwd=trained)
    assert kind in shown.splitlines()[0]
    assert all(f"\n{part}\n" in shown for part in parts)


def test_prepared_data_begin_with_their_text(trained: Path) -> None:
    data = info("data/fox", cwd=trained)["data"]
    assert TEXT.startswith(data["parts"]["train"]["begins"])
    assert data["parts"]["train"]["tokens"] + data["parts"]["val"]["tokens"] == len(TEXT)
    assert data["sources"][0]["characters"] == len(TEXT)


def test_tensors_one_by_one(trained: Path) -> None:
    path = "runs/a/checkpoints/last"
    report = info(path, "--tensors", cwd=trained)
    assert report["bytes"] == info("runs/a/checkpoints/step-000002", cwd=trained)["bytes"]
    expected = load_file(trained / "runs/a/checkpoints/step-000002/model.safetensors")
    assert {tensor["name"] for tensor in report["tensors"]} == expected.keys()
    for tensor in report["tensors"]:
        values = expected[tensor["name"]].astype(np.float64)
        assert tuple(tensor["shape"]) == values.shape
        for name in ("mean", "std", "min", "max"):
            assert abs(tensor[name] - getattr(np, name)(values)) <= 1e-12
    assert "transformer.wpe.weight" in call("info", path, "--tensors", cwd=trained)


def test_a_training_that_removes_files_meanwhile(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = info("runs/a", cwd=world)["bytes"]
    walk = os.walk

    def slower(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in walk(top):
            yield folder, folders, [*names, "gone"]

    monkeypatch.setattr(os, "walk", slower)
    assert info("runs/a", cwd=world)["bytes"] == size


def test_tensors_of_all_kinds(tmp_path: Path) -> None:
    odd = np.array([1, math.nan, math.inf, -3], np.float32)
    save_file(
        {"odd": odd, "all.nan": np.full(3, math.nan), "none": np.zeros((0, 4)), "mask": np.array([True, False, False])},
        tmp_path / "a.safetensors",
    )
    found = {tensor["name"]: tensor for tensor in info("a.safetensors", "--tensors", cwd=tmp_path)["tensors"]}
    assert (found["odd"]["mean"], found["odd"]["std"], found["odd"]["n_nan"], found["odd"]["n_infinite"]) == (
        -1,
        2,
        1,
        1,
    )
    assert (found["all.nan"]["mean"], found["all.nan"]["n_nan"]) == (None, 3)
    assert (found["none"]["shape"], found["none"]["max"]) == ([0, 4], None)
    assert abs(found["mask"]["mean"] - 1 / 3) <= 1e-12
    shown = call("info", "a.safetensors", "--tensors", cwd=tmp_path)
    assert "1 NaN, 1 infinite" in shown


def test_a_model_from_elsewhere(bytewise: Path) -> None:
    report = info(bytewise, cwd=bytewise)
    assert (report["kind"], report["problems"]) == ("model folder", [])
    assert report["parameters"]["total"] == Layout(ModelConfig(**model_sizes(report))).size
    assert report["tokenizer"]["special"] == {"<|endoftext|>": 0}
    content = json.loads((bytewise / "config.json").read_text(encoding="utf-8"))
    other = bytewise / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(content | {"model_type": "llama"}), encoding="utf-8")
    names = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight")
    norms = ("model.layers.0.input_layernorm.weight", "model.norm.weight", "lm_head.weight", "strange")
    save_file(
        {name: np.zeros((2, 3), np.float16) for name in names + norms}, other / "model-00001-of-00001.safetensors"
    )
    report = info(other, cwd=bytewise)
    assert "a model of the type 'llama'" in report["problems"][0]
    assert report["architecture"]["model_type"] == "llama"
    assert [part["part"] for part in report["parameters"]["parts"]] == [
        *("token embedding", "attention", "MLP", "norms", "final norm", "head", "other")
    ]
    index = {"weight_map": {"strange": "model-00001-of-00001.safetensors", "more": "model-00002-of-00002.safetensors"}}
    (other / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "names 1 tensors that no file here has, such as more" in info(other, cwd=bytewise)["problems"][1]


def test_what_generate_would_refuse(bytewise: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bytewise, tmp_path / "spoilt", ignore=shutil.ignore_patterns("other")))
    assert info(folder, cwd=tmp_path)["problems"] == []
    weights = load_file(folder / "model.safetensors")
    rest = {name: values for name, values in weights.items() if name != "transformer.wpe.weight"}
    save_file(rest, folder / "model.safetensors")
    (problem,) = info(folder, cwd=tmp_path)["problems"]
    assert "missing transformer.wpe.weight; unexpected nothing" in problem
    save_file(rest | {"transformer.wpe.weight": np.zeros((8, 13), np.float32)}, folder / "model.safetensors")
    (problem,) = info(folder, cwd=tmp_path)["problems"]
    assert "transformer.wpe.weight is of the shape (8, 13), not (8, 12)" in problem
    save_file(weights, folder / "model.safetensors")
    tokenizers.save(train({}, 257), folder)  # rows without a token are no problem
    assert info(folder, cwd=tmp_path)["problems"] == []
    tokenizers.save(train({"abcdefghijk": 9}, 262), folder)
    assert info(folder, cwd=tmp_path)["problems"] == ["The vocabulary has 262 tokens, the model 261."]
    (folder / "tokenizer.json").unlink()
    (problem,) = info(folder, cwd=tmp_path)["problems"]
    assert "has no vocabulary" in problem


def model_sizes(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report["architecture"].items() if name != "model_type"}


def zipped(name: str) -> bytes:
    """Return an archive with one empty file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, b"")
    return content.getvalue()


@pytest.mark.parametrize(
    ("path", "content", "code", "message"),
    [
        ("none", None, USAGE, "no file or folder none"),
        ("a.txt", b"hello", USAGE, "nothing that is known"),
        ("a.pt", b"anything", FAILURE, "is a pickle: to open it"),
        ("pytorch_model.bin", b"PK\x03\x04....", FAILURE, "Model.from_pretrained(F)"),
        ("old.bin", bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"), FAILURE, "old.bin is a pickle"),
        ("torch.dat", zipped("archive/data.pkl"), FAILURE, "torch.dat is a pickle"),
        ("other.zip", zipped("letter.txt"), USAGE, "nothing that is known"),
        ("broken.zip", b"PK\x03\x04....", USAGE, "nothing that is known"),
        ("odd.bin", b"abc", FAILURE, "no multiple of 2 bytes"),
        ("empty.bin", b"", FAILURE, "empty or truncated"),
        ("a.json", b"{}", FAILURE, "only BPE and WordLevel"),
        ("a.safetensors", b"\xff" * 16, FAILURE, "no whole safetensors file"),
        ("b.safetensors", (99).to_bytes(8, "little") + b"{}", FAILURE, "no whole safetensors file"),
        ("folder/a.pth", b"", FAILURE, "is a pickle: to open it"),
        ("folder/a.txt", b"", USAGE, "folder is no run"),
    ],
)
def test_what_is_refused(path: str, content: bytes | None, code: int, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    asked = "folder" if path.startswith("folder/") else path
    assert message in call("info", asked, cwd=tmp_path, code=code)


def test_damage_is_named_and_the_rest_told(world: Path) -> None:
    folder = world / "runs" / "a" / "checkpoints" / "step-000002"
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\xc0\x7f")
    report = info("--tensors", cwd=world)
    assert "was truncated or altered" in report["problems"][0]
    assert sum(tensor["n_nan"] for tensor in report["tensors"]) == 1
    assert report["parameters"]["total"]
    for name in ("config.json", "tokenizer.json", "trainer.json"):
        (folder / name).write_text('{"model": {"type": "BPE"}}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights[:-4])
    report = info(cwd=world)
    assert report.keys() & {"architecture", "parameters", "tokenizer"} <= {"architecture"}
    assert len(report["problems"]) >= 4
    assert "Problem: " in call("info", cwd=world)
    with (world / "data" / "fox" / "train.bin").open("ab") as file:
        file.write(b"\xff\xff")
    assert "its size is another" in info("data/fox", cwd=world)["problems"][0]
    assert "holds the id 65535" in info("data/fox/train.bin", cwd=world)["problems"][0]


@pytest.mark.parametrize("path", ["runs/a", "data/fox"])
def test_a_narrow_terminal_of_few_letters(path: str, trained: Path) -> None:
    settings = {"LC_ALL": "C", "COLUMNS": "40", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    shown = re.sub(r"\x1b\[[0-9]*m", "", call("info", path, "--tensors", cwd=trained, environment=settings))
    assert shown.isascii()
    assert max(map(len, shown.splitlines())) <= 40


# ------------------------------------------------------------------------------------------- attention


def test_pictures_of_attention(world: Path) -> None:
    assert call("attention", "the fox", cwd=world) == "attention-the-fox.png\n"
    assert (world / "attention-the-fox.png").read_bytes().startswith(b"\x89PNG")
    assert "use --force" in call("attention", "the fox", cwd=world, code=FAILURE)
    call("attention", "the fox", "-o", "new/a.svg", "--model", "runs/a", "--layer", "1", cwd=world)
    assert b"<svg" in (world / "new" / "a.svg").read_bytes()
    call("attention", "the fox", "-o", "a.svg", "--force", "--layer", "1", "--head", "0", cwd=world)
    with contextlib.chdir(world):
        result = CliRunner().invoke(cli, ["attention", TEXT[:40], "-o", "long.pdf"])
    assert result.stderr == "The prompt has 40 tokens; the picture shows the last 16 of them.\n"
    assert {path.name for path in world.iterdir()} >= {"a.svg", "long.pdf"}
    assert not [*world.glob(".unfinished-*")]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("fox", "-o", "a.gif"), "must end in .png, .svg, .pdf"),
        (("fox", "--layer", "2"), "no layer 2: the model's count from 0 to 1"),
        (("fox", "--head", "9"), "no head 9"),
        (("",), "text is empty"),
        (("fox=",), "'=' (U+003D, at position 3)"),
        (("fox", "--model", "none"), "no run or checkpoint none"),
    ],
)
def test_attention_that_cannot_be_drawn(typed: tuple[str, ...], message: str, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    assert message in call("attention", *typed, cwd=trained, code=USAGE)
    assert sorted(trained.rglob("*")) == before


def test_a_picture_without_what_draws_it(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'scratchgpt[plot]'" in call("attention", "fox", cwd=trained, code=USAGE)


def test_a_grid_has_one_scale_and_labels_thin_out() -> None:
    maps = np.tril(np.ones((3, 2, 40, 40))) / np.arange(1, 41)[:, None]
    (axes, _) = figure(maps, [f"${n}" for n in range(40)], range(3), range(2)).axes
    assert {image.get_clim() for image in axes.images} == {(0, 1)}
    assert len({tuple(image.get_extent()) for image in axes.images}) == 6
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert sorted(texts) == ["head 0", "head 1", "layer 0", "layer 1", "layer 2"]
    assert 3 * 10 <= len(axes.get_yticks()) < 3 * 40
    (alone, _) = figure(maps[:1, :1], ["a"] * 40, [1], [5]).axes
    assert [text.get_text() for text in alone.texts] == ["layer 1, head 5"]
    assert len(alone.get_yticks()) == len(alone.get_xticks()) == 40
    (row, _) = figure(maps[:, :1], ["a"] * 40, range(3), [1]).axes
    assert [text.get_text() for text in row.texts] == ["layer 0, head 1", "layer 1, head 1", "layer 2, head 1"]


# -------------------------------------------------------------------------------------------- surprise


class Page(html.parser.HTMLParser):
    """What a reader sees of a page: its text, each token's title, and that all elements are closed."""

    def __init__(self, content: str) -> None:
        """Read all of a page."""
        super().__init__()
        self.text, self._open = "", [""]
        self.titles: list[str | None] = []
        self.feed(content)
        self.close()
        assert self._open == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102 - the base class says
        assert tag not in {"script", "link", "img", "iframe"}
        assert not {name for name, _ in attrs} & {"href", "src", "style", "onload"}
        if tag != "meta":
            self._open.append(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:  # noqa: D102 - the base class says
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:  # noqa: D102 - the base class says
        if "pre" in self._open and self._open[-1] != "u":
            self.text += data


def test_a_page_of_surprise(world: Path) -> None:
    text = TEXT[:100]
    (world / "a.txt").write_text(text, encoding="utf-8")
    assert call("surprise", "a.txt", cwd=world) == "a.txt.surprise.html\n"
    content = (world / "a.txt.surprise.html").read_text(encoding="utf-8")
    page = Page(content)
    assert page.text == text
    assert len(page.titles) == len(text)
    assert all(title and "bits" in title and "nats" in title and title.count("\n") == 3 for title in page.titles[1:])
    assert "use --force" in call("surprise", "a.txt", cwd=world, code=FAILURE)
    call("surprise", "a.txt", "--force", "--top", "0", cwd=world)
    assert len(Page((world / "a.txt.surprise.html").read_text(encoding="utf-8")).titles) == len(text)
    result = scratchgpt("surprise", "-", "-o", "new/piped.html", cwd=world, standard_input=text)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{Path('new/piped.html')}\n", "")
    assert "standard input" in (world / "new" / "piped.html").read_text(encoding="utf-8")
    assert not [*world.glob(".unfinished-*")]


def test_the_head_of_a_page_says_what_evaluate_says(world: Path) -> None:
    """Of a text that the model reads in one piece."""
    (world / "a.txt").write_text(TEXT[:17], encoding="utf-8")
    call("surprise", "a.txt", "-o", "a.html", cwd=world)
    call("prepare", "fox.txt", "--val", "a.txt", "--tokenizer", "data/fox", "--out", "data/a", cwd=world)
    measured = json.loads(call("evaluate", "--data", "data/a", "--json", cwd=world))
    content = (world / "a.html").read_text(encoding="utf-8")
    assert measured["tokens"] == 16
    for told in (f"{measured['loss']:.4f} nats", f"{measured['perplexity']:.2f}", f"{measured['bits_per_byte']:.4f}"):
        assert f"<td>{told}" in content


def test_a_page_of_whole_characters_and_nothing_that_does_harm(bytewise: Path) -> None:
    text = 'the €<b>"&amp;\n\x1b[31m \u202e€uro' + "é" * 9
    call("surprise", "-", "-o", "a.html", "--model", ".", cwd=bytewise, given=text)
    page = Page((bytewise / "a.html").read_text(encoding="utf-8"))
    assert page.text == text.replace("\x1b", "\u241b").replace("\u202e", "\ufffd")
    assert max(str(title).count("bits") for title in page.titles) >= 2


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("", USAGE, "give at least two"),
        ("f", USAGE, "give at least two"),
        ("fox=2", USAGE, "Use --skip-unknown"),
        ("\udce9", FAILURE, "not UTF-8"),
    ],
)
def test_texts_that_cannot_be_read(given: str, code: int, message: str, trained: Path) -> None:
    (trained / "given.txt").write_bytes(given.encode("utf-8", "surrogateescape"))
    assert message in call("surprise", "given.txt", cwd=trained, code=code)
    assert not [*trained.glob("*.html")]
