"""Every op and sublayer as a `Case`: a pure forward and backward of float arrays, with inputs to try them on.

Each function takes the module to be tested, sizes and a seed. All sizes differ by default, and from 1, so that no
mistake is hidden by broadcasting.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from scratchgpt.chance import Place
from scratchgpt.ops import layernorm as layernorm_op
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import ACTIVATIONS
from scratchgpt.ops.table import AttentionParams, EmbedParams, HeadParams, MLPParams, Step
from tests.ops import plain
from tests.ops.checks import Case
from tests.strategies import values

EPSILON, LAYER = 1e-3, 6
"""Other ones than the default."""

Params = TypeVar("Params", AttentionParams[Array], MLPParams[Array], HeadParams[Array], EmbedParams[Array])

# ------------------------------------------------------------------------------------------------- ops


def linear(
    module: ModuleType,
    *,
    rows: tuple[int, ...] = (2, 3),
    K: int = 4,
    N: int = 5,
    bias: bool = True,
    kind: str = "normal",
    scale: float = 1,
    seed: int = 0,
) -> Case:
    """With any number of leading axes."""
    rng = np.random.default_rng(seed)
    inputs = [values(rng, (*rows, K), kind, scale), values(rng, (K, N))] + [values(rng, (N,))] * bias
    return Case(module.forward, _backward_with_bias(module, bias=bias), plain.linear, inputs, rng)


def layernorm(
    module: ModuleType,
    *,
    rows: tuple[int, ...] = (2, 3),
    C: int = 5,
    bias: bool = True,
    kind: str = "normal",
    scale: float = 1,
    seed: int = 0,
) -> Case:
    """A constant row has variance 0: only ε keeps its result finite."""
    rng = np.random.default_rng(seed)
    inputs = [values(rng, (*rows, C), kind, scale), values(rng, (C,))] + [values(rng, (C,))] * bias
    return Case(module.forward, _backward_with_bias(module, bias=bias), plain.layernorm, inputs, rng)


def rmsnorm(module: ModuleType, **drawn: Any) -> Case:
    """A row of zeros has mean square 0: only ε keeps its result finite."""
    return layernorm(module, **drawn)._replace(plain=plain.rmsnorm)


def _backward_with_bias(module: ModuleType, *, bias: bool) -> Callable[..., tuple[Array, ...]]:
    """Of linear and the norms: the gradient of a bias is None where there is no bias."""

    def backward(dy: Array, saved: Any, _x: Array, weight: Array, _bias: Array | None = None) -> tuple[Array, ...]:
        *gradients, dbias = module.backward(dy, saved, weight)
        assert (dbias is not None) == bias
        return (*gradients, dbias) if bias else tuple(gradients)

    return backward


def elementwise(
    module: ModuleType,
    function: Callable[[Array], Array],
    *,
    rows: tuple[int, ...] = (2, 3),
    C: int = 5,
    kind: str = "normal",
    scale: float = 1,
    seed: int = 0,
) -> Case:
    """GELU, ReLU and softmax: one input, one output of the same shape."""
    rng = np.random.default_rng(seed)
    x = values(rng, (*rows, C), kind, scale)
    x += np.copysign(0.01, x)  # away from ReLU's kink, where no finite difference is right
    return Case(module.forward, lambda dy, saved, _: (module.backward(dy, saved),), function, [x], rng)


gelu = partial(elementwise, function=plain.gelu)
relu = partial(elementwise, function=plain.relu)
softmax = partial(elementwise, function=plain.softmax)


def dropout(
    module: ModuleType, *, rows: tuple[int, ...] = (2, 3), C: int = 5, rate: float = 0.3, seed: int = 0
) -> Case:
    """Without a mask where the rate is 0."""
    rng = np.random.default_rng(seed)
    x = values(rng, (*rows, C))
    mask = _random_mask(rng, x.shape, rate)
    return Case(
        lambda x: module.forward(x, _like(mask, x)),
        lambda dy, saved, _: (module.backward(dy, saved),),
        lambda x: x if mask is None else x * mask,
        [x],
        rng,
    )


def attention(
    module: ModuleType,
    *,
    B: int = 2,
    H: int = 4,
    T: int = 3,
    D: int = 5,
    rate: float = 0.0,
    kind: str = "normal",
    scale: float = 1,
    seed: int = 0,
) -> Case:
    """Queries and keys of ±1 give many ties; large ones, probabilities that are all but 0 and 1."""
    rng = np.random.default_rng(seed)
    q, k = (values(rng, (B, H, T, D), kind, scale) for _ in range(2))
    v = values(rng, (B, H, T, D))
    mask = _random_mask(rng, (B, H, T, T), rate)
    return Case(
        lambda q, k, v: module.forward(q, k, v, _like(mask, q)),
        lambda dy, saved, *_: module.backward(dy, saved),
        lambda q, k, v: plain.attention(q, k, v, mask),
        [q, k, v],
        rng,
    )


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Array | None:
    return (rng.random(shape) >= rate) / (1 - rate) if rate else None


def _like(mask: Array | None, x: Array) -> Array | None:
    return None if mask is None else mask.astype(x.dtype)


def embedding(
    module: ModuleType, *, B: int = 2, T: int = 3, C: int = 4, V: int = 7, unused: int = 2, seed: int = 0
) -> Case:
    """More positions than are used; tokens repeat by chance, and all are the same where V is 1."""
    rng = np.random.default_rng(seed)
    tokens = _numbers(rng, V, (B, T))
    return Case(
        partial(module.forward, tokens),
        lambda dy, saved, *_: module.backward(dy, saved),
        partial(plain.embedding, tokens),
        [values(rng, (V, C)), values(rng, (T + unused, C))],
        rng,
    )


def _numbers(rng: np.random.Generator, V: int, shape: tuple[int, ...]) -> Array:
    """Tokens or targets, which nothing may change."""
    numbers = rng.integers(V, size=shape)
    numbers.setflags(write=False)
    return numbers


def cross_entropy(
    module: ModuleType, *, N: int = 3, V: int = 5, kind: str = "normal", scale: float = 1, seed: int = 0
) -> Case:
    """Each row's loss with a gradient of its own."""
    rng = np.random.default_rng(seed)
    logits, targets = values(rng, (N, V), kind, scale), _numbers(rng, V, (N,))
    return Case(
        lambda logits: module.forward(logits, targets),
        lambda dy, saved, _: (module.backward(dy, saved),),
        lambda logits: plain.cross_entropy(logits, targets),
        [logits],
        rng,
    )


# -------------------------------------------------------------------------------------------- sublayers


def embed(
    module: ModuleType,
    *,
    B: int = 2,
    T: int = 3,
    C: int = 4,
    V: int = 5,
    unused: int = 2,
    rate: float = 0.3,
    seed: int = 0,
) -> Case:
    """The two tables are the inputs; the tokens are given."""
    rng = np.random.default_rng(seed)
    tokens = _numbers(rng, V, (B, T))
    step, sublayer = _step(B, seed, dropout=rate), module.Embed()

    def forward(*tables: Array) -> Any:
        x, saved = sublayer.forward(tokens, EmbedParams(*tables), step)
        y = x.copy()
        x.fill(np.nan)  # it is the residual stream, which later sublayers overwrite
        return y, saved

    def backward(dy: Array, saved: Any, *tables: Array) -> tuple[Array, ...]:
        grads = EmbedParams(*_prefilled(tables))
        sublayer.backward(dy.copy(), saved, grads, step)
        return _increments(grads)

    def function(*tables: Array) -> Array:
        return plain.embedding(tokens, *tables) * _mask(step, Place.EMBEDDING, (T, C), layer=0)

    return Case(forward, backward, function, [values(rng, (V, C)), values(rng, (T + unused, C))], rng)


def attention_sublayer(
    module: ModuleType,
    *,
    B: int = 4,
    T: int = 3,
    H: int = 2,
    D: int = 5,
    bias: bool = True,
    rate: float = 0.3,
    seed: int = 0,
) -> Case:
    """Masks at two places: the attention's weights, and the output."""
    rng = np.random.default_rng(seed)
    C = H * D
    x, params = values(rng, (B, T, C)), _params(rng, AttentionParams, C, 3 * C, C, bias=bias)
    step, sublayer = _step(B, seed, dropout=rate), module.Attention(layernorm_op, EPSILON, H)

    def function(x: Array, params: AttentionParams[Array]) -> Array:
        qkv = plain.linear(plain.layernorm(x, params.gain, params.bias, EPSILON), params.qkv_weight, params.qkv_bias)
        heads = qkv.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)
        y = plain.attention(heads[0], heads[1], heads[2], _mask(step, Place.ATTENTION, (H, T, T)))
        merged = y.transpose(0, 2, 1, 3).reshape(B, T, C)
        out = plain.linear(merged, params.proj_weight, params.proj_bias)
        return x + out * _mask(step, Place.ATTENTION_OUTPUT, (T, C))

    return _in_place(sublayer, function, x, params, step=step, rng=rng)


def mlp_sublayer(
    module: ModuleType,
    *,
    B: int = 2,
    T: int = 3,
    C: int = 5,
    activation: str = "gelu_new",
    bias: bool = True,
    rate: float = 0.3,
    seed: int = 0,
) -> Case:
    """ReLU's inputs must keep away from its kink: they are drawn until they do."""
    rng = np.random.default_rng(seed)
    step = _step(B, seed, dropout=rate)
    sublayer = module.MLP(layernorm_op, EPSILON, ACTIVATIONS[activation])

    def hidden(x: Array, params: MLPParams[Array]) -> Array:
        return plain.linear(plain.layernorm(x, params.gain, params.bias, EPSILON), params.fc_weight, params.fc_bias)

    def function(x: Array, params: MLPParams[Array]) -> Array:
        active = {"gelu_new": plain.gelu, "relu": plain.relu}[activation](hidden(x, params))
        return x + plain.linear(active, params.out_weight, params.out_bias) * _mask(step, Place.MLP_OUTPUT, (T, C))

    while True:
        x, params = values(rng, (B, T, C)), _params(rng, MLPParams, C, 4 * C, C, bias=bias)
        if activation != "relu" or np.abs(hidden(x, params)).min() > 0.003:
            break
    return _in_place(sublayer, function, x, params, step=step, rng=rng)


def head_loss(
    module: ModuleType,
    *,
    B: int = 2,
    T: int = 3,
    C: int = 4,
    V: int = 5,
    n_targets: int = 11,
    loss_scale: float = 3.0,
    bias: bool = True,
    logit_bias: bool = True,
    is_weighed: bool = True,
    n_ignored: int = 2,
    seed: int = 0,
) -> Case:
    """The gradient comes with the loss, times its scale; a dy other than 1 multiplies it."""
    rng = np.random.default_rng(seed)
    x, targets = values(rng, (B, T, C)), _numbers(rng, V, (B, T))
    weights = values(rng, (B, T)) if is_weighed else None
    counts = np.arange(B * T) >= n_ignored
    targets = np.where(counts.reshape(B, T), targets, -1)
    biases = values(rng, (C,)) if bias else None, values(rng, (V,)) if logit_bias else None
    params = HeadParams(values(rng, (C,)), biases[0], values(rng, (V, C)), biases[1])
    step = _step(B, seed, n_targets=n_targets, loss_scale=loss_scale, weights=weights)
    sublayer = module.Head(layernorm_op, EPSILON)

    def forward(x: Array, *leaves: Array) -> Any:
        grads = _filled(params, _prefilled(leaves))
        loss, dx = sublayer.loss(x.copy(), targets, _filled(params, leaves), grads, step)
        return loss, (dx, *_increments(grads))

    def function(x: Array, *leaves: Array) -> Array:
        gain, bias, weight, logit_bias = _filled(params, leaves)
        logits = plain.linear(plain.layernorm(x, gain, bias, EPSILON), weight.T, logit_bias)
        losses = plain.cross_entropy(logits.reshape(-1, V), np.maximum(targets.reshape(-1), 0))
        weighed = losses if weights is None else losses * weights.reshape(-1)
        return np.asarray(weighed[counts].sum() / n_targets)

    return Case(
        forward,
        lambda dy, saved, *_: tuple(dy / loss_scale * gradient for gradient in saved),
        function,
        [x, *_leaves(params)],
        rng,
    )


def _step(B: int, seed: int, **settings: Any) -> Step:
    """Place a batch somewhere in a run: no number is 0 or the same as another."""
    return Step(seed=seed + 3, step=5, sequences=range(7 + B, 7, -1), **settings)


def _mask(step: Step, place: Place, shape: tuple[int, ...], layer: int = LAYER) -> Array:
    return plain.dropout_mask(
        step.dropout,
        seed=step.seed,
        step=step.step,
        sequences=step.sequences,
        layer=layer,
        place=place,
        shape=shape,
    )


def _params(rng: np.random.Generator, kind: type[Params], C: int, wide: int, narrow: int, *, bias: bool) -> Params:
    """Of attention or MLP: a norm, a linear map C -> wide, and another one to C."""
    inner = C if kind is AttentionParams else wide
    shapes = [(C,), (C,), (C, wide), (wide,), (inner, narrow), (narrow,)]
    return kind._make(values(rng, shape, scale=0.7) if bias or i % 2 == 0 else None for i, shape in enumerate(shapes))


def _in_place(
    sublayer: Any,
    function: Callable[[Array, Params], Array],
    x: Array,
    params: Params,
    *,
    step: Step,
    rng: np.random.Generator,
) -> Case:
    """Make pure functions of a sublayer that changes x, dx and grads in place."""

    def forward(x: Array, *leaves: Array) -> Any:
        stream = x.copy()
        saved = sublayer.forward(stream, _filled(params, leaves), step, LAYER)
        y = stream.copy()
        stream.fill(np.nan)  # later sublayers overwrite it: nothing may have saved it by reference
        return y, saved

    def backward(dy: Array, saved: Any, _x: Array, *leaves: Array) -> tuple[Array, ...]:
        dx = dy.copy()
        grads: Params = _filled(params, _prefilled(leaves))
        sublayer.backward(dx, saved, _filled(params, leaves), grads, step, LAYER)
        return dx, *_increments(grads)

    return Case(forward, backward, lambda x, *leaves: function(x, _filled(params, leaves)), [x, *_leaves(params)], rng)


def _leaves(params: Params) -> list[Array]:
    """Without what the model does not have."""
    return [leaf for leaf in params if leaf is not None]


def _filled(params: Params, leaves: Sequence[Array]) -> Params:
    """Return the like of `params`, with other arrays."""
    remaining = iter(leaves)
    return type(params)._make(None if leaf is None else next(remaining) for leaf in params)


def _prefilled(leaves: Sequence[Array]) -> list[Array]:
    """What was accumulated before: it must still be there afterwards."""
    rng = np.random.default_rng(99)
    return [values(rng, leaf.shape).astype(leaf.dtype) for leaf in leaves]


def _increments(grads: Params) -> tuple[Array, ...]:
    """What has been added since."""
    leaves = _leaves(grads)
    return tuple(leaf - before for leaf, before in zip(leaves, _prefilled(leaves), strict=True))


# --------------------------------------------------------------------------------------------- examples

EXAMPLES: dict[str, tuple[Callable[[ModuleType], Case], ...]] = {
    "linear": (linear, partial(linear, rows=(), bias=False)),
    "layernorm": (layernorm, partial(layernorm, rows=(3,), bias=False)),
    "rmsnorm": (rmsnorm, partial(rmsnorm, rows=(3,), bias=False)),
    "gelu": (gelu,),
    "relu": (relu,),
    "softmax": (softmax, partial(softmax, rows=(2, 1, 3)), partial(softmax, scale=1000)),
    "dropout": (dropout, partial(dropout, rate=0)),
    "attention": (attention, partial(attention, rate=0.3)),
    "embedding": (embedding, partial(embedding, V=2, unused=0)),
    "cross_entropy": (cross_entropy, partial(cross_entropy, N=6, V=4), partial(cross_entropy, scale=1000)),
    "sublayers": (
        attention_sublayer,
        mlp_sublayer,
        partial(attention_sublayer, bias=False, rate=0),
        partial(mlp_sublayer, bias=False, rate=0, activation="relu"),
        embed,
        partial(embed, rate=0),
        head_loss,
        partial(head_loss, bias=False),
        partial(head_loss, logit_bias=False),
    ),
}
"""A few of each module's cases, for the tests that need no more than that."""
