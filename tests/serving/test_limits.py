"""No request costs more than it may: every field has a bound, and the largest values keep nobody waiting."""

import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import httpx
import pytest
from pydantic import create_model

from scratchgpt.serving import schemas
from scratchgpt.serving.app import LARGEST_BODY
from scratchgpt.serving.bodies import understood
from scratchgpt.serving.problems import ApiError, cut
from scratchgpt.tokenizer import BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from tests.serving.world import serving, write_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
AT_ONCE = 8


def parts_of(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a JSON schema, each after what it is of the whole."""
    for kind in ("anyOf", "oneOf", "allOf"):
        yield from (("", part) for part in schema.get(kind, []))
    if schema.get("maxItems"):
        yield "[]", schema["items"]
    yield from ((f".{name}", part) for name, part in schema.get("properties", {}).items())
    if schema.get("maxProperties"):
        yield " key", {"type": "string"} | schema.get("propertyNames", {})
        values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        yield from (("{}", part) for part in values if isinstance(part, dict))


def unbounded(schema: Any, place: str = "") -> Iterator[str]:
    """Yield the places of a JSON schema where a value may be as large as it likes."""
    bounds = {
        "string": [{"maxLength"}],
        "integer": [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}],
        "array": [{"maxItems"}],
        "object": [{"maxProperties", "properties"}],
        None: [{"anyOf", "oneOf", "allOf"}],
    }
    kind = {"number": "integer"}.get(schema.get("type"), schema.get("type"))
    is_choice = bool({"enum", "const"} & schema.keys())
    if not is_choice and not all(names & schema.keys() for names in bounds.get(kind, [])):
        yield f"{place}: {schema}"
    for name, part in parts_of(schema):
        yield from unbounded(part, place + name)


@pytest.fixture(scope="module")
def vocabulary() -> BPETokenizer:
    """Bytes, a few pairs, and a token of 64 letters."""
    return train({"the": 5, " then": 3, "a" * 64: 1}, 267)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, vocabulary: BPETokenizer) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, vocabulary)
    with serving(folder) as address:
        yield address


def test_every_field_has_a_bound(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    n_schemas = 0
    for path, operations in document["paths"].items():
        for operation in operations.values():
            asked = [parameter["schema"] for parameter in operation.get("parameters", [])]
            if body := operation.get("requestBody"):
                asked.append(body["content"]["application/json"]["schema"])
            n_schemas += len(asked)
            for schema in asked:
                assert list(unbounded(schema, path)) == []
    assert n_schemas == 4, "three bodies and a name"


@pytest.mark.parametrize(
    "field",
    [
        str,
        int | None,
        float,
        list[schemas.Token],
        dict[str, bool],
        schemas.Text | list[Any],
        Any,
        list[list[schemas.Name]],
    ],
    ids=str,
)
def test_a_field_without_a_bound_is_found(field: Any) -> None:
    model: Any = create_model("Asked", __base__=schemas.CompletionRequest, more=(field, None))
    assert len(list(unbounded(model.model_json_schema()))) >= 1
    assert list(unbounded(schemas.CompletionRequest.model_json_schema())) == []


def largest(schema: Any, n_left: int = LARGEST_BODY - 1000) -> Iterator[Any]:
    """Yield the largest values that a JSON schema allows, one for each of its alternatives, in `n_left` bytes of JSON.

    Strings are letters without a space between: for byte pairs the slowest text to encode.
    """
    if alternatives := schema.get("anyOf"):
        for part in alternatives:
            yield from largest(part, n_left)
        return
    match schema.get("type"):
        case "string":
            yield "".join(random.Random(0).choices(LETTERS, k=min(schema["maxLength"], n_left)))  # noqa: S311
        case "integer" | "number":
            yield schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1)
        case "boolean":
            yield True
        case "array" if schema["maxItems"]:
            for item in largest(schema["items"], min(n_left, max(20, n_left // schema["maxItems"]) - 4)):
                yield [item] * min(schema["maxItems"], n_left // (len(json.dumps(item)) + 2))
        case "object":
            (value,) = largest(next(iter(schema.get("patternProperties", {}).values()), {"type": "boolean"}))
            yield {str(number): value for number in range(schema["maxProperties"])}


class Bystander:
    """Asks for /health and a small text again and again, and notes how long the answers take."""

    def __init__(self, address: str) -> None:
        """Begin."""
        self.seconds: dict[str, list[float]] = {"/health": [], "/v1/completions": []}
        self._address, self._is_over = address, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._address, timeout=60) as client:
            while not self._is_over.wait(0.005):
                for path, seconds in self.seconds.items():
                    start = time.perf_counter()
                    if path == "/health":
                        answer = client.get(path)
                    else:
                        answer = client.post(path, json={"model": "model", "prompt": "a", "max_tokens": 2})
                    answer.raise_for_status()
                    seconds.append(time.perf_counter() - start)

    def require_quick(self) -> None:
        """Fail if the usual wait was long, a hundred times as long as it should be; other programs may be running."""
        assert len(self.seconds["/health"]) >= 3
        assert statistics.median(self.seconds["/health"]) <= 1
        assert statistics.median(self.seconds["/v1/completions"]) <= 2


def send(address: str, body: bytes) -> httpx.Response:
    answer = httpx.post(
        f"{address}/v1/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code in {200, 400, 404, 429}, answer.text[:1000]
    if answer.status_code != 200:
        assert len(answer.content) < 500, "errors repeat little of what was sent"
    return answer


@pytest.mark.slow
def test_the_largest_value_of_each_field(address: str) -> None:
    schema = schemas.CompletionRequest.model_json_schema()["properties"]
    bodies = [
        json.dumps({"model": "model", "prompt": "a", "max_tokens": 2} | {field: value}).encode()
        for field, part in schema.items()
        for value in largest(part)
    ]
    assert max(map(len, bodies)) > 2**19
    with Bystander(address) as bystander:
        statuses = [send(address, body).status_code for body in bodies]
    assert statuses.count(200) > 15
    bystander.require_quick()


@pytest.mark.slow
def test_the_largest_values_together(address: str, vocabulary: BPETokenizer) -> None:
    properties = schemas.CompletionRequest.model_json_schema()["properties"]
    values = {field: list(largest(part)) for field, part in properties.items()}
    most = {field: several[-1] for field, several in values.items() if several}
    taken = {field: value for field, value in most.items() if field not in schemas.UNSUPPORTED} | {
        "model": "model",
        "prompt": [values["prompt"][0][: 2**11]] * 128,
        "max_tokens": 4,
        "n": 1,
        "best_of": 1,
        "echo": False,
        "logit_bias": dict.fromkeys(map(str, range(vocabulary.vocab_size)), 100),
    }
    bodies = [most | {"prompt": prompt} for prompt in values["prompt"]] + [taken, taken | {"stream": False}]
    with Bystander(address) as bystander, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda body: send(address, json.dumps(body).encode()[:LARGEST_BODY]), bodies * 3))
    assert {answer.status_code for answer in answers} >= {200, 400}
    bystander.require_quick()


BACKSLASH = chr(92)
M = LARGEST_BODY - 1000
HOSTILE = {
    "many unknown fields": "{" + ",".join(f'"{number:x}":0' for number in range(M // 10)) + "}",
    "a long unknown field": f'{{"{"temperature" * (M // 11)}": 1}}',
    "a long model": f'{{"model": "{"m" * M}"}}',
    "lists in lists": '{"a": [' + "[[]]," * (M // 5) + "0]}",
    "lists in a prompt": '{"model": "model", "prompt": [' + "[]," * (M // 3) + "0]}",
    "deep lists": '{"prompt": [' + ("[" * 150 + "]" * 150 + ",") * (M // 301) + "0]}",
    "objects in a prompt": '{"prompt": [' + "{}," * (M // 3) + "0]}",
    "strings in a prompt": '{"prompt": [' + '"",' * (M // 3) + "0]}",
    "numbers in a prompt": '{"prompt": [' + "1.5," * (M // 4) + "0]}",
    "many biases": '{"logit_bias": {' + ",".join(f'"{number:x}":0' for number in range(M // 10)) + "}}",
    "a large number": f'{{"seed": {"1" * M}}}',
    "backslashes": '{"prompt": "' + BACKSLASH * 2 * (M // 2) + '"}',
    "escaped quotes": '{"prompt": "' + (BACKSLASH + '"[') * (M // 3),
    "brackets": "[" * M,
}


@pytest.mark.slow
def test_what_is_large_and_wrong(address: str) -> None:
    """Eight clients at once send each kind."""
    for name, body in HOSTILE.items():
        assert len(body) <= LARGEST_BODY, name
        with Bystander(address) as bystander, ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda _, body=body: send(address, body.encode()), range(AT_ONCE)))
            bystander_has_asked(bystander)
        assert {answer.status_code for answer in answers} <= {400, 429}, name
        bystander.require_quick()


def bystander_has_asked(bystander: Bystander) -> None:
    """Wait until there is something to judge by."""
    while len(bystander.seconds["/v1/completions"]) < 3:
        time.sleep(0.01)


def test_brackets_in_a_text_are_no_lists(address: str) -> None:
    text = json.dumps({"model": "model", "prompt": f'[{{"{BACKSLASH}' * 2**14, "max_tokens": 1})
    assert "tokens, and may have" in send(address, text.encode()).json()["error"]["message"]


def test_a_prompt_is_not_repeated_without_end(address: str, vocabulary: BPETokenizer) -> None:
    body: dict[str, Any] = {
        "model": "model",
        "prompt": [vocabulary.vocab_size - 1] * 16_384,
        "max_tokens": 0,
        "echo": True,
    }
    assert len(send(address, json.dumps(body | {"n": 4}).encode()).content) > 2**22
    error = send(address, json.dumps(body | {"n": 5}).encode()).json()["error"]
    assert (error["param"], error["message"]) == (
        "echo",
        "The prompts repeated would be 5,242,880 characters; at most 4,194,304.",
    )


def test_long_addresses_are_not_repeated(address: str) -> None:
    for path in ("/" + "a" * 9000, "/v1/models/" + "a" * 9000, "/v1/models/" + "a" * 900, "/health/" + "a" * 9000):
        answer = httpx.get(address + path)
        assert answer.status_code in {400, 404}
        assert len(answer.content) < 500
        assert len(str(answer.headers)) < 1500


def test_quotes_are_short() -> None:
    for letter in ("a", "'", chr(27), chr(0x10FFFF), BACKSLASH):
        text = letter * 10**6
        assert len(cut(text)) <= 100
    for body in HOSTILE.values():
        with pytest.raises(ApiError) as caught:
            understood(body.encode(), schemas.CompletionRequest)
        assert len(json.dumps(caught.value.content)) < 500
