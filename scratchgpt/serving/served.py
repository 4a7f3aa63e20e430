"""The model that is served: its name, its sizes, and its vocabulary."""

import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import numpy as np
import numpy.typing as npt

from scratchgpt.config import ModelConfig
from scratchgpt.errors import ScratchGPTError
from scratchgpt.generation import default_prompt
from scratchgpt.model.params import Layout
from scratchgpt.serving.problems import ApiError, bad, cut
from scratchgpt.serving.schemas import (
    Decoded,
    DetokenizeRequest,
    Meta,
    Model,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
)
from scratchgpt.tokenizer import Tokenizer
from scratchgpt.tokenizer.base import end_of_text
from scratchgpt.tokenizer.bpe import END_OF_TEXT


class Served:
    """A model as clients see it."""

    def __init__(self, name: str, config: ModelConfig, vocabulary: Tokenizer, ends: Sequence[int] = ()) -> None:
        """Serve a model of these sizes under this name.

        Its texts end at `ends`. Where there are none, they end at <|endoftext|> if the vocabulary has it.
        """
        self.vocabulary, self.block_size = vocabulary, config.block_size
        self.beginning = default_prompt(vocabulary)
        self._unused = frozenset(vocabulary.unused)
        self.model = Model(
            id=name,
            created=int(time.time()),
            max_model_len=config.block_size,
            meta=Meta(
                n_ctx_train=config.block_size,
                n_vocab=config.vocab_size,
                n_params=Layout(config).size,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
            ),
        )
        usual = end_of_text(vocabulary)
        self.ends = frozenset(ends or ([] if usual is None else [usual]))
        names = [name for name, index in vocabulary.special.items() if index in self.ends]
        special = END_OF_TEXT if END_OF_TEXT in names else next(iter(names), None)
        self.tokenizer_info = TokenizerInfo(
            bos_token=special or self.beginning,
            eos_token=special,
            vocab_size=config.vocab_size,
            model_max_length=config.block_size,
        )
        self._beginning_ids = vocabulary.encode(self.beginning).tolist()  # and the event loop's encoder is ready

    def require(self, name: str | None) -> None:
        """Raise an error if another model is meant than this one; None means this one."""
        if name not in {None, self.model.id}:
            message = f"There is no model {cut(str(name))} here; this server has {cut(self.model.id)}."
            raise ApiError(HTTPStatus.NOT_FOUND, message, code="model_not_found", param="model")

    def require_tokens(self, ids: Iterable[int], field: str) -> None:
        """Raise an error that names the field if an id is not in the vocabulary."""
        vocab_size = self.vocabulary.vocab_size
        unknown = [token for token in ids if token >= vocab_size or token in self._unused]
        if unknown:
            n_tokens = vocab_size - len(self._unused)
            raise bad(f"There is no token {max(unknown)}; the vocabulary has {n_tokens:,}.", field)

    def with_beginning(self, ids: Sequence[int | None]) -> list[int]:
        """Return ids of which the first may be null: lm-eval sends it where a tokenizer has no token to begin with."""
        first = self._beginning_ids if ids[0] is None else []
        others = [token for token in ids if token is not None]
        if len(others) + bool(first) < len(ids):
            raise bad("Only the first id of a prompt may be null.", "prompt")
        return first + others

    def encoded(self, text: str, field: str, *, special: bool = False) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text. Raises an error that names the field."""
        try:
            return self.vocabulary.encode(text, special=special)
        except ScratchGPTError as error:
            raise bad(str(error), field) from error

    def decoded(self, ids: Sequence[int], field: str) -> str:
        """Return the text of ids. Raises an error that names the field."""
        self.require_tokens(ids, field)
        return self.vocabulary.decode(ids)

    def tokenize(self, asked: TokenizeRequest) -> Tokens:
        """Return the ids of a text. The names of special tokens are these tokens, unless the request says otherwise."""
        self.require(asked.model)
        if (asked.prompt is None) == (asked.content is None):
            raise bad("Give the text as prompt or as content.", "prompt")
        field, text = ("content", asked.content) if asked.prompt is None else ("prompt", asked.prompt)
        ids = self.encoded(text or "", field, special=asked.parse_special is not False)
        return Tokens(tokens=ids.tolist(), count=len(ids), max_model_len=self.block_size)

    def detokenize(self, asked: DetokenizeRequest) -> Decoded:
        """Return the text of ids."""
        self.require(asked.model)
        text = self.decoded(asked.tokens, "tokens")
        return Decoded(prompt=text, content=text)
