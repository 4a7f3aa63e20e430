"""The same folder in `transformers`: its own generate with its own cache."""

import itertools
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from scratchgpt.bench.generation import Text, Workload, Writer


class _Clock:
    """Note when there is another token: generate hands over each one, and the prompt before them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing more."""


def build(workload: Workload) -> Writer:
    """Return the model, ready to write."""
    transformers.logging.set_verbosity_error()
    device = "cpu" if workload.device == "cpu" else workload.device.replace("gpu", "cuda")
    model = transformers.GPT2LMHeadModel.from_pretrained(workload.path, dtype=torch.float32, use_safetensors=True)
    model.to(device)  # from_pretrained has turned dropout off already
    model.generation_config.eos_token_id = None  # no text ends early

    def write(prompt: npt.NDArray[np.int64], n_samples: int, n_tokens: int, is_check: bool) -> Text:  # noqa: FBT001
        tokens = torch.from_numpy(np.tile(prompt, (n_samples, 1))).to(device)
        clock = _Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            made = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=n_tokens,
                streamer=clock,
                output_logits=is_check,
                return_dict_in_generate=True,
            )
        times = [started, *clock.times[1:]]  # without that of the prompt
        seconds = [later - earlier for earlier, later in itertools.pairwise(times)]
        ids = made.sequences[0, len(prompt) :].tolist()
        likely = [float(logits[0].log_softmax(0)[token]) for token, logits in zip(ids, made.logits or (), strict=False)]
        return Text(seconds, ids, likely)

    def device_bytes() -> int | None:
        return None if device == "cpu" else torch.cuda.max_memory_reserved()

    about: dict[str, Any] = {
        "version": f"transformers {transformers.__version__} with PyTorch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }
    return Writer(write, about, device_bytes)
