"""The learning rate as a function of the step."""

import math

from scratchgpt.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of the update that follows `step` earlier ones.

    It rises linearly through `warmup_steps`, then falls along half a cosine to `min_lr_ratio` of its peak.
    Loshchilov, Hutter: SGDR, 2016 (arXiv 1608.03983).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
