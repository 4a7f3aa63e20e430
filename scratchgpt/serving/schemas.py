"""Requests and answers, as OpenAI's API defines them: https://platform.openai.com/docs/api-reference/completions.

Every field of a request has a bound, so that no request can cost more than docs/serving.md says.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_TEXTS = 128
"""Texts of one request: prompts times n."""
LONGEST_TEXT = 2**18
"""Characters, or ids, of a prompt. To encode as many takes a second at most."""
MOST_IDS = 2**16
"""Ids that are decoded for one request: of GPT-2's vocabulary at most 8 MB of text."""
MOST_STOPS, LONGEST_STOP = 16, 1024
"""Strings that end a text, and characters of each."""
MOST_BIASES = 1024
"""Tokens with a bias. OpenAI takes 300."""
MOST_LOGPROBS = 20
"""Likeliest tokens that are named next to each token."""
LONGEST_NAME = 1024
"""Characters of a name."""

# fail_fast: a long list can have so many errors that to describe them all would take seconds.
Token = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
Ids = Annotated[list[Token | None], Field(min_length=1, max_length=LONGEST_TEXT, fail_fast=True)]
IdLists = Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
StopString = Annotated[str, Field(max_length=LONGEST_STOP)]
StopStrings = Annotated[list[StopString], Field(max_length=MOST_STOPS, fail_fast=True)]


def _few(given: Any) -> Any:
    """Raise ValueError for a large dict before pydantic describes what is wrong with each of its entries."""
    if isinstance(given, dict) and len(given) > MOST_BIASES:
        raise ValueError(f"there are more than {MOST_BIASES:,} entries")
    return given


TokenName = Annotated[str, Field(pattern=r"^\d+$", max_length=10)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[TokenName, Bias], Field(max_length=MOST_BIASES), BeforeValidator(_few)]
Flags = Annotated[dict[Annotated[str, Field(max_length=64)], bool | None], Field(max_length=8), BeforeValidator(_few)]

# Of fields that are not supported: the values that turn them off.
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)] | None
EmptyList = Annotated[list[None], Field(max_length=0)]
EmptyDict = Annotated[dict[Name, None], Field(max_length=0), BeforeValidator(_few)]
Off = Literal[False, ""] | Zero | EmptyList | EmptyDict | None

FORMS = {
    "prompt": f"a string, a list of strings, a list of token ids or a list of such lists; at most {MOST_TEXTS} prompts "
    f"of {LONGEST_TEXT:,} characters or ids, and no list is empty",
    "stop": f"a string or a list of up to {MOST_STOPS} strings, each of up to {LONGEST_STOP:,} characters",
    "logit_bias": f"an object of up to {MOST_BIASES:,} token ids in quotes, with numbers from -100 to 100",
    "tokens": f"a list of up to {MOST_IDS:,} token ids",
    "stream_options": "an object of up to 8 names with true or false",
}
"""The allowed values of fields whose type has several parts."""


class _Request(BaseModel):
    """A body. Nothing is converted; unknown fields are ignored; a field that is null is as one that is missing."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Unsupported(_Request):
    """Fields of OpenAI, vLLM and llama.cpp that would change a text or its answer, and that this server does not have.

    Each may have the value that turns it off.
    """

    suffix: Off = None
    messages: Off = None
    response_format: Off = None
    max_completion_tokens: None = None
    n_predict: None = None
    min_tokens: Off = None
    stop_token_ids: Off = None
    include_stop_str_in_output: Off = None
    bad_words: Off = None
    allowed_token_ids: Off = None
    use_beam_search: Off = None
    length_penalty: One = None
    repeat_penalty: One = None
    typical_p: One = None
    mirostat: Off = None
    dry_multiplier: Off = None
    xtc_probability: Off = None
    dynatemp_range: Off = None
    grammar: Off = None
    json_schema: Off = None
    guided_json: Off = None
    guided_regex: Off = None
    guided_choice: Off = None
    guided_grammar: Off = None
    structured_outputs: Off = None
    prompt_embeds: Off = None
    prompt_logprobs: None = None
    truncate_prompt_tokens: None = None
    return_token_ids: Off = None
    return_tokens_as_token_ids: Off = None
    n_probs: Off = None


class CompletionRequest(Unsupported):
    """POST /v1/completions."""

    model: Name
    prompt: Text | Texts | Ids | IdLists | None = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_TEXTS)
    best_of: int | None = Field(None, ge=1, le=MOST_TEXTS, description="Must be n.")
    stream: bool | None = None
    stream_options: Flags | None = Field(None, description="include_usage; other names change nothing.")
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool | None = None
    stop: StopString | StopStrings | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: Name | None = Field(None, description="Changes nothing.")
    # Of vLLM and llama.cpp:
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=1e-6, le=1e6)
    ignore_eos: bool | None = None


class TokenizeRequest(_Request):
    """POST /tokenize: `prompt` as vLLM calls the text, or `content` as llama.cpp does."""

    model: Name | None = None
    prompt: Text | None = None
    content: Text | None = None
    parse_special: bool | None = Field(None, description="False: the name of a special token is text like any other.")
    add_special_tokens: bool | None = Field(None, description="Changes nothing: no token is ever added.")
    messages: Off = None
    with_pieces: Off = None
    return_token_strs: Off = None


class DetokenizeRequest(_Request):
    """POST /detokenize."""

    model: Name | None = None
    tokens: Annotated[list[Token], Field(max_length=MOST_IDS, fail_fast=True)]


UNSUPPORTED = {*Unsupported.model_fields, "with_pieces", "return_token_strs"}
"""Fields that a request may only turn off."""


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


class Meta(BaseModel):
    """A model's sizes by llama.cpp's names."""

    n_ctx_train: int
    n_vocab: int
    n_params: int
    n_embd: int
    n_layer: int
    n_head: int


class Model(BaseModel):
    """The model that is served. `max_model_len` is vLLM's name of block_size."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "scratchgpt"
    max_model_len: int
    meta: Meta


class Models(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Tokens(BaseModel):
    """The ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int


class Decoded(BaseModel):
    """A text, by vLLM's name and by llama.cpp's."""

    prompt: str
    content: str


class TokenizerInfo(BaseModel):
    """GET /tokenizer_info, as vLLM has it and lm-eval reads it: `bos_token` stands before the text to be judged."""

    tokenizer_class: str = "PreTrainedTokenizerFast"
    bos_token: str
    eos_token: str | None
    vocab_size: int
    model_max_length: int


class Version(BaseModel):
    """GET /version."""

    version: str


class ErrorDetail(BaseModel):
    """The details of an error."""

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


def takes(body: type[_Request]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a path that reads its body itself (bodies.py)."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    return {"openapi_extra": {"requestBody": {"content": content, "required": True}}}
