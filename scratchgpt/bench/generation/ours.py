"""Our model as a contender, and the product that says how fast the machine reads weights at most."""

import time

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from scratchgpt.backend import select
from scratchgpt.bench.generation import Text, Workload, Writer
from scratchgpt.bench.ours import version
from scratchgpt.generation import Sampling, draws, suitable_threads
from scratchgpt.machine import usable_cores
from scratchgpt.model import folder as model_folder
from scratchgpt.model.gpt import GPT


def build(workload: Workload) -> Writer:
    """Return our model, ready to write."""
    backend = select(workload.device)
    config, params = model_folder.load_parts(workload.path)
    model = GPT(config, backend, *params)
    likeliest = Sampling(temperature=0)

    def write(prompt: npt.NDArray[np.int64], n_samples: int, n_tokens: int, is_check: bool) -> Text:  # noqa: FBT001
        text = Text([], [], [])
        last = time.perf_counter()
        with suitable_threads(model):
            for draw in draws(model, prompt.tolist(), n_tokens, likeliest, samples=range(n_samples)):
                text.tokens.append(int(draw.tokens[0]))
                now = time.perf_counter()
                text.seconds.append(now - last)
                last = now
                if is_check:
                    text.log_probabilities.append(float(draw.log_probabilities()[0]))
        return text

    return Writer(write, {"version": version(backend), "device": backend.name, "parameters": model.layout.size})


def build_product(workload: Workload) -> Writer:
    """Return the product of a matrix (N, C), as large as all weights that a token needs, and a vector (C,).

    In place of samples it is asked for threads.
    """
    backend = select(workload.device)
    xp, C = backend.xp, workload.model.n_embd
    matrix = xp.full((workload.n_weights // C, C), 0.5, dtype="float32")
    vector = xp.full(C, 0.25, dtype="float32")
    out = xp.empty(len(matrix), "float32")

    def write(prompt: npt.NDArray[np.int64], n_threads: int, n_products: int, is_check: bool) -> Text:  # noqa: FBT001
        del prompt, is_check
        text = Text([], [], [])
        with threadpool_limits(n_threads, user_api="blas"):
            for _ in range(n_products):
                started = time.perf_counter()
                xp.matmul(matrix, vector, out=out)
                float(out[0])
                text.seconds.append(time.perf_counter() - started)
        return text

    most = usable_cores() if workload.device == "cpu" else 1
    threads = sorted({2**n for n in range(most.bit_length()) if 2**n < most} | {most})
    return Writer(write, {"bytes": matrix.nbytes, "threads": threads})
