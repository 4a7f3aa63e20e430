"""A tokenizer.json that another program has changed gives the ids that the `tokenizers` library gives from it.

Plain encoding is meant: without the special tokens that a post-processor adds, without padding and truncation.
"""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.documents import whole_words
from scratchgpt.errors import DataError
from scratchgpt.tokenizer import BPETokenizer
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.counting import count_pieces
from scratchgpt.tokenizer.cutting import GPT4_PATTERNS
from scratchgpt.tokenizer.patterns import split as cut
from tests.strategies import settled_texts

TEXT = "the cat's hat: 1234 the café, the cafe\u0301 — the  end.\n\nthat hat\n"
OWN = train(count_pieces([TEXT]), 280).to_json()
N, TWO, THREE = (280 + more for more in range(3))
Content = dict[str, Any]

NAMES = ["<s>", "</s>", "xy", " xy", "the", "  ", "\n\n", "a<s>", "cafe\u0301", "<mask>"]
texts = st.lists(
    st.sampled_from([*NAMES, "<|endoftext|>", "café", " ", "\n", "a", "\u1e9b\u0323", "ﬁ", "x_", "the cat's"])
    | settled_texts
).map("".join)


def added(name: str, index: int, **flags: bool) -> Content:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": name, **usual, **flags}


def with_added(*tokens: Content) -> Callable[[Content], None]:
    return lambda content: content["added_tokens"].extend(tokens)


def level(**parts: Any) -> Content:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True} | parts


def split(pattern: Content, behavior: str = "Isolated", *, invert: bool = False) -> Content:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def pre_tokenizer(*steps: Content) -> Callable[[Content], None]:
    return lambda content: content.update(pre_tokenizer={"type": "Sequence", "pretokenizers": list(steps)})


def sequence(**parts: Any) -> Content:
    return {"type": "Sequence", **parts}


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
}
ENDS = {"sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0]}
PADDING = {
    "strategy": {"Fixed": 50},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}
DIGITS = {"type": "Digits", "individual_digits": True}

CHANGES: dict[str, Callable[[Content], Any]] = {
    "padding": lambda c: c.update(padding=PADDING),
    "truncation": lambda c: c.update(
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    ),
    "ByteLevel post-processor": lambda c: c.update(post_processor=level(trim_offsets=False)),
    "template": lambda c: c.update(post_processor=TEMPLATE),
    "RobertaProcessing": lambda c: c.update(
        post_processor={"type": "RobertaProcessing", **ENDS, "trim_offsets": True, "add_prefix_space": True}
    ),
    "BertProcessing": lambda c: c.update(post_processor={"type": "BertProcessing", **ENDS}),
    "post-processors": lambda c: c.update(post_processor=sequence(processors=[level(), TEMPLATE])),
    "NFC": lambda c: c.update(normalizer={"type": "NFC"}),
    "NFD": lambda c: c.update(normalizer={"type": "NFD"}),
    "NFKC": lambda c: c.update(normalizer={"type": "NFKC"}),
    "NFKD, NFC": lambda c: c.update(normalizer=sequence(normalizers=[{"type": "NFKD"}, {"type": "NFC"}])),
    "no normalizers": lambda c: c.update(normalizer=sequence(normalizers=[])),
    "prefix space": pre_tokenizer(level(add_prefix_space=True)),
    "digits, prefix space": pre_tokenizer(DIGITS, level(add_prefix_space=True)),
    "prefix space to matches": pre_tokenizer(
        split({"Regex": max(GPT4_PATTERNS)}), level(add_prefix_space=True, use_regex=False)
    ),
    "nested sequences": pre_tokenizer(sequence(pretokenizers=[DIGITS]), sequence(pretokenizers=[level()])),
    "a string to split at": pre_tokenizer(split({"String": "."}), level()),
    "inverted": pre_tokenizer(split({"Regex": "[a-m]+"}, invert=True), level()),
    "the rest removed": pre_tokenizer(
        split({"Regex": min(GPT4_PATTERNS)}, "Removed", invert=True), level(use_regex=False)
    ),
    "ignore_merges": lambda c: c["model"].update(ignore_merges=True, merges=c["model"]["merges"][5:]),
    "byte_fallback": lambda c: c["model"].update({"byte_fallback": True, "unk_token": "<|endoftext|>"}),
    "dropout 0": lambda c: c["model"].update(dropout=0.0),
    "merges twice": lambda c: c["model"].update(merges=c["model"]["merges"] + c["model"]["merges"][3:9]),
    "lstrip": with_added(added("<s>", N, lstrip=True)),
    "rstrip": with_added(added("<s>", N, rstrip=True), added("  ", TWO, special=False)),
    "both": with_added(added("xy", N, lstrip=True, rstrip=True, special=False)),
    "single_word": with_added(added("xy", N, single_word=True, special=False), added("</s>", TWO, single_word=True)),
    "not special": with_added(added("xy", N, special=False), added("a<s>", TWO, special=False), added("<s>", THREE)),
    "white space": with_added(added("  ", N, special=False), added("\n\n", TWO, special=False)),
    "a space in front": with_added(added(" xy", N, special=False, single_word=True)),
    "normalised names": lambda c: c.update(
        normalizer={"type": "NFC"},
        added_tokens=[
            *c["added_tokens"],
            added("cafe\u0301", N, normalized=True, special=False),
            added("<mask>", TWO, lstrip=True, normalized=True),
        ],
    ),
    "names before they are normalised": lambda c: c.update(
        normalizer={"type": "NFKC"}, added_tokens=[*c["added_tokens"], added("cafe\u0301", N, special=False)]
    ),
    "prefix space after names": lambda c: (
        pre_tokenizer(level(add_prefix_space=True))(c),
        with_added(added("<s>", N, special=False))(c),
    ),
    "of the model, too": lambda c: c["added_tokens"].append(added("the", c["model"]["vocab"]["the"], special=False)),
}


def content(name: str) -> Content:
    changed = copy.deepcopy(OWN)
    CHANGES[name](changed)
    return changed


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[a-z&&[^b]]+", "abc"),
        ("[[a-c][x-z]]+", "a[x]"),
        (r"\h+", "axf"),
        ("^.", "a\nb"),
        (r"\s+$", "a \nb"),
        (r"a\Z", "a\n"),
        ("(?m).+", "a\nb"),
        (r"\p{N}{1,3}+", "12345"),
        ("(?i:ss)", "aßb"),
        (r"\N", "ab"),
        ("(?:a|b){e<=1}", "ab"),
    ],
)
def test_a_pattern_that_means_something_else_there(pattern: str, text: str) -> None:
    library = pytest.importorskip("tokenizers")
    splitter = library.pre_tokenizers.Split(library.Regex(pattern), "isolated")
    assert [piece for piece, _ in splitter.pre_tokenize_str(text)] != cut(text, [pattern])
    steps = [split({"Regex": pattern}), level(use_regex=False)]
    changed = OWN | {"pre_tokenizer": sequence(pretokenizers=steps)}
    with pytest.raises(ValueError, match="may mean something else here than in the tokenizers library"):
        BPETokenizer.from_json(changed)


@cache
def ours(name: str) -> BPETokenizer:
    return BPETokenizer.from_json(content(name))


@cache
def theirs(name: str) -> list[Any]:
    """Return the library's tokenizers of the file, and of what we write: both mean the same."""
    library = pytest.importorskip("tokenizers")
    found = [library.Tokenizer.from_str(json.dumps(source)) for source in (content(name), ours(name).to_json())]
    for tokenizer in found:
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=40)
@given(text=texts)
def test_the_library_gives_the_same_ids(name: str, text: str) -> None:
    for tokenizer in theirs(name):
        for special in (False, True):
            tokenizer.encode_special_tokens = not special
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert ours(name).encode(text, special=special).tolist() == ids
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            # The library takes a name that is written in the characters of bytes for these bytes.
            assert ours(name).decode(ids) == decoded or "\ufffd" in decoded
    assert [ids.tolist() for ids in ours(name).encode_batch([text, text])] == [ours(name).encode(text).tolist()] * 2


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_written_is_read_as_the_same(name: str) -> None:
    assert BPETokenizer.from_json(ours(name).to_json()).to_json() == ours(name).to_json()


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=40)
@given(pieces=st.lists(texts, min_size=5))
def test_a_long_text_in_pieces(name: str, pieces: list[str]) -> None:
    parts = whole_words(iter(pieces), ours(name).cut, "text")
    ids = [index for part in parts for index in ours(name).encode(part).tolist()]
    assert ids == ours(name).encode("".join(pieces)).tolist()


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("added_tokens.json", {"<s>": "280"}),
        ("added_tokens.json", {"<s>": 5}),
        ("added_tokens.json", {"<s>": -1}),
        ("added_tokens.json", {"<s>": 2**40}),
        ("added_tokens.json", {"": 280}),
        ("added_tokens.json", {"<s>": 280, "</s>": 280}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<s>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"280": "<s>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<s>"]}),
        ("special_tokens_map.json", {"eos_token": [["<s>"], {"content": ["<s>"]}]}),
    ],
)
def test_an_added_token_that_does_not_fit_names_its_file(
    name: str, more: Content, tmp_path: Path, *, is_pair: bool
) -> None:
    if is_pair:
        (tmp_path / "vocab.json").write_text(json.dumps(OWN["model"]["vocab"]), encoding="utf-8")
        (tmp_path / "merges.txt").write_text("\n".join(OWN["model"]["merges"]), encoding="utf-8")
    else:
        (tmp_path / "tokenizer.json").write_text(json.dumps(OWN), encoding="utf-8")
    assert tokenizers.load(tmp_path).vocab_size == 280
    (tmp_path / name).write_text(json.dumps(more), encoding="utf-8")
    files = "vocab.json, merges.txt" if is_pair else "tokenizer.json"
    with pytest.raises(DataError) as caught:
        tokenizers.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: {files} and {name} cannot be used together (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_more", [1, 2, 7, 24, 500])
def test_a_difference_counts_tokens_and_no_empty_rows(n_more: int) -> None:
    tokenizer = BPETokenizer.from_json(OWN)
    other = train(count_pieces([TEXT]), 270)
    assert tokenizers.difference(tokenizer.padded(280 + n_more), tokenizer) == ""
    assert tokenizers.difference(tokenizer.padded(280 + n_more), other) == "280 tokens there, 270 here"
