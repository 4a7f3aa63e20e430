"""The same model in JAX: the whole training step is one compiled function."""

from typing import Any

import jax
import jax.numpy as jnp

from scratchgpt.bench import Contender, Workload
from scratchgpt.ops.array import Array

Params = dict[str, jax.Array]


def build(workload: Workload) -> Contender:
    """Return the model, ready to train."""
    if workload.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    config = workload.model
    B, T, C, H, D = workload.batch_size, config.block_size, config.n_embd, config.n_head, config.head_size
    recipe = workload.recipe
    learning_rate, beta1, beta2 = recipe.learning_rate, recipe.beta1, recipe.beta2

    def norm(params: Params, name: str, x: jax.Array) -> jax.Array:
        normed = jax.nn.standardize(x, axis=-1, epsilon=config.norm_epsilon) * params[f"{name}.weight"]
        return normed + params.get(f"{name}.bias", 0)

    def linear(params: Params, name: str, x: jax.Array) -> jax.Array:
        return x @ params[f"{name}.weight"] + params.get(f"{name}.bias", 0)

    def loss(params: Params, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        token_table = params["transformer.wte.weight"]
        x = token_table[tokens] + params["transformer.wpe.weight"]
        for layer in range(config.n_layer):
            name = f"transformer.h.{layer}"
            qkv = linear(params, f"{name}.attn.c_attn", norm(params, f"{name}.ln_1", x))
            q, k, v = (part.reshape(B, T, H, D) for part in jnp.split(qkv, 3, axis=-1))
            heads = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, C)
            x += linear(params, f"{name}.attn.c_proj", heads)
            hidden = linear(params, f"{name}.mlp.c_fc", norm(params, f"{name}.ln_2", x))
            active = jax.nn.relu(hidden) if config.activation == "relu" else jax.nn.gelu(hidden, approximate=True)
            x += linear(params, f"{name}.mlp.c_proj", active)
        logits = norm(params, "transformer.ln_f", x) @ params.get("lm_head.weight", token_table).T
        logits += params.get("lm_head.bias", 0)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()

    def train(state: Any, number: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        params, first, second = state
        value, grads = jax.value_and_grad(loss)(params, tokens, targets)
        norm_of_all = jnp.sqrt(sum(jnp.vdot(grad, grad) for grad in grads.values()))
        scale = jnp.minimum(1, recipe.grad_clip / norm_of_all)

        def update(param: jax.Array, m: jax.Array, v: jax.Array, grad: jax.Array) -> tuple[jax.Array, ...]:
            m = beta1 * m + (1 - beta1) * scale * grad
            v = beta2 * v + (1 - beta2) * (scale * grad) ** 2
            kept = 1 - learning_rate * recipe.weight_decay if param.ndim > 1 else 1
            direction = (m / (1 - beta1**number)) / (jnp.sqrt(v / (1 - beta2**number)) + recipe.adam_epsilon)
            return kept * param - learning_rate * direction, m, v

        updated = {name: update(params[name], first[name], second[name], grad) for name, grad in grads.items()}
        return value, tuple({name: leaf[i] for name, leaf in updated.items()} for i in range(3))

    train_step = jax.jit(train, donate_argnums=0)
    params = {name: jnp.array(values) for name, values in workload.initial().items()}
    first, second = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
    state, n_done = (params, first, second), 0

    def step(tokens: Array, targets: Array) -> float:
        nonlocal state, n_done
        n_done += 1
        value, state = train_step(state, float(n_done), tokens, targets)
        jax.block_until_ready(state)
        return float(value)

    return Contender(step, {"version": f"JAX {jax.__version__}"})
