"""The OpenAPI document against the server: requests made from it, valid ones and others, and answers held to it."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from scratchgpt.tokenizer import CharTokenizer
from tests.serving.world import serving, write_model

CHECKS: Any = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, CharTokenizer(map(chr, range(32, 127))))
    with serving(folder, "--max-tokens", "50") as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_the_document_allows_or_not(mode: GenerationMode, address: str) -> None:
    schema: Any = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/models", "/v1/completions", "/health", "/metrics"}
    for operation in operations:
        if mode.is_negative and not operation.body:
            continue  # nothing can be wrong in a request that has no body
        cases = operation.as_strategy(generation_mode=mode)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=cases)
        def check(case: Any) -> None:
            if isinstance(case.body, dict) and case.body.get("model") is not None and mode.is_positive:
                case.body["model"] = "model"  # else hardly a request would get past that
            case.call_and_validate(checks=CHECKS)

        check()
