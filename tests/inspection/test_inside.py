"""What a model does with a text: attention as the reference computes it, losses as `evaluate` does."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.inspection import inside
from scratchgpt.inspection.inside import attention_maps, next_tokens, predictions, token_losses
from scratchgpt.model.gpt import EVALUATION_LOGITS, GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops import attention, layernorm, linear
from scratchgpt.ops.attention import split_heads
from tests.model.test_gpt import KINDS, SIZES, kinds, lively

CONFIG = ModelConfig(**SIZES)


def ids(n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(CONFIG.vocab_size, size=n)


@kinds
def test_rows_of_attention_sum_to_one_and_look_back_only(kind: dict[str, object]) -> None:
    model = lively(ModelConfig(**SIZES | kind))
    for T in (1, 2, 7):
        maps = attention_maps(model, ids(T))
        assert maps.shape == (2, 3, T, T)
        assert np.abs(maps.sum(axis=-1) - 1).max() <= 1e-12
        assert maps.min() >= 0
        assert not np.triu(maps, 1).any()


def test_attention_is_that_of_the_reference() -> None:
    """The first layer's by the op; the second's by plain loops, from what the fast path makes of the first layer."""
    model, tokens = lively(CONFIG), ids(6)
    maps = attention_maps(model, tokens)
    params = model.tree.blocks[0].attention
    x = (model.tree.embed.token_table[tokens] + model.tree.embed.position_table[:6])[None]
    normed, _ = layernorm.forward(x, params.gain, params.bias)
    qkv, _ = linear.forward(normed, params.qkv_weight, params.qkv_bias)
    _, saved = attention.forward(*(split_heads(part, 3) for part in np.split(qkv, 3, axis=-1)))
    assert np.abs(maps[0] - saved.probabilities[0]).max() <= 1e-12

    one_layer = Layout(ModelConfig(**SIZES | {"n_layer": 1}))
    shorter = GPT(one_layer.config, model.backend, np.empty(one_layer.size))
    for name, view in one_layer.views(shorter.params).items():
        view[...] = model.layout.views(model.params)[name]
    assert np.abs(attended(model, 1, shorter.hidden(tokens[None])[0]) - maps[1]).max() <= 1e-12


def attended(model: GPT, layer: int, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights (H, T, T) of a layer that reads the stream x (T, C), by plain loops."""
    params = model.tree.blocks[layer].attention
    (T, C), H = x.shape, model.config.n_head
    D = C // H
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layernorm.EPSILON)
    qkv = (normed * params.gain + params.bias) @ params.qkv_weight + params.qkv_bias
    weights = np.zeros((H, T, T))
    for head in range(H):
        q, k = (qkv[:, part * C + head * D : part * C + (head + 1) * D] for part in (0, 1))
        for t in range(T):
            exps = np.exp(k[: t + 1] @ q[t] / math.sqrt(D))
            weights[head, t, : t + 1] = exps / exps.sum()
    return weights


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]], ids=["most", "least"])
def test_losses_add_up_to_what_evaluate_measures(kind: dict[str, object]) -> None:
    model = lively(ModelConfig(**SIZES | kind))
    for n in (2, 5, 8):
        tokens = ids(n)
        losses = token_losses(model, tokens)
        assert losses.shape == (n - 1,)
        assert abs(losses.sum() - model.score(tokens[None, :-1], tokens[None, 1:]).loss) <= 1e-10


@pytest.mark.parametrize("n", [2, 8, 9, 11, 12, 40])
@pytest.mark.parametrize("at_once", [1, 20, 2048])
def test_windows_overlap_by_half(n: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token's loss is that of the model with the context that was promised, whatever is computed together."""
    monkeypatch.setattr(inside, "TOKENS_AT_ONCE", at_once)
    monkeypatch.setitem(EVALUATION_LOGITS, "cpu", 2 * CONFIG.vocab_size)
    model, tokens = lively(CONFIG), ids(n)
    T = CONFIG.block_size
    losses = token_losses(model, tokens)
    assert losses.shape == (n - 1,)
    start = end = 0
    for place in range(1, n):
        if place - start > T:  # the next window begins half a window later, but ends with the text at the latest
            start = min(start + T // 2, n - 1 - T)
        end = min(start + T, n - 1)
        assert place - start >= min(place, T - T // 2)
        window = tokens[start:end]
        logits = model.logits(model.hidden(window[None]))[0, place - 1 - start]
        expected = math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[place]]
        assert abs(losses[place - 1] - expected) <= 1e-10


def test_the_likeliest_are_sorted_and_all_there() -> None:
    model, tokens = lively(CONFIG), ids(20)
    V = CONFIG.vocab_size
    for k, n_found in ((0, 0), (1, 1), (3, 3), (V, V), (99, V)):
        for part in predictions(model, tokens, k):
            assert part.tokens.shape == part.probabilities.shape == (len(part.losses), n_found)
            assert (np.diff(part.probabilities, axis=-1) <= 0).all()
    whole = next(predictions(model, tokens, V))
    assert np.abs(whole.probabilities.sum(axis=-1) - 1).max() <= 1e-12
    of_targets = whole.probabilities[whole.tokens == tokens[1 : len(whole.losses) + 1, None]]
    assert np.abs(of_targets - np.exp(-whole.losses)).max() <= 1e-12


def test_the_next_tokens_are_the_likeliest() -> None:
    model, tokens = lively(CONFIG), ids(20)
    likeliest, probabilities = next_tokens(model, tokens, 4)
    logits = model.logits(model.hidden(tokens[None, -7:]))[0, -1]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert likeliest.tolist() == np.argsort(-expected)[:4].tolist()
    assert np.abs(probabilities - expected[likeliest]).max() <= 1e-12


def test_of_nothing_there_is_nothing_to_see() -> None:
    model = lively(CONFIG)
    assert token_losses(model, [1]).shape == (0,)
    for function in (attention_maps, token_losses, lambda model, ids: next_tokens(model, ids, 1)):
        with pytest.raises(UsageError, match="text is empty"):
            function(model, [])
    with pytest.raises(UsageError, match="block_size of 7"):
        attention_maps(model, ids(8))
