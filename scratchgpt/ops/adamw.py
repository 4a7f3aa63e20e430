"""AdamW and the clipping of gradients by their global norm. Derivation: adamw.md."""

from typing import NamedTuple

from scratchgpt.ops.array import Array, array_module


class Moments(NamedTuple):
    """The optimizer's state: running means of the gradient and of its square, laid out as the parameters."""

    first: Array  # (P,)
    second: Array  # (P,)


class Settings(NamedTuple):
    """Constants of a run: the same in each update."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    epsilon: float = 1e-8


def norm(grads: Array) -> float:
    """√Σ g²: the Euclidean norm of all gradients together.

    grads (P,). It is inf or nan if any of them is, which is how a broken step is noticed.
    """
    xp = array_module(grads)
    return float(xp.sqrt(xp.vdot(grads, grads)))


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that brings a gradient of this norm down to `max_norm`; 1 if it is below, or max_norm is 0."""
    return max_norm / norm if 0 < max_norm < norm else 1.0


def update(
    params: Array, grads: Array, moments: Moments, settings: Settings, *, learning_rate: float, update_number: int
) -> None:
    """θ ← θ - lr · (m̂ / (√v̂ + ε) + λ θ)  with  m̂ = m / (1 - β₁ⁿ),  v̂ = v / (1 - β₂ⁿ).

    params, grads (P,), moments of (P,); params and moments are changed in place. `update_number` n counts from 1.
    Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2017 (arXiv 1711.05101).
    """
    xp = array_module(params)
    beta1, beta2, weight_decay, epsilon = settings
    m, v = moments
    m *= beta1
    m += (1 - beta1) * grads
    v *= beta2
    v += (1 - beta2) * (grads * grads)
    params *= 1 - learning_rate * weight_decay
    denominator = xp.sqrt(v / (1 - beta2**update_number)) + epsilon
    params -= (learning_rate / (1 - beta1**update_number)) * m / denominator
