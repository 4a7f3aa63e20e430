"""No request costs more than it may: every field has a bound, and the largest values keep nobody waiting."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from scratchgpt.serving import schemas
from scratchgpt.serving.app import LARGEST_BODY
from scratchgpt.serving.bodies import understood
from scratchgpt.serving.problems import ApiError, cut
from scratchgpt.tokenizer import BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from tests.serving.world import serving, write_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
AT_ONCE = 8


def unbounded(schema: Any, place: str = "") -> Iterator[str]:
    """Yield the places of a JSON schema where a value may be as large as it likes."""
    parts = [part for kind in ("anyOf", "oneOf", "allOf") for part in schema.get(kind, [])]
    for part in parts:
        yield from unbounded(part, place)
    match schema.get("type"):
        case "string" if not {"maxLength", "enum", "const"} & schema.keys():
            yield f"{place}: a string"
        case "integer" | "number" if not (
            {"minimum", "exclusiveMinimum"} & schema.keys() and {"maximum", "exclusiveMaximum"} & schema.keys()
        ):
            yield f"{place}: a number"
        case "array" if "maxItems" not in schema:
            yield f"{place}: a list"
        case "object" if "properties" not in schema and "maxProperties" not in schema:
            yield f"{place}: an object"
        case None if not parts and not {"enum", "const"} & schema.keys():
            yield f"{place}: anything"
    if schema.get("maxItems"):
        yield from unbounded(schema["items"], f"{place}[]")
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(part, f"{place}.{name}")
    if schema.get("maxProperties"):
        keys = schema.get("propertyNames", {}) | {"type": "string"}
        yield from unbounded(keys, f"{place} key")
        for part in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
            if isinstance(part, dict):
                yield from unbounded(part, f"{place}{{}}")


@pytest.fixture(scope="module")
def vocabulary() -> BPETokenizer:
    """Bytes, and a few pairs."""
    return train({"the": 5, " then": 3}, 261)


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
    from pydantic import create_model

    model: Any = create_model("Asked", __base__=schemas.CompletionRequest, more=(field, None))
    assert len(list(unbounded(model.model_json_schema()))) >= 1
    assert list(unbounded(schemas.CompletionRequest.model_json_schema())) == []
