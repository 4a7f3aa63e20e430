"""What a tokenizer does, and reading one from its files.

The files are those of the `tokenizers` library: tokenizer.json, and tokenizer_config.json, without which
`transformers.AutoTokenizer` would guess a class that drops spaces and newlines.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import DataError
from scratchgpt.files import read_json, write_json
from scratchgpt.kinds import decoded
from scratchgpt.tokenizer.added import Added
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer
from scratchgpt.tokenizer.bpe_json import read_added
from scratchgpt.tokenizer.char import CharTokenizer
from scratchgpt.tokenizer.cutting import Cut

FILES = ("tokenizer.json", "tokenizer_config.json")
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""What GPT-2's vocabulary was in before there was tokenizer.json: in `transformers`, and at OpenAI."""
MORE = ("added_tokens.json", "special_tokens_map.json", FILES[1])
"""Where `transformers` writes added tokens, too."""

CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


class Tokenizer(Protocol):
    """A vocabulary of `vocab_size` tokens, and the way from text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are: one more than the largest."""

    @property
    def unused(self) -> Sequence[int]:
        """The ids, in order, that stand for no token: gaps in a vocabulary, and what `padded` adds."""

    def padded(self, vocab_size: int) -> "Tokenizer":
        """Return the same vocabulary with `vocab_size` ids; the new ids are unused."""

    @property
    def special(self) -> Mapping[str, int]:
        """Names and ids of the tokens that no text gives."""

    def __contains__(self, token: str) -> bool:
        """Tell whether this is a token."""

    @property
    def cut(self) -> Cut | None:
        """Where a long text may be cut without a change of its ids; None if only the whole text gives them."""

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text. Raises UsageError naming what is not in the vocabulary.

        With `special`, the names of special tokens become those tokens; otherwise they are text like any other.
        """

    def encode_batch(self, texts: Sequence[str]) -> Sequence[npt.NDArray[np.uint32]]:
        """Return the ids (N,) of each text. Raises UsageError as `encode` does."""

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the UTF-8 of ids (N,), which may begin and end in the middle of a character."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids (N,)."""

    def to_json(self) -> dict[str, Any]:
        """Return the contents of tokenizer.json."""


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """Return the id of <|endoftext|>, which ends a document, if the vocabulary has it."""
    return tokenizer.special.get(END_OF_TEXT)


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return how many bytes of text each token stands for (V,): special and unused ones for none."""
    lengths = np.zeros(tokenizer.vocab_size, np.int64)
    for index in set(range(tokenizer.vocab_size)).difference(tokenizer.unused, tokenizer.special.values()):
        lengths[index] = len(tokenizer.decode_bytes([index]))
    return lengths


def fits(tokenizer: Tokenizer, n_rows: int) -> bool:
    """Return whether a vocabulary may belong to a model with `n_rows` rows; some rows may have no token.

    Rows of characters are padded to a multiple of 8, if at all. Any other difference shows another model's vocabulary.
    """
    is_padded = n_rows % 8 == 0 or not isinstance(tokenizer, CharTokenizer)
    return tokenizer.vocab_size == n_rows or (tokenizer.vocab_size < n_rows and is_padded)


def difference(one: Tokenizer, other: Tokenizer) -> str:
    """Return in what two vocabularies differ, as half a sentence; nothing if they give the same ids."""
    contents = one.to_json(), other.to_json()
    if contents[0] == contents[1]:
        return ""
    if type(one) is not type(other):
        kinds = {CharTokenizer: "characters", BPETokenizer: "byte pairs"}
        return f"{kinds[type(one)]} there, {kinds[type(other)]} here"
    words = [sorted(content["model"]["vocab"], key=content["model"]["vocab"].get) for content in contents]
    sizes = f"{len(words[0]):,} tokens there, {len(words[1]):,} here"
    for index, (word, other_word) in enumerate(zip(*words, strict=False)):
        if word != other_word:
            return f"{sizes}; the first that differs is {index}, {word!r} there, {other_word!r} here"
    return sizes if len(words[0]) != len(words[1]) else "the same tokens, but texts are cut into them otherwise"


def save(tokenizer: Tokenizer, folder: Path, ends: Sequence[int] = ()) -> None:
    """Write the tokenizer's files into `folder`, with the name of the first of the ids that end a text."""
    names = {index: name for name, index in tokenizer.special.items()}
    eos = {"eos_token": names[ends[0]]} if ends and ends[0] in names else {}
    for name, content in zip(FILES, (tokenizer.to_json(), CONFIG | eos), strict=True):
        write_json(folder / name, content)


def load(folder: Path) -> Tokenizer:
    """Read the tokenizer of a data folder, a checkpoint or a folder of `transformers`. Raises DataError.

    `transformers` may have written more added tokens into other files of the folder.
    """
    if (folder / FILES[0]).exists():
        return read(folder / FILES[0], more=folder)
    for vocabulary, merges in PAIRS:
        if (folder / vocabulary).exists() and (folder / merges).exists():
            return _read_pair(folder / vocabulary, folder / merges)
    raise DataError(
        f"{folder} has no vocabulary, neither {FILES[0]} nor {' and '.join(PAIRS[0])}; put the model's own there, or "
        "name another folder."
    )


def read(path: Path, *, more: Path | None = None) -> Tokenizer:
    """Read a tokenizer.json: characters, or byte-level BPE, with `more` added tokens of a folder. Raises DataError."""
    content = read_json(path, DataError)
    model = content.get("model")
    reader: Callable[[dict[str, Any]], Tokenizer]
    # Older files do not name the type.
    match model.get("type", "BPE" if "merges" in model else None) if isinstance(model, dict) else None:
        case "BPE":
            reader, kind = partial(_read_bpe, more=more), "byte-level BPE that is supported"
        case "WordLevel":
            reader, kind = CharTokenizer.from_json, "character vocabulary"
        case other:
            raise DataError(
                f"{path} cannot be used: its model's type is {other!r}, and only BPE and WordLevel are known."
            )
    try:
        return reader(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be used: it is no {kind} ({error}).") from error


def _read_bpe(content: dict[str, Any], *, more: Path | None) -> BPETokenizer:
    """Read a tokenizer.json with more added tokens of a folder.

    Raises ValueError, KeyError, TypeError or AttributeError for tokenizer.json, DataError for the others.
    """
    tokenizer = BPETokenizer.from_json(content)
    if more is None:
        return tokenizer
    there = {token.name for token in tokenizer.added}
    try:
        beside = _added_beside(more, content["model"]["vocab"])
        added = [{"content": token.name, **token._asdict()} for token in beside if token.name not in there]
        if not added:
            return tokenizer
        return BPETokenizer.from_json(content | {"added_tokens": [*content.get("added_tokens", []), *added]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _misfit(more, [FILES[0]], error) from error


def _read_pair(path: Path, merges: Path) -> Tokenizer:
    """Read the ids of words, and a merge a line. Raises DataError."""
    vocabulary = read_json(path, DataError)
    try:
        lines = decoded(merges.read_bytes()).replace("\r\n", "\n").split("\n")
        added = _added_beside(path.parent, vocabulary)
        if END_OF_TEXT in vocabulary and END_OF_TEXT not in {token.name for token in added}:
            added.append(Added(END_OF_TEXT, vocabulary[END_OF_TEXT]))
        return BPETokenizer.from_words(
            vocabulary,
            [line for line in lines if line and not line.startswith("#version:")],
            added=added,
            space_at=0 if _optional(path.with_name(FILES[1])).get("add_prefix_space") is True else None,
        )
    except OSError as error:
        raise DataError(f"Cannot read {merges}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _misfit(path.parent, [path.name, merges.name], error) from error


def _misfit(folder: Path, vocabulary: Sequence[str], error: Exception) -> DataError:
    """Return an error that names a vocabulary's files, and those that may have more added tokens."""
    *names, last = [*vocabulary, *(name for name in MORE if (folder / name).exists())]
    return DataError(f"{folder}: {', '.join(names)} and {last} cannot be used together ({error}).")


def _added_beside(folder: Path, vocabulary: Mapping[str, Any]) -> list[Added]:
    """Return the added tokens that `transformers` has written next to a vocabulary.

    Their ids are in tokenizer_config.json, or in added_tokens.json, or, for special ones that are only named, in the
    vocabulary. A name without an id is ignored. Raises what `_read_bpe` raises.
    """
    more, names, config = (_optional(folder / name) for name in MORE)
    special = {
        token["content"] if isinstance(token, dict) else token
        for content in (config, names)
        for key, value in content.items()
        if key.endswith("_token") or key in {"additional_special_tokens", "extra_special_tokens"}
        for token in (value if isinstance(value, list) else [value])
        if isinstance(token, str) or (isinstance(token, dict) and "content" in token)
    }
    ids = {name: vocabulary[name] for name in sorted(special) if name in vocabulary}
    ids |= more
    plain = [{"content": name, "id": index, "special": name in special} for name, index in ids.items()]
    described = [{**token, "id": int(index)} for index, token in config.get("added_tokens_decoder", {}).items()]
    return list({token["content"]: read_added(token) for token in (*plain, *described)}.values())


def _optional(path: Path) -> dict[str, Any]:
    """Read a JSON object that may be missing. Raises DataError."""
    return read_json(path, DataError) if path.exists() else {}
