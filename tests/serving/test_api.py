"""The server as OpenAI's own client sees it, and as those see it who use it wrongly."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from scratchgpt.generation import Sampling, Stop, Text, draws, grow
from scratchgpt.generation.sampler import log_probabilities
from scratchgpt.model.gpt import GPT
from scratchgpt.serving.schemas import CompletionRequest
from scratchgpt.tokenizer import CharTokenizer, Tokenizer
from scratchgpt.tokenizer.bpe_training import train
from tests.serving.world import serving, write_model

CHARACTERS = CharTokenizer("\n" + "".join(map(chr, range(32, 96))))
BYTES = train({}, 257)  # <|endoftext|>, 0, and the bytes
LIMITS = ("--batch", "1", "--queue", "3", "--timeout", "1", "--max-prompt", "50", "--max-tokens", "1000000000")


class _Place:
    """A server and its model."""

    def __init__(self, address: str, model: GPT, vocabulary: Tokenizer) -> None:
        self.address, self.model, self.vocabulary = address, model, vocabulary
        self.client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

    def expected(self, prompt: str, n_tokens: int, number: int = 0, stop: Stop = Stop(), **how: Any) -> str:  # noqa: B008
        """Return what `scratchgpt generate` writes after the prompt."""
        text = Text(self.vocabulary, stop)
        ids = self.vocabulary.encode(prompt).tolist()
        for _ in grow([text], draws(self.model, ids, n_tokens, Sampling(**how), samples=[number])):
            pass
        return text.shown

    def post(self, content: bytes, path: str = "/v1/completions", **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.address}{path}", content=content, headers={"content-type": "application/json"} | headers, timeout=60
        )

    def metrics(self) -> dict[str, float]:
        text = httpx.get(f"{self.address}/metrics").text
        return {
            sample.name + sample.labels.get("status", ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def wait_for(self, name: str, value: float) -> None:
        end = time.monotonic() + 60
        while self.metrics()[name] != value:
            assert time.monotonic() < end, self.metrics()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Place]:
    folder = tmp_path_factory.mktemp("models") / "chars"
    model = write_model(folder, CHARACTERS)
    with serving(folder) as address:
        yield _Place(address, model, CHARACTERS)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Place]:
    """A server with narrow limits, of a model whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("models") / "bytes"
    model = write_model(folder, BYTES)
    with serving(folder, *LIMITS) as address:
        yield _Place(address, model, BYTES)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Place]:
    """A server that makes one text at a time, however long that takes."""
    folder = tmp_path_factory.mktemp("models") / "bytes"
    model = write_model(folder, BYTES)
    with serving(folder, "--batch", "1", "--timeout", "100000", "--max-tokens", "1000000000") as address:
        yield _Place(address, model, BYTES)


def test_the_model_is_listed(place: _Place) -> None:
    (model,) = place.client.models.list()
    assert (model.id, model.object) == ("chars", "model")
    assert place.client.models.retrieve("chars") == model
    with pytest.raises(openai.NotFoundError, match="There is no model 'other' here; this server has 'chars'"):
        place.client.models.retrieve("other")


def test_texts_are_those_of_generate(place: _Place) -> None:
    prompt = "TO BE, OR NOT TO BE: " * 3  # longer than block_size
    ways: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.8, "seed": 5},
        {"temperature": 1.0, "seed": 6, "top_p": 0.9},
    ]
    for how in ways:
        answer = place.client.completions.create(model="chars", prompt=prompt, max_tokens=80, n=3, **how)
        texts = [choice.text for choice in answer.choices]
        assert texts == [place.expected(prompt, 80, number, **how) for number in range(3)]
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert {choice.finish_reason for choice in answer.choices} == {"length"}
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (63, 240, 303)


def test_our_own_fields(place: _Place) -> None:
    how: dict[str, Any] = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2}
    answer = place.client.completions.create(
        model="chars", prompt="A", temperature=1.0, seed=1, frequency_penalty=0.3, extra_body=how
    )
    assert answer.choices[0].text == place.expected("A", 16, temperature=1.0, seed=1, frequency_penalty=0.3, **how)


def test_prompts_in_all_forms(place: _Place) -> None:
    ids = CHARACTERS.encode("HELLO").tolist()
    expected = {text: place.expected(text, 9, temperature=0) for text in ("HELLO", "BYE", "\n")}

    def texts(prompt: Any) -> list[str]:
        answer = place.client.completions.create(model="chars", prompt=prompt, max_tokens=9, temperature=0)
        return [choice.text for choice in answer.choices]

    assert texts("HELLO") == texts(["HELLO"]) == texts(ids) == texts([ids]) == [expected["HELLO"]]
    assert texts(["BYE", "HELLO"]) == [expected["BYE"], expected["HELLO"]]
    assert texts([CHARACTERS.encode("BYE").tolist(), ids]) == [expected["BYE"], expected["HELLO"]]
    assert texts(None) == [expected["\n"]], "as `generate` without --prompt"


def test_choices_of_several_prompts(place: _Place) -> None:
    answer = place.client.completions.create(
        model="chars", prompt=["A", "BC"], n=2, seed=3, temperature=1, max_tokens=8, echo=True
    )
    expected = [p + place.expected(p, 8, number, seed=3, temperature=1) for p in ("A", "BC") for number in (0, 1)]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 32)


def test_seeds_may_be_negative(place: _Place) -> None:
    for seed in (-1, -(2**63)):
        answer = place.client.completions.create(model="chars", prompt="A", seed=seed, temperature=1)
        assert answer.choices[0].text == place.expected("A", 16, seed=seed + 2**63, temperature=1)


def test_without_a_seed_texts_differ(place: _Place) -> None:
    answers = [place.client.completions.create(model="chars", prompt="A", max_tokens=40) for _ in range(2)]
    assert answers[0].choices[0].text != answers[1].choices[0].text
    assert answers[0].id != answers[1].id


def test_stop(place: _Place) -> None:
    whole = place.expected("A", 60, temperature=0.8, seed=2)
    for strings in (whole[20:22], [whole[30:33], "\x00", whole[20:22]]):
        for is_streamed in (False, True):
            answer = place.client.completions.create(
                model="chars", prompt="A", max_tokens=60, temperature=0.8, seed=2, stop=strings, stream=is_streamed
            )
            choices = [piece.choices[0] for piece in answer] if is_streamed else answer.choices  # type: ignore[union-attr]
            assert "".join(choice.text for choice in choices) == whole[: whole.index(whole[20:22])]
            assert choices[-1].finish_reason == "stop"


def test_streams(place: _Place) -> None:
    how: dict[str, Any] = {"temperature": 0.8, "seed": 9}
    pieces = list(
        place.client.completions.create(
            model="chars",
            prompt="AB",
            max_tokens=300,
            n=2,
            echo=True,
            stream=True,
            **how,
            stream_options={"include_usage": True},
        )
    )
    assert len(pieces) > 4, "it comes in pieces"
    texts, ends = ["", ""], list[str | None]([None, None])
    for piece in pieces[:-1]:
        assert piece.usage is None
        (choice,) = piece.choices
        assert ends[choice.index] is None
        texts[choice.index] += choice.text
        ends[choice.index] = choice.finish_reason
    assert texts == ["AB" + place.expected("AB", 300, number, **how) for number in (0, 1)]
    assert ends == ["length", "length"]
    assert pieces[-1].choices == []
    assert pieces[-1].usage is not None
    assert (pieces[-1].usage.prompt_tokens, pieces[-1].usage.completion_tokens) == (2, 600)
    assert len({piece.id for piece in pieces}) == 1


def test_the_form_of_a_stream(place: _Place) -> None:
    body = {"model": "chars", "prompt": "A", "max_tokens": 3, "temperature": 0, "stream": True}
    answer = place.post(json.dumps(body).encode())
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        content = json.loads(event.removeprefix("data: "))
        assert set(content) == {"id", "object", "created", "model", "choices"}, "no usage, as nobody asked"
        assert set(content["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


def test_logprobs(place: _Place) -> None:
    prompt = "LIKELY"
    for is_streamed in (False, True):
        answer = place.client.completions.create(
            model="chars", prompt=prompt, max_tokens=20, temperature=0, echo=True, logprobs=2, stream=is_streamed
        )
        choices = [piece.choices[0] for piece in answer] if is_streamed else answer.choices  # type: ignore[union-attr]
        text = "".join(choice.text for choice in choices)
        tokens, values, tops, offsets = (
            [value for choice in choices for value in getattr(choice.logprobs, name)]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        )
        ids = CHARACTERS.encode(text)
        scores = log_probabilities(place.model.logits(place.model.hidden(ids[None].astype(np.int64)))[0])
        assert tokens == list(text)
        assert offsets == list(range(26))
        assert values[0] is tops[0] is None
        expected = scores[np.arange(25), ids[1:]]
        assert np.abs(np.array(values[1:]) - expected).max() <= 1e-4
        assert all(top[token] == value for top, token, value in zip(tops[1:], tokens[1:], values[1:], strict=True))
        assert all(len(top) in {2, 3} for top in tops[1:])
        assert all(len(top) == 2 for top in tops[6:]), "the likeliest is among the two likeliest"


def test_the_prompt_alone_can_be_judged(place: _Place) -> None:
    answer = place.client.completions.create(model="chars", prompt="LIKELY", max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("LIKELY", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list("LIKELY")
    with pytest.raises(openai.BadRequestError, match="33 tokens; with echo and logprobs it may have 32"):
        place.client.completions.create(model="chars", prompt="A" * 33, echo=True, logprobs=0)


def test_what_ends_a_text_and_halves_of_characters(narrow: _Place) -> None:
    for seed in range(3):
        how: dict[str, Any] = {"temperature": 1.0, "seed": seed}
        expected = narrow.expected("é", 300, stop=Stop((), (0,)), **how)
        answer = narrow.client.completions.create(model="bytes", prompt="é", max_tokens=300, logprobs=0, **how)
        (choice,) = answer.choices
        assert choice.text == expected
        assert answer.usage is not None
        assert choice.finish_reason == ("length" if answer.usage.completion_tokens == 300 else "stop")
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert any(token.startswith("bytes:\\x") for token in choice.logprobs.tokens)
        assert choice.logprobs.text_offset is not None
        for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
            assert token.startswith("bytes:") or ("é" + choice.text)[offset] == token


BAD: list[tuple[dict[str, Any], str | None, str]] = [
    ({"prompt": []}, "prompt", "no list is empty"),
    ({"prompt": [[]]}, "prompt", "no list is empty"),
    ({"prompt": ["A", 1]}, "prompt", "a string, a list of strings"),
    ({"prompt": [-1]}, "prompt", "a string, a list of strings"),
    ({"prompt": 5}, "prompt", "a string, a list of strings"),
    ({"prompt": [65]}, "prompt", "no token 65"),
    ({"prompt": [1, None]}, "prompt", "Only the first id of a prompt may be null."),
    ({"prompt": [[1], [None, None]]}, "prompt", "Only the first id of a prompt may be null."),
    ({"prompt": "na\u00efve"}, "prompt", "'n' (U+006E, at position 0) is not in the vocabulary"),
    ({"prompt": "\u00ef"}, "prompt", "(U+00EF, at position 0) is not in the vocabulary"),
    ({"prompt": "A" * 20_000}, "prompt", "20,000 tokens, and may have 16,384"),
    ({"prompt": "A" * 262_145}, "prompt", "of 262,144 characters or ids"),
    ({"prompt": [1] * 262_145}, "prompt", "of 262,144 characters or ids"),
    ({"prompt": ["A"] * 129}, "prompt", "a list of strings"),
    ({"prompt": ["A"] * 65, "n": 2}, "n", "more than 128 texts"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"max_tokens": 10**9}, "max_tokens", "1,000,000,000, and at most 4,096"),
    ({"max_tokens": 10**30}, "max_tokens", "max_tokens"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer"),
    ({"max_tokens": 5.5}, "max_tokens", "max_tokens"),
    ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    ({"temperature": float("nan")}, "temperature", "finite"),
    ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"logprobs": 20, "n": 128, "max_tokens": 4096}, "logprobs", "524,288 tokens with logprobs = 20 are more than"),
    ({"echo": True, "n": 128, "max_tokens": 1, "prompt": ["A" * 16_384] * 3, "best_of": 128}, "n", "more than 128"),
    ({"stop": ["a"] * 17}, "stop", "up to 16 strings"),
    ({"stop": "a" * 1025}, "stop", "each of up to 1,024 characters"),
    ({"stop": ["", "a" * 1025]}, "stop", "each of up to 1,024 characters"),
    ({"seed": -(2**63) - 1}, "seed", "seed"),
    ({"seed": 2**63}, "seed", "seed"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options", "with true or false"),
    ({"suffix": "B"}, "suffix", "does not support suffix"),
    ({"grammar": "root ::= x"}, "grammar", "does not support grammar"),
    ({"stop_token_ids": [1]}, "stop_token_ids", "does not support stop_token_ids"),
    ({"best_of": 3}, "best_of", "must be n = 1"),
    ({"logit_bias": {"65": 5}}, "logit_bias", "no token 65"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
    ({"logit_bias": {"A": 1}}, "logit_bias", "token ids in quotes"),
    ({"logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias", "up to 1,024 token ids"),
    ({"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2"),
    ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    ({"max_new_tokens": 1}, "max_new_tokens", "did you mean 'max_tokens'?"),
    ({"model": None}, "model", "model"),
    ({"user": "u" * 1025}, "user", "at most 1024"),
]


@pytest.mark.parametrize(("changes", "param", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_meant_is_refused_by_name(
    place: _Place, changes: dict[str, Any], param: str | None, words: str
) -> None:
    answer = place.post(json.dumps({"model": "chars", "prompt": "A"} | changes).encode())
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert "\n" not in error["message"]


OFF: dict[str, Any] = {
    "best_of": 1,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "suffix": "",
    "stop": ["", ""],
    "top_k": -1,
    "min_p": 0,
    "user": "me",
    "stream_options": None,
    "use_beam_search": False,
    "stop_token_ids": [],
    "length_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    # Of OpenAI, and of nobody:
    "store": True,
    "metadata": {"a": ["b"]},
    "service_tier": "auto",
    "x": "y",
}


@pytest.mark.parametrize("changes", [OFF, *({name: value} for name, value in OFF.items()), {"top_k": 0}, {"stop": []}])
def test_what_changes_nothing_is_accepted(place: _Place, changes: dict[str, Any]) -> None:
    answer = place.post(json.dumps({"model": "chars", "prompt": "A", "temperature": 0} | changes).encode())
    assert answer.json()["choices"][0]["text"] == place.expected("A", 16, temperature=0)


def test_nulls_are_as_missing_fields(place: _Place) -> None:
    body = dict.fromkeys(CompletionRequest.model_fields) | {"model": "chars", "seed": 3, "temperature": 1}
    answer = place.post(json.dumps(body).encode())
    assert answer.json()["choices"][0]["text"] == place.expected("\n", 16, seed=3, temperature=1)


def test_an_empty_prompt_is_none(place: _Place) -> None:
    """As OpenAI's API begins a document: here as `generate` without --prompt. lm-eval sends null for a first id."""
    ids = CHARACTERS.encode("AB").tolist()
    for prompt, meant in (
        ("", "\n"),
        (["", "A"], "\n"),
        ([None, *ids], "\nAB"),
        ([[None, *ids]], "\nAB"),
        ([None], "\n"),
    ):
        answer = place.post(json.dumps({"model": "chars", "prompt": prompt, "temperature": 0, "echo": True}).encode())
        assert answer.json()["choices"][0]["text"] == meant + place.expected(meant, 16, temperature=0)


def test_a_stream_may_have_other_options(place: _Place) -> None:
    options = {"include_usage": True, "include_obfuscation": False, "continuous_usage_stats": False}
    body = {"model": "chars", "prompt": "A", "stream": True, "stream_options": options}
    assert '"usage":{' in place.post(json.dumps(body).encode()).text


def test_biases_and_penalties(place: _Place) -> None:
    bias = {"7": 3.5, "9": -100}
    answer = place.client.completions.create(
        model="chars",
        prompt="AB",
        max_tokens=40,
        temperature=1,
        seed=4,
        presence_penalty=0.7,
        logit_bias=bias,  # type: ignore[arg-type]
    )
    how: dict[str, Any] = {"presence_penalty": 0.7, "logit_bias": ((7, 3.5), (9, -100.0))}
    assert answer.choices[0].text == place.expected("AB", 40, temperature=1, seed=4, **how)
    assert answer.choices[0].text != place.expected("AB", 40, temperature=1, seed=4)


def test_a_text_may_go_on_past_its_end(narrow: _Place) -> None:
    body: dict[str, Any] = {"model": "bytes", "prompt": "A", "max_tokens": 30, "logit_bias": {"0": 100}}
    assert narrow.post(json.dumps(body).encode()).json()["usage"]["completion_tokens"] == 1
    body["ignore_eos"] = True
    assert narrow.post(json.dumps(body).encode()).json()["usage"]["completion_tokens"] == 30


def test_what_is_long_is_answered_as_what_is_short(place: _Place) -> None:
    """Both have a thread of their own."""
    prompt = "LONG " * 2000
    how: dict[str, Any] = {"temperature": 1.0, "seed": 8}
    answer = place.client.completions.create(model="chars", prompt=prompt, max_tokens=1200, n=2, logprobs=1, **how)
    assert [choice.text for choice in answer.choices] == [
        place.expected(prompt, 1200, number, **how) for number in (0, 1)
    ]
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [1200, 1200]
    with pytest.raises(openai.BadRequestError, match="is not in the vocabulary"):
        place.client.completions.create(model="chars", prompt=prompt + "\u00ef")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"A"', b"\xff\xfe", b"[" * 100_000, b'{"model": "chars"} x', b'{"a": 1e999}'],
)
def test_what_is_no_object_is_refused(place: _Place, content: bytes) -> None:
    answer = place.post(content)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


def test_a_form_is_refused(place: _Place) -> None:
    """A page of another site could send one without being asked."""
    assert place.post(b'{"model": "chars", "prompt": "A"}', **{"content-type": "text/plain"}).status_code == 400


def test_unknown_paths_and_methods(place: _Place) -> None:
    for path, status in (("/docs", 404), ("/health/", 404), ("/v1/../../etc/passwd", 404), ("/v1/completions", 405)):
        answer = httpx.get(f"{place.address}{path}")
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="not trained to chat; use /v1/completions"):
        place.client.chat.completions.create(model="chars", messages=[{"role": "user", "content": "hello"}])


def test_ten_megabytes_are_refused_before_they_are_read(place: _Place) -> None:
    with pytest.raises(openai.APIStatusError, match="too large") as caught:
        place.client.completions.create(model="chars", prompt="A" * 10_000_000)
    assert caught.value.status_code == 413
    host, port = place.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_headers_without_end_are_refused(place: _Place) -> None:
    host, port = place.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/openapi.json", "/v1/models/other", "/nothing"])
def test_head_is_get_without_a_body(place: _Place, path: str) -> None:
    """Load balancers ask so."""
    got, answer = httpx.get(f"{place.address}{path}"), httpx.head(f"{place.address}{path}")
    assert (answer.status_code, answer.content) == (got.status_code, b"")
    assert answer.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(f"{place.address}/v1/completions").status_code == 405


def test_foreign_names_and_pages_are_refused(place: _Place) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = httpx.get(f"{place.address}/v1/models", headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["message"].endswith(".")


def test_health_and_metrics(place: _Place) -> None:
    assert httpx.get(f"{place.address}/health").json() == {"status": "ok"}
    before = place.metrics()
    place.client.completions.create(model="chars", prompt="ABC", max_tokens=7)
    place.post(b"{")
    after = place.metrics()
    assert after["scratchgpt_generated_tokens_total"] - before["scratchgpt_generated_tokens_total"] == 7
    assert after["scratchgpt_prompt_tokens_total"] - before["scratchgpt_prompt_tokens_total"] == 3
    assert after["scratchgpt_steps_total"] - before["scratchgpt_steps_total"] == 7
    assert after["scratchgpt_requests_total400"] - before.get("scratchgpt_requests_total400", 0) == 1
    assert after["scratchgpt_request_seconds_count"] > before["scratchgpt_request_seconds_count"]
    assert after["scratchgpt_batch_size"] == after["scratchgpt_queue_length"] == 0


def test_what_is_asked_at_once_is_made_at_once(place: _Place) -> None:
    before = place.metrics()

    def ask(seed: int) -> str:
        how: dict[str, Any] = {"temperature": 0.8, "seed": seed}
        answer = place.client.completions.create(model="chars", prompt="ABC", max_tokens=400, **how)
        return answer.choices[0].text

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(8)))
    assert texts == [place.expected("ABC", 400, temperature=0.8, seed=seed) for seed in range(8)]
    after = place.metrics()
    assert after["scratchgpt_steps_total"] - before["scratchgpt_steps_total"] < 8 * 400


@pytest.mark.parametrize("is_streamed", [False, True])
def test_who_goes_away_frees_the_place(patient: _Place, *, is_streamed: bool) -> None:
    body = {"model": "bytes", "prompt": "A", "max_tokens": 10**9, "stream": is_streamed, "logit_bias": {}}
    host, port = patient.address.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        if is_streamed:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        else:
            patient.wait_for("scratchgpt_batch_size", 1)
    patient.wait_for("scratchgpt_batch_size", 0)


def test_more_than_ever_find_room_are_refused(narrow: _Place) -> None:
    assert len(narrow.client.completions.create(model="bytes", prompt="A", n=4).choices) == 4
    with pytest.raises(openai.BadRequestError, match="1 prompts with n = 5 are more than 4 texts"):
        narrow.client.completions.create(model="bytes", prompt="A", n=5)


def test_too_many_and_too_late(narrow: _Place) -> None:
    endless: dict[str, Any] = {"model": "bytes", "prompt": "A", "max_tokens": 10**9, "temperature": 0}
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(lambda: narrow.client.completions.create(**endless))
        narrow.wait_for("scratchgpt_batch_size", 1)
        second = pool.submit(lambda: narrow.client.completions.create(**endless, n=2))
        narrow.wait_for("scratchgpt_queue_length", 2)
        third = pool.submit(lambda: narrow.client.completions.create(**endless))
        narrow.wait_for("scratchgpt_queue_length", 3)
        with pytest.raises(openai.RateLimitError, match="3 texts wait already") as caught:
            narrow.client.completions.create(**endless)
        assert caught.value.response.headers["retry-after"] == "1"
        for future, words in ((first, "not done in 1 second"), (second, "in 1 second"), (third, "in 1 second")):
            with pytest.raises(openai.InternalServerError, match=words) as late:
                future.result()
            assert late.value.status_code == 503
    with pytest.raises(openai.APIError, match="not done in 1 second"):
        list(narrow.client.completions.create(**endless, stream=True))
    assert narrow.client.completions.create(**endless | {"max_tokens": 3}).choices
