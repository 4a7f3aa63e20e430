"""What else clients ask of a server: the vocabulary, the sizes of the model, the version, a page for people."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import scratchgpt
from scratchgpt.model.params import Layout
from scratchgpt.tokenizer import CharTokenizer
from scratchgpt.tokenizer.bpe import BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from tests.serving.world import serving, write_model

CHARACTERS = CharTokenizer("\n" + "".join(map(chr, range(32, 127))))
NAME = "it's <b>"
"""A folder, and so a model, that HTML, a shell and JSON would misread."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Yield where a model of characters is served, and how many parameters it has."""
    folder = tmp_path_factory.mktemp("models") / NAME
    model = write_model(folder, CHARACTERS)
    with serving(folder) as address:
        yield address, Layout(model.config).size


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, BPETokenizer]]:
    """Yield where a model of byte pairs is served, and its vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "pairs"
    vocabulary = train({"the": 5, " then": 3}, 261)
    write_model(folder, vocabulary)
    with serving(folder) as address:
        yield address, vocabulary


def post(address: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, timeout=30)


def test_ids_of_a_text_and_back(place: tuple[str, int], pairs: tuple[str, BPETokenizer]) -> None:
    for address, vocabulary in ((place[0], CHARACTERS), pairs):
        ids = vocabulary.encode("the then they").tolist()
        expected = {"tokens": ids, "count": len(ids), "max_model_len": 32}
        assert post(address, "/tokenize", prompt="the then they").json() == expected
        assert post(address, "/tokenize", content="the then they", add_special=False).json() == expected
        assert post(address, "/tokenize", prompt="").json()["tokens"] == []
        text = {"prompt": "the then they", "content": "the then they"}
        assert post(address, "/detokenize", tokens=ids).json() == text
        assert post(address, "/detokenize", tokens=[]).json() == {"prompt": "", "content": ""}


def test_special_tokens_have_names(pairs: tuple[str, BPETokenizer]) -> None:
    address, vocabulary = pairs
    text = "the<|endoftext|>the"
    assert post(address, "/tokenize", prompt=text).json()["tokens"] == vocabulary.encode(text, special=True).tolist()
    plain = post(address, "/tokenize", prompt=text, parse_special=False).json()["tokens"]
    assert plain == vocabulary.encode(text).tolist()
    info = httpx.get(f"{address}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("<|endoftext|>", "<|endoftext|>")


def test_large_texts(place: tuple[str, int]) -> None:
    text = "".join(map(chr, np.random.default_rng(0).integers(32, 127, 2**18)))
    tokens = post(place[0], "/tokenize", content=text).json()["tokens"]
    assert tokens == CHARACTERS.encode(text).tolist()
    answer = post(place[0], "/detokenize", tokens=tokens[: 2**16]).json()
    assert answer["content"] == text[: 2**16]


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/tokenize", {}, "prompt", "Give the text as prompt or as content"),
        ("/tokenize", {"prompt": "a", "content": "a"}, "prompt", "Give the text as prompt or as content"),
        ("/tokenize", {"prompt": "\u00e9"}, "prompt", "not in the vocabulary"),
        ("/tokenize", {"content": "\u00e9"}, "content", "not in the vocabulary"),
        ("/tokenize", {"content": "a" * (2**18 + 1)}, "content", "at most 262144 characters"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages", "does not support messages"),
        ("/tokenize", {"prompt": "a", "with_pieces": True}, "with_pieces", "does not support with_pieces"),
        ("/detokenize", {}, "tokens", "up to 65,536 token ids"),
        ("/detokenize", {"tokens": [96 + 1]}, "tokens", "There is no token 97; the vocabulary has 96."),
        ("/detokenize", {"tokens": [-1]}, "tokens", "up to 65,536 token ids"),
        ("/detokenize", {"tokens": [1] * (2**16 + 1)}, "tokens", "up to 65,536 token ids"),
        ("/detokenize", {"token": [1]}, "token", "did you mean 'tokens'?"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_meant(place: tuple[str, int], path: str, body: dict[str, Any], param: str, words: str) -> None:
    answer = post(place[0], path, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
    assert post(place[0], path, model="other", **body).status_code in {400, 404}


def test_another_model_has_no_ids(place: tuple[str, int]) -> None:
    assert post(place[0], "/tokenize", prompt="a", model="other").status_code == 404
    assert post(place[0], "/detokenize", tokens=[1], model="other").status_code == 404


def test_sizes_and_version(place: tuple[str, int]) -> None:
    address, n_params = place
    (model,) = httpx.get(f"{address}/v1/models").json()["data"]
    assert model["id"] == NAME
    assert model["max_model_len"] == model["meta"]["n_ctx_train"] == 32
    assert (model["meta"]["n_params"], model["meta"]["n_vocab"]) == (n_params, 96)
    assert (model["meta"]["n_embd"], model["meta"]["n_layer"], model["meta"]["n_head"]) == (32, 2, 2)
    assert httpx.get(f"{address}/version").json() == {"version": scratchgpt.__version__}
    info = httpx.get(f"{address}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("\n", None)
    assert (info["vocab_size"], info["model_max_length"]) == (96, 32)
    assert httpx.get(f"{address}/v1/health").json() == {"status": "ok"}


def test_the_page_is_right_for_people(place: tuple[str, int]) -> None:
    """What it shows can be copied and works, whatever the model is called."""
    address = place[0]
    answer = httpx.get(f"{address}/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "<b>" not in answer.text
    assert "<script" not in answer.text
    commands = [
        block.replace("&quot;", '"').replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">")
        for block in re.findall(r"<pre>(.*?)</pre>", answer.text, re.DOTALL)
    ]
    program, url, *rest = shlex.split(commands[0])
    assert (program, url) == ("curl", f"{address}/v1/completions")
    body = json.loads(rest[rest.index("-d") + 1])
    assert httpx.post(url, json=body, timeout=30).json()["choices"][0]["finish_reason"] == "length"
    written = subprocess.run([sys.executable, "-c", commands[1]], capture_output=True, encoding="utf-8", check=True)
    assert len(written.stdout) == 101
    for link in re.findall(r'href="(/.*?)"', answer.text):
        assert httpx.get(f"{address}{link}").status_code == 200


def test_the_page_repeats_little(place: tuple[str, int]) -> None:
    answer = httpx.get(f"{place[0]}/", headers={"Host": "127.0.0.1:" + "8" * 8000})
    assert len(answer.content) < 6000
