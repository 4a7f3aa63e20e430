"""The formats that trainer.json has had: the one place that knows what has changed since an older one."""

from typing import Any

from scratchgpt.backend.cpu import BLOCK_BYTES

FORMAT = 5


def upgraded(content: dict[str, Any], best_step: int | None) -> dict[str, Any]:
    """Return what this version would have written. Raises KeyError and TypeError if `content` makes no sense.

    `best_step` is the step of the run's best checkpoint, which `content` tells only since format 4.
    """
    version = content["format"]
    if version < 2:  # a run was one process, then it had lanes, then a plan
        whole = {"lanes": content.get("lanes", 1), "micro_batch": content["train"]["batch_size"]}
        content = {"plan": whole | {"block_bytes": BLOCK_BYTES}} | content
    if version < 3:  # there were no GPUs
        content = content | {
            "plan": content["plan"] | {"device": "cpu", "precision": "fp32"},
            "loss_scale": {"value": 2.0**16, "n_good": 0},
        }
    if version < 4:  # a checkpoint did not know whether its step had been evaluated, and which one was best
        step = content["step"]
        is_known = best_step is not None and best_step <= step
        content = content | {
            "best_loss": content["best_loss"] if is_known else None,
            "best_step": best_step if is_known else None,
            "n_worse": 0,
            "last_evaluation": step or None,
            "backoff": {"factor": 1.0, "n_made": 0, "n_skipped": 0},
        }
    if version < 5:  # AdamW was the only optimiser, and its ε was fixed
        content = content | {"train": content["train"] | {"optimizer": "adamw", "adam_epsilon": 1e-8}}
    return content
