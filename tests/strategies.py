"""What Hypothesis draws: sizes, a seed, and the kind of numbers; a NumPy generator makes the arrays of them.

Drawn element by element, arrays would be slow and mostly zeros.
"""

import numpy as np
from hypothesis import strategies as st

from scratchgpt.ops.array import Array

KINDS = ("normal", "signs", "constant")

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)
scales = st.sampled_from((1.0, 0.01, 50.0))
rates = st.sampled_from((0.0, 0.3))
row_shapes = st.sampled_from(((2, 3), (), (1,), (3, 1), (2, 1, 3)))
"""The leading axes of an op that works on rows."""

settled_texts = st.text(
    st.characters(codec="ascii")
    | st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0x2FFF)
    | st.sampled_from("中文日本語😀👩\u200d🚀𝄞")
)
"""Texts of characters that all versions of Unicode agree about: programs that use different ones cut them alike."""


def sizes(largest: int, smallest: int = 1) -> st.SearchStrategy[int]:
    """Draw the length of one axis."""
    return st.integers(smallest, largest)


def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "normal", scale: float = 1.0) -> Array:
    """Make an array of one of the `KINDS`, multiplied by `scale`.

    "signs" are -1 and 1 (ties everywhere; extreme logits, if scaled), "constant" has one number for each row.
    """
    normal = scale * rng.normal(size=shape)
    match kind:
        case "signs":
            return np.copysign(scale, normal)
        case "constant":
            return np.broadcast_to(normal[..., :1], shape).copy()
        case _:
            return normal
