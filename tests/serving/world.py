"""A server of its own for tests: a model of random numbers behind a free port, in another process."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig
from scratchgpt.model import folder as model_folder
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from tests.world import CPU

SIZES: dict[str, Any] = {"block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}


def write_model(folder: Path, vocabulary: tokenizers.Tokenizer) -> GPT:
    """Write a model whose texts are varied, and return it."""
    config = ModelConfig(vocab_size=vocabulary.vocab_size, **SIZES)
    params = 8 * Layout(config).initial(1)
    folder.mkdir()
    model_folder.save(folder, config, params)
    tokenizers.save(vocabulary, folder)
    return GPT(config, CPU, params)


def begin(folder: Path, *options: str, environment: Mapping[str, str] = os.environ) -> "subprocess.Popen[str]":
    """Begin to serve a model on a free port."""
    return subprocess.Popen(
        [sys.executable, "-m", "scratchgpt", "serve", str(folder), "--port", "0", "--device", "cpu", *options],
        env={**environment, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def address_of(process: "subprocess.Popen[str]") -> str:
    """Return where a server answers, as it says itself."""
    assert process.stdout
    assert process.stderr
    found = re.search(r"at (\S+)/v1;", process.stdout.readline())
    assert found, process.stderr.read()
    return found[1]


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Serve a model, and yield the address."""
    with begin(folder, *options) as process:
        try:
            yield address_of(process)
            process.terminate()
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
