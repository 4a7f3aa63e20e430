"""Byte-level BPE: every text comes back, files hold all of it, and what is wrong with a file is named."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt import tokenizer as tokenizers
from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer import END_OF_TEXT, BPETokenizer, patterns
from scratchgpt.tokenizer.bpe import encode_piece
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.byte_characters import ALPHABET
from scratchgpt.tokenizer.counting import count_pieces
from scratchgpt.tokenizer.patterns import split
from scratchgpt.tokenizer.splitting import GPT2_PATTERN
from tests.strategies import settled_texts

TEXT = "the cat\r\n\tsat — 𝄞 é e\u0301 😀 the cat's hat, the cats' hats   that  don't 1234\n\n"
BPE = train(count_pieces([TEXT]), 290)

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ethca s'\n\t1,", max_size=40)


@given(text=texts)
def test_a_text_comes_back(text: str) -> None:
    ids = BPE.encode(text)
    assert ids.dtype == np.uint32
    assert BPE.decode(ids) == text
    assert BPE.decode_bytes(ids) == text.encode()
    assert 0 not in ids  # the special token


@given(data=st.binary())
def test_every_byte_string_has_tokens(data: bytes) -> None:
    ids = encode_piece(data, BPE.byte_ids, BPE.ranks, BPE.merged)
    assert BPE.decode_bytes(ids) == data
    assert BPE.decode(ids) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("patterns", [(GPT2_PATTERN,), (r"\p{N}", GPT2_PATTERN), ("t+",), ()], ids=range(4))
@given(text=texts)
def test_arrays_give_what_the_plain_encoder_gives(text: str, patterns: tuple[str, ...]) -> None:
    bpe = BPETokenizer(BPE.tokens, BPE.merges, special=BPE.special, patterns=patterns)
    plain = [
        index
        for piece in split(text, patterns)
        for index in encode_piece(piece.encode(), bpe.byte_ids, bpe.ranks, bpe.merged)
    ]
    assert bpe.encode(text).tolist() == plain


@given(text=texts)
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(split(text, BPE.patterns)) == text
    assert "".join(split(text, [r"\p{N}", "t+", r"\b"])) == text


def test_pieces_are_words_with_the_space_before_them() -> None:
    assert split("I'll say:  don't \n 12e5 ", [GPT2_PATTERN]) == [
        *("I", "'ll", " say", ":", " ", " don", "'t", " \n", " 12", "e", "5", " ")
    ]


def test_what_lies_between_matches_is_a_piece_too() -> None:
    assert split("ab12cd3", [r"\p{N}"]) == ["ab", "1", "2", "cd", "3"]
    assert split("ab12cd3", [r"\p{N}", "b|c"]) == ["a", "b", "1", "2", "c", "d", "3"]


def test_the_lowest_rank_is_joined_first_and_leftmost() -> None:
    tokens = [*ALPHABET, b"bc", b"ab", b"aa"]
    a, b, c = (ALPHABET.index(byte) for byte in (b"a", b"b", b"c"))
    bpe = BPETokenizer(tokens, [(b, c), (a, b), (a, a)], special={})
    assert [bpe.tokens[index] for index in bpe.encode("abcaaab")] == [b"a", b"bc", b"aa", b"ab"]


def test_special_tokens_are_text_unless_asked_for() -> None:
    bpe = BPETokenizer([*ALPHABET, b"<s>", b"<s><s>"], [], special={"<s>": 256, "<s><s>": 257})
    assert len(bpe.encode("a<s>")) == 4
    ids = bpe.encode("a<s><s><s>b<s>", special=True)
    assert ids.tolist() == [*bpe.encode("a"), 257, 256, *bpe.encode("b"), 256]
    assert bpe.decode(ids) == "a<s><s><s>b<s>"
    assert bpe.vocab_size == 258


def test_membership() -> None:
    assert END_OF_TEXT in BPE
    assert " the" in BPE
    assert " then" not in BPE
    assert "\n" in BPE
    assert "\ud800" not in BPE


def test_half_a_character_is_refused() -> None:
    with pytest.raises(UsageError, match=r"surrogate U\+D83D\) at position 2; UTF-8 cannot hold it"):
        BPE.encode("ab\ud83d")
    with pytest.raises(UsageError, match=r"at position 14;"):
        BPE.encode(f"a{END_OF_TEXT}\ud83d", special=True)


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    ids = BPE.encode("ж")
    assert BPE.decode(ids[:1]) == BPE.decode(ids[1:]) == "\ufffd"


@pytest.mark.parametrize("ids", [[-1], [0, 290], [2**40]])
def test_ids_outside_the_vocabulary(ids: list[int]) -> None:
    with pytest.raises(UsageError, match="outside the vocabulary of 290 tokens"):
        BPE.decode(ids)


def test_no_ids_are_no_text() -> None:
    assert BPE.decode([]) == ""
    assert BPE.encode("").shape == (0,)


def test_a_vocabulary_without_some_bytes() -> None:
    bpe = BPETokenizer([b"a", b"b"], [], special={})
    assert bpe.encode("abba").tolist() == [0, 1, 1, 0]
    with pytest.raises(UsageError, match="The byte 0x63 of the text's UTF-8 is not in the vocabulary"):
        bpe.encode("abc")


def test_files_round_trip(tmp_path: Path) -> None:
    tokenizers.save(BPE, tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, BPETokenizer)
    assert (loaded.tokens, loaded.merges, loaded.special, loaded.patterns) == (
        *(BPE.tokens, BPE.merges, BPE.special, BPE.patterns),
    )
    assert loaded.encode(TEXT).tolist() == BPE.encode(TEXT).tolist()


def level(**parts: Any) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True} | parts


@pytest.mark.parametrize(
    ("pre_tokenizer", "patterns"),
    [
        (level(), (GPT2_PATTERN,)),
        ({"type": "Sequence", "pretokenizers": [level()]}, (GPT2_PATTERN,)),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level()]},
            (r"\p{N}", GPT2_PATTERN),
        ),
        (
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": False}, level(use_regex=False)],
            },
            (r"\p{N}+",),
        ),
    ],
)
def test_other_files_bring_their_own_pattern(pre_tokenizer: Any, patterns: tuple[str, ...]) -> None:
    content = BPE.to_json() | {"pre_tokenizer": pre_tokenizer}
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]  # as newer files have them
    loaded = BPETokenizer.from_json(content)
    assert loaded.patterns == patterns
    assert loaded.merges == BPE.merges


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return a file that is right, save for one change."""
    content = copy.deepcopy(BPE.to_json())
    change(content)
    return content


def with_step(step: dict[str, Any]) -> dict[str, Any]:
    return changed(lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, step))


def split_step(**parts: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False} | parts


REFUSED = {
    "its normalizer Lowercase is not supported": changed(lambda c: c.update(normalizer={"type": "Lowercase"})),
    "its normalizer Strip is": changed(
        lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]})
    ),
    "its decoder is not ByteLevel": changed(lambda c: c.update(decoder=None)),
    "its post_processor TemplateProcessing is not": changed(
        lambda c: c.update(post_processor={"type": "TemplateProcessing"})
    ),
    "its post_processor Templ": changed(
        lambda c: c.update(post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 2})
    ),
    "its model's dropout": changed(lambda c: c["model"].update(dropout=0.1)),
    "its model's end_of_word_suffix": changed(lambda c: c["model"].update(end_of_word_suffix="</w>")),
    "does not end in ByteLevel": changed(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})),
    "the step Whitespace of its pre_tokenizer": with_step({"type": "Whitespace"}),
    "the step ByteLevel of its pre_tokenizer": with_step(level()),
    "a Split of its pre_tokenizer other than": with_step(split_step(behavior="Removed")),
    "its split pattern '\\(\\?r\\)a' cannot be used: it searches backwards": with_step(
        split_step(pattern={"Regex": "(?r)a"})
    ),
    "a split pattern of its pre_tokenizer has more than 10,000": with_step(split_step(pattern={"Regex": "a" * 10_001})),
    "the step 3 of its pre_tokenizer": changed(lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, 3)),
    "its pre_tokenizer's pretokenizers is missing": changed(lambda c: c.update(pre_tokenizer={"type": "Sequence"})),
    r"its split pattern '\(' cannot be used": with_step(split_step(pattern={"Regex": "("})),
    "its ids are not whole numbers from 0 to 4,194,304": changed(lambda c: c["model"]["vocab"].update(zzz=2**22 + 1)),
    "its ids are not whole": changed(lambda c: c["model"]["vocab"].update({"!": "1"})),
    "its ids are": changed(lambda c: c["added_tokens"].append({"id": -1, "content": "zzz"})),
    "two of its tokens have the same id": changed(lambda c: c["model"]["vocab"].update(zzz=7)),
    "a token is empty": changed(lambda c: c["model"]["vocab"].update({"": 290})),
    "its token ' a' is not written in": changed(lambda c: c["model"]["vocab"].update({" a": 290})),
    "merge 1, 'zzz a', does not join two tokens": changed(lambda c: c["model"]["merges"].__setitem__(1, "zzz a")),
    "merge 0, 'a', does not": changed(lambda c: c["model"]["merges"].__setitem__(0, "a")),
    "merge 0, 'a b c', does not": changed(lambda c: c["model"]["merges"].__setitem__(0, "a b c")),
    "a merge makes b'zz', which is no token": changed(lambda c: c["model"]["merges"].append("z z")),
    "merge 0, 3, does not": changed(lambda c: c["model"]["merges"].__setitem__(0, 3)),
    "merge 0, None, does not": changed(lambda c: c["model"]["merges"].__setitem__(0, None)),
    r"merge 0, \[\['a'\], 'b'\], does not": changed(lambda c: c["model"]["merges"].__setitem__(0, [["a"], "b"])),
    r"merge 0, \['a', 'b', 'c'\], does not": changed(lambda c: c["model"]["merges"].__setitem__(0, ["a", "b", "c"])),
    r"merge 0, '<.*> a', does not join": changed(lambda c: c["model"]["merges"].__setitem__(0, f"{END_OF_TEXT} a")),
    "its model's merges is missing or no list": changed(lambda c: c["model"].update(merges=3)),
    "its added_tokens is missing or no list": changed(lambda c: c.update(added_tokens="x")),
    "its added token's content is missing or no text": changed(lambda c: c["added_tokens"].append(3)),
    "its added token's id is missing or no number": changed(lambda c: c["added_tokens"][0].update(id="0")),
    "an added token is there twice": changed(lambda c: c["added_tokens"].append(c["added_tokens"][0])),
    "its added token 't' is written as another token": changed(
        lambda c: c["added_tokens"].append({"id": 290, "content": "t", "special": True})
    ),
    "its model's vocab is missing or no object": changed(lambda c: c["model"].pop("vocab")),
    "its pre_tokenizer does not end in": changed(lambda c: c.update(pre_tokenizer=None)),
    "its decoder is not": changed(lambda c: c.update(decoder="ByteLevel")),
    "its post_processor 3 is not supported": changed(lambda c: c.update(post_processor=3)),
    "its model's type is 'Unigram', and only BPE": changed(lambda c: c["model"].update(type="Unigram")),
    "its model's type is None": changed(lambda c: c.update(model=[])),
}


@pytest.mark.parametrize(("message", "content"), REFUSED.items(), ids=REFUSED)
def test_what_is_wrong_with_a_file_is_named(message: str, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=rf"tokenizer\.json cannot be used: .*{message.replace('|endoftext|', '.*')}"):
        tokenizers.load(tmp_path)


def test_a_special_token_written_as_another_one() -> None:
    with pytest.raises(ValueError, match="its added token 'Ġ' is written as another token is; rename it"):
        BPETokenizer([*ALPHABET, "Ġ".encode()], [], special={"Ġ": 256})
    spaced = BPETokenizer([*ALPHABET, b"a b"], [], special={"a b": 256})  # no plain token is written with a space
    assert BPETokenizer.from_json(spaced.to_json()).tokens == spaced.tokens


@pytest.mark.parametrize("pattern", ["(a|aa)+b", "(?R)"])
def test_a_pattern_without_end(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "PATIENCE", 0.2)
    hostile = BPETokenizer(BPE.tokens, BPE.merges, special=BPE.special, patterns=(r"\n", pattern))
    assert hostile.decode(hostile.encode("")) == ""
    with pytest.raises(DataError, match=rf"split pattern {re.escape(repr(pattern))} is too slow or too large for this"):
        hostile.encode(("a" * 60 + "\n") * 10)


@pytest.mark.oracle
@given(text=settled_texts)
def test_the_tokenizers_library_gives_the_same_ids(text: str) -> None:
    library = pytest.importorskip("tokenizers")
    theirs = library.Tokenizer.from_str(json.dumps(BPE.to_json()))
    ids = BPE.encode(text)
    assert theirs.encode(text).ids == ids.tolist()
    assert theirs.decode(ids.tolist()) == text
    assert theirs.encode(f"{text}{END_OF_TEXT}").ids == BPE.encode(f"{text}{END_OF_TEXT}", special=True).tolist()
