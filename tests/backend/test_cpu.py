"""The CPU's table against the reference: the same losses and gradients at ragged shapes, whatever the numbers.

Buffers are poisoned with NaN, gradients hold random numbers beforehand, everything is in float64.
"""

import dataclasses
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.backend import Backend, cpu, reference
from scratchgpt.backend.cpu import blas
from scratchgpt.backend.cpu.attention import ROWS
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.embed import FEW
from scratchgpt.backend.cpu.head import TILE
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Settings
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State, Update
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import AttentionParams, HeadParams, Step, Table, Wanted
from tests.backends import on_cpu
from tests.engine.steps import recipe

SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}


FREEZES = (
    ("transformer.wte.weight",),
    ("transformer.wpe.weight", "*.c_attn.*"),
    ("*.ln_1.*", "*.mlp.c_proj.weight"),
    ("transformer.w?e.weight", "transformer.h.0.*"),
    ("transformer.w?e.weight", "transformer.h.*"),
    ("*.bias", "transformer.ln_f.*"),
)


def gradients(
    backend: Backend,
    config: ModelConfig,
    *,
    B: int,
    T: int,
    scale: float,
    seed: int,
    micro_batch: int = 2,
    freeze: Sequence[str] = (),
    is_weighed: bool = False,
) -> tuple[float, Array]:
    """Return the loss, and all gradients added to random numbers, of micro-batches, the last a ragged one.

    If it `is_weighed`, some targets do not count, and the others have weights.
    """
    rng = np.random.default_rng(seed)
    layout = Layout(config)
    prefill = rng.normal(size=layout.size)
    params = rng.normal(size=layout.size) * scale
    model = GPT(config, backend, params, freeze=freeze)
    model.grads[...] = prefill
    tokens, targets = rng.integers(0, config.vocab_size, (2, B, T))
    weights = None
    if is_weighed:
        weights, targets[rng.random((B, T)) < 0.3] = rng.normal(size=(B, T)), -1
    with np.errstate(over="ignore", under="ignore"):
        loss = model.loss_and_grad(tokens, targets, weights, seed=seed, step=3, micro_batch=micro_batch, loss_scale=3.0)
    return loss, model.grads - prefill


def assert_equal_to_reference(config: ModelConfig, *, block_bytes: int = cpu.BLOCK_BYTES, **given: Any) -> None:
    expected_loss, expected = gradients(reference(), config, **given)
    loss, got = gradients(on_cpu(block_bytes=block_bytes), config, **given)
    assert abs(loss - expected_loss) <= 1e-10 * max(abs(expected_loss), 1)  # weighed losses may cancel
    views, largest = Layout(config).views, np.abs(expected).max()
    for name, gradient in views(got).items():
        error = np.abs(gradient - views(expected)[name]).max()
        assert error <= 1e-9 * np.abs(views(expected)[name]).max() + 1e-12 * largest, name


@given(
    seed=st.integers(0, 2**32),
    B=st.integers(1, 5),
    T=st.integers(1, 9),
    scale=st.sampled_from([0.02, 0.5, 5.0]),
    dropout=st.sampled_from([0.0, 0.2]),
    bias=st.booleans(),
    tied=st.booleans(),
    head_bias=st.booleans(),
    activation=st.sampled_from(["gelu_new", "relu"]),
    norm_epsilon=st.sampled_from([1e-5, 0.1]),
    is_weighed=st.booleans(),
    n_inner=st.sampled_from([0, 1, 17]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
)
def test_small_ragged_shapes(
    *, seed: int, B: int, T: int, scale: float, tied: bool, is_weighed: bool, **kind: Any
) -> None:
    config = ModelConfig(**SIZES, tie_word_embeddings=tied, **kind)
    assert_equal_to_reference(config, B=B, T=T, scale=scale, seed=seed, is_weighed=is_weighed)


@pytest.mark.parametrize("T", [63, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_around_the_borders_of_blocks(T: int, dropout: float) -> None:
    config = ModelConfig(**(SIZES | {"block_size": T}), dropout=dropout)
    assert_equal_to_reference(config, B=3, T=T, scale=0.3, seed=T)


@pytest.mark.parametrize(("B", "size"), [(3, 0), (1, 1), (3, 1), (5, 2), (7, 3), (4, 3), (6, 4), (6, 3), (2, 3)])
@pytest.mark.parametrize("T", [31, 33, 64])
def test_sequences_in_groups(B: int, size: int, T: int) -> None:
    """Attention's groups: several, with a smaller one at the end, one of one sequence; blocks that hold none (0)."""
    config = ModelConfig(**(SIZES | {"block_size": T, "n_layer": 1}), dropout=0.2)
    n_last = T % ROWS or ROWS  # rows of the last block, from whose size the groups follow
    block_bytes = max(size * config.n_head * n_last * T * 8, 8)
    assert_equal_to_reference(config, B=B, T=T, scale=0.3, seed=T, micro_batch=B, block_bytes=block_bytes)


@pytest.mark.parametrize("V", [TILE - 1, TILE, TILE + 1, TILE + 2, 2 * TILE, 2 * TILE + 1])
@pytest.mark.parametrize("tied", [False, True])
def test_tokens_in_tiles(V: int, *, tied: bool) -> None:
    """The head's tiles: one, several, a smaller one at the end, and one of one token."""
    config = ModelConfig(**(SIZES | {"vocab_size": V, "n_layer": 1}), tie_word_embeddings=tied, head_bias=True)
    assert_equal_to_reference(config, B=2, T=9, scale=0.3, seed=V)


@pytest.mark.parametrize("B", [1, 63, 64, 65, 128, 129])
@pytest.mark.parametrize("V", [FEW, FEW + 1])
def test_rows_in_chunks(B: int, V: int) -> None:
    """Rows that lanes show each other: one chunk, several, a smaller one at the end, one of one row."""
    config = ModelConfig(**(SIZES | {"vocab_size": V, "block_size": 8, "n_layer": 1}))
    assert_equal_to_reference(config, B=B, T=8, scale=0.3, seed=B, micro_batch=B)
    one = dataclasses.replace(config, block_size=1)  # of one row, if it has one sequence
    assert_equal_to_reference(one, B=8 * B - 7, T=1, scale=0.3, seed=B, micro_batch=8 * B - 7)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@pytest.mark.parametrize("numbers", [1, 11, 12, 47, 48, 95, 100, 431])
def test_numbers_in_blocks(numbers: int, activation: str) -> None:
    """The blocks of an activation, of 432 numbers, and of the head's exponentials, of 9 rows of 11: any remainder."""
    config = ModelConfig(**(SIZES | {"n_layer": 1}), activation=activation)
    assert_equal_to_reference(config, B=1, T=9, scale=0.3, seed=numbers, block_bytes=8 * numbers)


@pytest.mark.parametrize("freeze", FREEZES, ids=str)
def test_gradients_that_are_not_wanted(freeze: Sequence[str]) -> None:
    """They are not added to, and the others are to the bit what they are with them."""
    for tied in (True, False):
        config = ModelConfig(**SIZES, dropout=0.2, tie_word_embeddings=tied)
        given: dict[str, Any] = {"B": 3, "T": 9, "scale": 0.3, "seed": 1}
        for make in (reference, on_cpu):
            loss, whole = gradients(make(), config, **given)
            same_loss, part = gradients(make(), config, **given, freeze=freeze)
            assert loss == same_loss
            layout = Layout(config)
            frozen = layout.named(freeze)
            for name, gradient in layout.views(part).items():
                expected = np.zeros_like(gradient) if name in frozen else layout.views(whole)[name]
                assert np.array_equal(gradient, expected), name


def test_a_large_vocabulary_and_more_rows_than_a_chunk() -> None:
    config = ModelConfig(**(SIZES | {"vocab_size": 700, "block_size": 300}))
    assert_equal_to_reference(config, B=5, T=300, scale=0.1, seed=0)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_scores_and_logits_that_would_overflow(size: float) -> None:
    """In float32, where e**89 is infinite: scores and logits up to ±1e4 give finite gradients, near the reference's."""
    config = ModelConfig(**(SIZES | {"n_layer": 1}), head_bias=True)
    layout = Layout(config)
    params = layout.initial(1)
    views = layout.views(params)
    views["transformer.h.0.attn.c_attn.weight"] *= size
    views["transformer.wte.weight"] *= size
    views["lm_head.bias"][...] = np.linspace(-1, 1, 11) * size
    tokens, targets = np.random.default_rng(0).integers(0, 11, (2, 3, 9))
    results = []
    for backend in (reference(), on_cpu()):
        model = GPT(config, backend, params.copy())
        results.append((model.loss_and_grad(tokens, targets), model.grads))
    (expected_loss, expected), (loss, got) = results
    assert abs(loss - expected_loss) <= 1e-5 * expected_loss
    assert np.abs(got - expected).max() <= 1e-7 * size * np.abs(expected).max()  # float32's error in such a score


@pytest.mark.parametrize("size", [1.0, 1e3, 1e5])
def test_a_loss_that_is_small_beside_its_logits(size: float) -> None:
    """In float32: of two tokens with the same logit, however large, either costs ln 2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 8)).astype(np.float32)
    row = rng.normal(size=8).astype(np.float32) * np.float32(size)
    params = HeadParams(np.ones(8, np.float32), None, np.stack([row, row]))
    grads = HeadParams[Wanted](np.zeros(8, np.float32), None, np.zeros((2, 8), np.float32))
    head = on_cpu().table(ModelConfig(**SIZES)).head
    loss, _ = head.loss(x, np.array([[0, 1, 1, 0]]), params, grads, Step(n_targets=4))
    assert abs(loss - np.log(2)) <= 1e-6


@pytest.mark.parametrize("score", [5.0, 25.0, 45.0, 60.0, -45.0, -60.0])
def test_small_gradients_through_large_scores(score: float) -> None:
    """In float32, a gradient that is divided by a large sum of exponentials must not sink below what it can hold."""
    rng = np.random.default_rng(0)
    gain, zeros, eye = np.ones(4, np.float32), np.zeros(4, np.float32), np.eye(4, dtype=np.float32)
    qkv_bias = np.array([score, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], np.float32)  # with D = 4, q · k / √D is about `score`
    qkv_weight = np.concatenate([0.1 * eye, 0.1 * eye, eye], axis=1)
    params = AttentionParams(gain, zeros, qkv_weight, qkv_bias, eye, zeros)
    given_x, given_dx = rng.normal(size=(2, 1, 9, 4)).astype(np.float32)
    results = []
    one = ModelConfig(**(SIZES | {"n_head": 1, "n_embd": 4}))
    for backend in (reference(), on_cpu()):
        attention = backend.table(one).attention
        zeroed = AttentionParams[Array](*map(np.zeros_like, params))
        grads = AttentionParams[Wanted](*zeroed)
        saved = attention.forward(given_x.copy(), params, Step(), 0)
        attention.backward(given_dx * np.float32(1e-17), saved, params, grads, Step(), 0)
        results.append(zeroed.qkv_weight)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):  # queries, keys, values
        expected, got = (result[:, part] for result in results)
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()


BLOCK = cpu.BLOCK_BYTES // 8  # numbers of float64


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("start", [0, 1, 5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates(n: int, start: int, decay: float) -> None:
    """Of a range, whose end is that of the arrays or one before it."""
    rng, span = np.random.default_rng(n), slice(min(start, n - 1), max(n - start % 2, 1))
    results = []
    given = rng.normal(size=n), rng.normal(size=n), rng.normal(size=n), rng.random(size=n)
    for backend in (reference(), on_cpu()):
        params, grads, first, second = (array.copy() for array in given)
        state = State(params, grads, {"first": first, "second": second})
        backend.rules["adamw"](state, span, Settings(weight_decay=decay), Update(0.01, 0.3, 7))
        assert not grads[span].any()
        results.append(np.concatenate([params, grads, first, second]))
    assert np.abs(results[0] - results[1]).max() <= 1e-14


def test_parameters_without_a_gradient_stay_finite_with_the_smallest_epsilon() -> None:
    """Those of tokens that no text has: 0 / ε is 0."""
    smallest = recipe(1, adam_epsilon=1e-30).adam_epsilon
    for backend in (reference(), on_cpu()):
        params, grads, first, second = (np.zeros(3, np.float32) for _ in range(4))
        state = State(params, grads, {"first": first, "second": second})
        backend.rules["adamw"](state, slice(0, 3), Settings(epsilon=smallest), Update(0.01, 1.0, 1))
        assert not params.any()
    with pytest.raises(UsageError, match="adam_epsilon must be at least 1e-30"):
        recipe(1, adam_epsilon=1e-31)


def test_huge_gradients_are_clipped_before_they_are_squared() -> None:
    results = []
    for backend in (reference(), on_cpu()):
        params, first, second = (np.zeros(3, np.float32) for _ in range(3))
        grads = np.array([1e25, -2e25, 3e20], np.float32)
        state = State(params, grads, {"first": first, "second": second})
        backend.rules["adamw"](state, slice(0, 3), Settings(weight_decay=0.0), Update(0.01, 1 / 3e25, 1))
        results.append(np.concatenate([params, first, second]))
    assert np.abs(results[0] - results[1]).max() <= 1e-6 * np.abs(results[0]).max()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_allocates_nothing_that_grows_with_the_work(dropout: float) -> None:
    """After the first step, what a step allocates at its peak does not depend on the batch."""
    peaks = []
    for B in (4, 32):
        config = ModelConfig(**(SIZES | {"block_size": 32, "n_embd": 48}), dropout=dropout)
        layout = Layout(config)
        model = GPT(config, on_cpu(Workspace()), layout.initial(1))
        tokens = np.random.default_rng(0).integers(0, 11, (B, 32))
        model.loss_and_grad(tokens, tokens)
        tracemalloc.start()
        model.loss_and_grad(tokens, tokens)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    rows, channels = 32 * 32, 48
    assert peaks[1] <= peaks[0] + rows * channels * 4 / 2  # not even half of one array of activations


@pytest.fixture(params=["the BLAS in NumPy", "NumPy alone"])
def product_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of adding a product; the first is only there where NumPy's wheel brings OpenBLAS."""
    if request.param == "NumPy alone":
        monkeypatch.setattr(blas, "_find", lambda _: None)
    elif blas._find(np.dtype(np.float32)) is None:  # noqa: SLF001 - what is found here is what the test is about
        pytest.skip("this NumPy has another BLAS")


@pytest.mark.usefixtures("product_of")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (1, 7, 2), (6, 1, 3), (2, 0, 3), (0, 2, 3)])
def test_products_are_added_whatever_the_memory_layout(shape: tuple[int, int, int], dtype: type) -> None:
    M, K, N = shape
    rng = np.random.default_rng(0)

    def layouts(rows: int, columns: int) -> list[Array]:
        wide: Array = rng.normal(size=(rows, columns + 3)).astype(dtype)
        tall: Array = rng.normal(size=(columns, rows)).astype(dtype)
        sparse: Array = rng.normal(size=(rows, 2 * columns)).astype(dtype)
        return [wide[:, :columns].copy(), wide[:, 1 : columns + 1], tall.T, sparse[:, ::2]]

    for a in layouts(M, K):
        for b in layouts(K, N):
            for out in layouts(M, N):
                expected = out + a @ b
                add_product(a, b, out)
                assert np.abs(out - expected).max(initial=0) <= 100 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.2, 0.5])
@pytest.mark.parametrize("shape", [(1,), (3, 3), (3, 5), (2, 4, 8)])
def test_masks_are_the_references_to_the_bit(rate: float, shape: tuple[int, ...], dtype: type) -> None:
    like: Array = np.zeros(1, dtype)
    masks = Masks(Workspace())
    for sequences in ([], [7], range(3, 6)):
        step = Step(dropout=rate, seed=5, step=2**40, sequences=sequences)
        expected = dropout_mask(step, Place.MLP_OUTPUT, 3, shape, like)
        got = masks.mask(step, 3, Place.MLP_OUTPUT, shape, like)
        if rate:
            assert got is not None
            assert got.dtype == dtype
            assert np.array_equal(got, expected)  # type: ignore[arg-type]
        else:
            assert got is expected is None


def test_the_workspace_gives_the_same_aligned_memory_again() -> None:
    workspace = Workspace()
    first = workspace.take("a", (3, 5), np.float32)
    assert first.ctypes.data % 64 == 0
    assert workspace.take("a", (2, 7), np.float32).ctypes.data == first.ctypes.data
    assert workspace.take("b", (3, 5), np.float32).ctypes.data != first.ctypes.data
    assert workspace.take("a", (100,), np.float32).shape == (100,)
    assert np.isnan(Workspace(poison=True).take("a", (3,), np.float64)).all()


def test_the_table_is_its_own_in_full() -> None:
    config = ModelConfig(**SIZES)
    table, other = on_cpu().table(config), reference().table(config)
    for field in dataclasses.fields(Table):
        assert type(getattr(table, field.name)) is not type(getattr(other, field.name))
