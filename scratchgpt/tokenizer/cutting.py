"""Where a long text may be cut so that the tokens of its parts, one after another, are those of the whole.

This follows from how a vocabulary splits texts. A merge never crosses the border of a piece, so a text may be cut at
any place that is such a border, whatever stands around it. Only for published patterns do we know such places.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

from scratchgpt.tokenizer.added import Added
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

Cut = Callable[[str, str], bool]
"""Returns whether a text may be cut between these two characters."""

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_O200K_REST = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_OTHER_CASES = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

GPT4_PATTERNS = {
    # cl100k and Llama 3, Qwen 2, cl100k with possessive quantifiers, nanochat, o200k
    *(f"{_CONTRACTIONS}|{_LETTERS}|{numbers}|{_REST}" for numbers in (r"\p{N}{1,3}", r"\p{N}")),
    *(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
        r"\s+(?!\S)|\s+"
        for numbers in (r"\p{N}{1,3}", r"\p{N}{1,2}")
    ),
    f"{_OTHER_CASES}*{_LOWER}+{_CONTRACTIONS}?|{_OTHER_CASES}+{_LOWER}*{_CONTRACTIONS}?|{_O200K_REST}",
}
"""Published patterns that put line ends behind other signs into one piece with them."""

RUNS = {r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+"}
"""Patterns of one class of characters, without white space, that others put in front of the main one."""


def before_white_space(before: str, after: str) -> bool:
    """Return whether white space begins here with a space or line end. GPT-2's pattern has a border there."""
    return after in " \n" and not before.isspace()


def before_spaces(before: str, after: str) -> bool:
    """Return whether white space begins here with a space. All these patterns have a border there."""
    return after == " " and not before.isspace()


def before_spaces_and_after_lines(before: str, after: str) -> bool:
    """Return whether a space, or a word on a new line, begins here. GPT-4's pattern has a border there."""
    return before_spaces(before, after) or (before == "\n" and after.isalnum())


def cut_of(patterns: Sequence[str], added: Iterable[Added] = (), *, adds_space: bool = False) -> Cut | None:
    """Return where a text may be cut that these patterns split one after another; None if we do not know.

    `added` are the tokens that are found in it by their names. `adds_space`: each part gets a space if it begins with
    no space. Unicode's normal forms change nothing here: they join neither a space nor a line end with other signs.
    """
    main = next((pattern for pattern in patterns if pattern not in RUNS), None)
    if main == GPT2_PATTERN:
        cut = before_white_space
    elif main in GPT4_PATTERNS:
        cut = before_spaces_and_after_lines
    else:
        return None
    for token in added:
        is_cut = any(cut(before, after) for before, after in itertools.pairwise(token.name))
        if is_cut or token.lstrip or token.rstrip or token.single_word:
            return None
    return before_spaces if adds_space else cut
