"""Small models take one core, large ones all."""

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from scratchgpt import backend
from scratchgpt.config import ModelConfig
from scratchgpt.generation import threads
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("small", "expected"), [(10**9, {1}), (0, {2})])
def test_threads_of_a_model(small: int, expected: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(vocab_size=11, block_size=8, n_layer=1, n_head=1, n_embd=8)
    model = GPT(config, backend.select("cpu"), Layout(config).initial(0))
    monkeypatch.setattr(threads, "SMALL", small)
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has one thread only")
        with threads.suitable_threads(model):
            assert blas_threads() == expected
        assert blas_threads() == {2}
