"""How large the loss is made in half precision, so that gradients neither vanish nor overflow."""

from typing import NamedTuple

SMALLEST, LARGEST = 0.5, 2.0**24
PATIENCE = 2000
"""Steps without an overflow until a larger scale is tried."""


class LossScale(NamedTuple):
    """Micikevicius et al.: Mixed Precision Training, 2017 (arXiv 1710.03740), with the factors that PyTorch uses.

    float16 goes from 6e-8 to 65,504. Gradients of a mean over many tokens are often smaller: multiplied by the scale
    they are not, and float32 sums divide by it. If it was too much, some become infinite, and the step is not made. It
    counts all the same, for the learning rate and for AdamW's corrections.
    """

    value: float = 2.0**16
    n_good: int = 0  # steps made since it was last changed

    def after_overflow(self) -> "LossScale":
        """Return the scale for the step that follows one whose gradients overflowed."""
        return LossScale(max(self.value / 2, SMALLEST))

    def after_update(self) -> "LossScale":
        """Return the scale for the step that follows one without an overflow."""
        if self.n_good + 1 == PATIENCE:
            return LossScale(min(2 * self.value, LARGEST))
        return LossScale(self.value, self.n_good + 1)

    @property
    def is_exhausted(self) -> bool:
        """Whether overflows cannot be its fault any more: the run has diverged."""
        return self.value < 1
