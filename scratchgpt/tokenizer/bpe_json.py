"""The tokenizer.json of a byte-level BPE, as the `tokenizers` library has it: what of it is understood."""

from collections.abc import Sequence
from typing import Any

import regex

from scratchgpt.tokenizer.added import FLAGS, NORMAL_FORMS, Added
from scratchgpt.tokenizer.cutting import GPT4_PATTERNS
from scratchgpt.tokenizer.patterns import checked
from scratchgpt.tokenizer.splitting import GPT2_PATTERN


def parts(content: dict[str, Any]) -> dict[str, Any]:
    """Return what `BPETokenizer.from_words` makes the same vocabulary of. Raises ValueError naming what is wrong."""
    model = _part(content, "model", dict)
    for part in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        _refuse(f"its model's {part}", model.get(part))
    if [_kind(step) for step in _steps(content.get("decoder"), "decoder", "decoders")] != ["ByteLevel"]:
        raise ValueError("its decoder is not ByteLevel")
    for step in _steps(content.get("post_processor"), "post_processor", "processors"):
        _check_post_processor(step)
    forms = [_kind(step) for step in _steps(content.get("normalizer"), "normalizer", "normalizers")]
    for form in forms:
        _refuse(f"its normalizer {form}", form not in NORMAL_FORMS)
    patterns, space_at = _read_patterns(_steps(content.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers"))
    added = [read_added(token) for token in _part({"added_tokens": [], **content}, "added_tokens", list)]
    return {
        "vocabulary": _part(model, "vocab", dict, "model's "),
        "merges": _part(model, "merges", list, "model's "),
        "added": added,
        "patterns": patterns,
        "forms": forms,
        "space_at": space_at,
        "ignore_merges": bool(model.get("ignore_merges")),
    }


def byte_level(*, use_regex: bool = False, add_prefix_space: bool = False) -> dict[str, Any]:
    """Return the part of tokenizer.json that turns bytes into characters; with its regex it cuts as GPT-2 does."""
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


_KINDS = {dict: "object", list: "list", str: "text", int: "number"}


def _part(whole: Any, name: str, kind: type, of: str = "") -> Any:
    """Return a part of a file. Raises ValueError if it is missing or of another kind."""
    part = whole.get(name) if isinstance(whole, dict) else None
    if isinstance(part, kind):
        return part
    raise ValueError(f"its {of}{name} is missing or no {_KINDS[kind]}")


def _kind(step: Any) -> Any:
    """Return the type that a step of a file names; of what is no step, how Python writes it."""
    return step.get("type") if isinstance(step, dict) else step and repr(step)


def _refuse(part: str, value: Any) -> None:
    """Raise ValueError if a part of the file asks for something."""
    if value:
        raise ValueError(f"{part} is not supported")


def _steps(part: Any, name: str, plural: str) -> list[Any]:
    """Return the steps of a part of a file in order: of a Sequence its own, else the part itself if there is one."""
    if _kind(part) == "Sequence":
        steps = _part(part, plural, list, f"{name}'s ")
        return [inner for step in steps for inner in _steps(step, name, plural)]
    return [] if part is None else [part]


def _check_post_processor(step: Any) -> None:
    """Raise ValueError if a post-processor is none that leaves a text's own ids as they are."""
    match step:
        case {"type": "ByteLevel" | "RobertaProcessing" | "BertProcessing"}:
            return
        case {"type": "TemplateProcessing", "single": [*parts]}:
            texts = [part for part in parts if not (isinstance(part, dict) and "SpecialToken" in part)]
            match texts:
                case [{"Sequence": {"id": "A"}}]:
                    return
    raise ValueError(f"its post_processor {_kind(step)} is not supported")


def read_added(content: Any) -> Added:
    """Return an added token of a file. Raises ValueError."""
    name = _part(content, "content", str, "added token's ")
    flags = {flag: bool(content.get(flag)) for flag in FLAGS}
    return Added(name, _part(content, "id", int, "added token's "), **flags)


def _read_patterns(steps: Sequence[Any]) -> tuple[tuple[str, ...], int | None]:
    """Return the patterns that cut as a file's pre_tokenizer does, and before which a space is added, if so.

    Raises ValueError.
    """
    if not steps or _kind(steps[-1]) != "ByteLevel":
        raise ValueError("its pre_tokenizer does not end in ByteLevel")
    *others, last = steps
    patterns = []
    for step in others:
        match step:
            case {"type": "Digits", "individual_digits": individual}:
                patterns.append(r"\p{N}" if individual else r"\p{N}+")
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
                patterns.append(checked(pattern))
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True} if pattern in {
                GPT2_PATTERN,
                *GPT4_PATTERNS,
            }:
                patterns.append(pattern)  # between its matches there is nothing that could be removed
            case {"type": "Split", "pattern": {"String": str(string)}, "behavior": "Isolated"} if string:
                patterns.append(checked(regex.escape(string)))
            case {"type": "Split"}:
                raise ValueError("a Split of its pre_tokenizer other than Isolated is not supported")
            case _:
                raise ValueError(f"the step {_kind(step)} of its pre_tokenizer is not supported")
    space_at = len(patterns) if last.get("add_prefix_space", True) else None
    return (*patterns, *([GPT2_PATTERN] if last.get("use_regex", True) else [])), space_at
