"""The server as other programs' real clients use it: each in a process of its own, which reaches nothing but loopback.

`pip install '.[clients]'` has them; those that are not installed are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from scratchgpt.generation.sampler import log_probabilities
from scratchgpt.model.gpt import GPT
from scratchgpt.tokenizer import CharTokenizer
from tests.serving.world import serving, write_model

CHARACTERS = CharTokenizer("\n" + "".join(map(chr, range(32, 127))))

LOOPBACK_ONLY = """
import json, os, socket, sys

connect = socket.socket.connect


def connect_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise AssertionError(f"{address} is elsewhere")
    return connect(self, address)


socket.socket.connect = connect_here
address, name = sys.argv[1:]
"""

QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "OPENAI_API_KEY": "none",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}

LANGCHAIN = """
from langchain_openai import OpenAI

how = dict(temperature=0, max_tokens=9, presence_penalty=0, n=1, best_of=1)
client = OpenAI(base_url=f"{address}/v1", api_key="none", model=name, **how)
texts = [client.invoke("To be"), "".join(client.stream("To be")), *client.batch(["To be", "Or not"])]
texts.append(client.bind(stop=["zzz"], logit_bias={}).invoke("To be"))
print(json.dumps(texts))
"""

LITELLM = """
import litellm

litellm.telemetry = False
how = dict(api_base=f"{address}/v1", api_key="none", prompt="To be", temperature=0, max_tokens=9)
texts = [
    litellm.text_completion(model=f"{kind}/{name}", **how).choices[0].text
    for kind in ("text-completion-openai", "hosted_vllm")
]
pieces = litellm.text_completion(model=f"text-completion-openai/{name}", stream=True, **how)
texts.append("".join(piece.choices[0].text or "" for piece in pieces))
several = litellm.text_completion(model=f"text-completion-openai/{name}", **(how | {"prompt": ["To be", "Or not"]}))
print(json.dumps(texts + [choice.text for choice in several.choices]))
"""

LLM = """
import contextlib, io
from pathlib import Path

folder = Path(os.environ["LLM_USER_PATH"])
entry = {"model_id": "ours", "model_name": name, "api_base": f"{address}/v1", "completion": True}
(folder / "extra-openai-models.yaml").write_text(json.dumps([entry]))
from llm.cli import cli

texts = []
for options in (["--no-stream"], [], ["--no-stream", "-o", "logprobs", "2", "-o", "presence_penalty", "0"]):
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        arguments = ["prompt", "-m", "ours", "-o", "temperature", "0", "-o", "max_tokens", "9", "--no-log", *options]
        cli([*arguments, "To be"], standalone_mode=False)
    texts.append(written.getvalue().removesuffix("\\n"))
print(json.dumps(texts))
"""

LM_EVAL = r"""
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

how = dict(base_url=f"{address}/v1/completions", model=name, max_length=33, batch_size=2)
client = LocalCompletionsAPI(**how)
assert client.tokenizer_backend == "remote"
for_long = LocalCompletionsAPI(custom_prefix_token_id=client.tokenizer.encode("\n")[0], **how)


def ask(client, kind, *several):
    requests = [Instance(request_type=kind, doc={}, arguments=arguments, idx=0) for arguments in several]
    return getattr(client, kind)(requests)


print(
    json.dumps(
        {
            "chosen": ask(client, "loglikelihood", ("To be", " or not"), ("To be", " or")),
            "rolling": ask(client, "loglikelihood_rolling", ("To be, or not",))
            + ask(for_long, "loglikelihood_rolling", ("A" * 80,)),
            "made": ask(client, "generate_until", ("To be", {"until": ["zzz"], "max_gen_toks": 9})),
        }
    )
)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, GPT]]:
    """Yield where a model is served, and the model."""
    folder = tmp_path_factory.mktemp("models") / "shakespeare"
    model = write_model(folder, CHARACTERS)
    with serving(folder) as address:
        yield address, model


def answered(program: str, package: str, address: str, folder: Path) -> Any:
    """Return what a client's program prints, as JSON."""
    if importlib.util.find_spec(package) is None:  # pragma: no cover
        pytest.skip(f"{package} is not installed")
    result = subprocess.run(
        [sys.executable, "-c", LOOPBACK_ONLY + program, address, "shakespeare"],
        env=os.environ | QUIET | {"LLM_USER_PATH": str(folder), "HF_HOME": str(folder), "HOME": str(folder)},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def text_after(address: str, prompt: str) -> str:
    body = {"model": "shakespeare", "prompt": prompt, "temperature": 0, "max_tokens": 9}
    return str(httpx.post(f"{address}/v1/completions", json=body).json()["choices"][0]["text"])


@pytest.mark.slow
@pytest.mark.parametrize(("package", "program"), [("langchain_openai", LANGCHAIN), ("litellm", LITELLM), ("llm", LLM)])
def test_texts_are_those_of_the_server(place: tuple[str, GPT], package: str, program: str, tmp_path: Path) -> None:
    to_be, or_not = (text_after(place[0], prompt) for prompt in ("To be", "Or not"))
    expected = {
        "langchain_openai": [to_be, to_be, to_be, or_not, to_be],
        "litellm": [to_be, to_be, to_be, to_be, or_not],
        "llm": [to_be, to_be, to_be],
    }
    assert answered(program, package, place[0], tmp_path) == expected[package]


@pytest.mark.slow
def test_lm_eval_needs_nothing_but_the_server(place: tuple[str, GPT], tmp_path: Path) -> None:
    """The vocabulary is the server's; a document's likelihood is counted from the newline before it."""
    address, model = place

    def log_likelihood(context: str, text: str) -> float:
        ids = CHARACTERS.encode(context + text).astype(np.int64)
        scores = log_probabilities(model.logits(model.hidden(ids[None]))[0])
        return float(scores[np.arange(len(context) - 1, len(ids) - 1), ids[len(context) :]].sum())

    found = answered(LM_EVAL, "lm_eval", address, tmp_path)
    for (value, _), text in zip(found["chosen"], (" or not", " or"), strict=True):
        assert abs(value - log_likelihood("To be", text)) <= 1e-3
    assert abs(found["rolling"][0] - log_likelihood("\n", "To be, or not")) <= 1e-3
    windows = [log_likelihood("\n", "A" * 31), log_likelihood("A", "A" * 31), log_likelihood("A" * 14, "A" * 18)]
    assert abs(found["rolling"][1] - sum(windows)) <= 1e-3
    assert found["made"] == [text_after(address, "To be")]
