"""What goes in and out, as OpenAI's API defines it: https://platform.openai.com/docs/api-reference/completions."""

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_TEXTS = 128
"""Texts of one request: prompts times n."""

# fail_fast: to list all that is wrong in a large body would take seconds.
Token = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
Line = Annotated[str, Field(min_length=1)]
Prompts = Annotated[list[Line], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
IdLists = Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]

FORMS = {
    "prompt": "a string, a list of strings, a list of token ids or a list of such lists, none of them empty",
    "stop": "a string or a list of up to 4 strings, none of them empty",
}
"""Of the fields that have several: what they may be."""


class _Strict(BaseModel):
    """Nothing is converted, and what is not known is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _with_one_unknown(cls, given: Any) -> Any:
        """Keep only the first unknown field: to complain of thousands would take long."""
        if not isinstance(given, dict):
            return given
        unknown = (name for name in given if name not in cls.model_fields)
        return {name: given[name] for name in (*cls.model_fields, *islice(unknown, 1)) if name in given}


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: bool | None = None


class CompletionRequest(_Strict):
    """POST /v1/completions. A field that is null is as one that is missing."""

    model: str
    prompt: Line | Prompts | Ids | IdLists | None = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_TEXTS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    stop: Line | Annotated[list[Line], Field(max_length=4, fail_fast=True)] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: str | None = Field(None, description="Whom the text is for: changes nothing.")
    # Ours, as other servers have them too:
    top_k: int | None = Field(None, ge=1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=1e-6, le=1e6)
    # OpenAI's that are not to be had, but may be said to be as they are anyway:
    best_of: Literal[1] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    suffix: None = None


UNSUPPORTED = ("best_of", "logit_bias", "presence_penalty", "suffix")
"""What this server does not do."""


class Usage(BaseModel):
    """Tokens, each prompt counted once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """How likely tokens were, entry by entry. Offsets count characters from the beginning of the prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    """One text."""

    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The answer, or a piece of one that is streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "scratchgpt"


class Models(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


class Health(BaseModel):
    """GET /health."""

    status: Literal["ok"] = "ok"


Failures = dict[int | str, dict[str, Any]]
FAILURES: Failures = {"4XX": {"model": Error}, "5XX": {"model": Error}}
STREAMED: Failures = {200: {"content": {"text/event-stream": {}}, "description": "Whole, or in pieces."}}
"""For the OpenAPI document."""
