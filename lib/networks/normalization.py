"""Layers that set the scale of their features."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array

from lib.checks import check_floating, check_scalar
from lib.infinite.kernel import State


class LayerNorm(nn.Module):
    """Features of one example, at one position, with mean 0 and variance 1; without a trained scale or offset.

    y = (h − mean h) / √(var h + ε);  K_pq ← K_pq / √((K_pp(x, x) + ε)(K_qq(x′, x′) + ε)), and so for Θ

    Args:
        epsilon: ε, so small that it matters to inputs of zeros only.

    Raises:
        TypeError: when `epsilon` is not a real number, or `x` does not hold floating-point numbers.

    Example:
        >>> LayerNorm(epsilon=0.0)(jnp.array([[1.0, 3.0]])).tolist()
        [[-1.0, 1.0]]

    Source: Ba, Kiros & Hinton 2016.
    """

    epsilon: Any = 1e-12
    nonlinear = True

    def __post_init__(self):
        self.epsilon = check_scalar("epsilon", self.epsilon)
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        return _standardize(check_floating("x", x), -1, self.epsilon)

    @nn.nowrap
    def needs(self, above: str) -> str:
        """Each position for itself, as a nonlinearity."""
        return "diagonal" if above == "mean" else above

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """In the limit of many features their mean is 0 and their variance K_pp."""
        epsilon = jnp.asarray(self.epsilon, state.nngp.dtype)
        scale = lambda k11, k22: lax.rsqrt(k11 + epsilon) * lax.rsqrt(k22 + epsilon)
        k11, _, k22 = state.pair()
        variance1, variance2 = (k12 * scale(k11, k22) for k11, k12, k22 in state.own_pairs())
        return state.replace(
            nngp=state.nngp * scale(k11, k22),
            ntk=state.ntk * scale(k11, k22),
            variance1=variance1,
            variance2=variance2,
        )


class BatchNorm(nn.Module):
    """Each channel with mean 0 and variance 1 over the batch and its positions; without a trained scale or offset.

    y = (h − mean h) / √(var h + ε)

    The statistics are those of the batch at hand, in training and afterwards: they are a part of f(θ, x), and no
    running mean is kept. So examples act on each other, and the network has no kernel in closed form.

    Args:
        epsilon: ε.

    Raises:
        TypeError: when `epsilon` is not a real number, or `x` does not hold floating-point numbers.
        ValueError: when its kernel is asked for.

    Example:
        >>> BatchNorm(epsilon=0.0)(jnp.array([[1.0], [3.0]])).tolist()
        [[-1.0], [1.0]]

    Source: Ioffe & Szegedy 2015.
    """

    epsilon: Any = 1e-5

    def __post_init__(self):
        self.epsilon = check_scalar("epsilon", self.epsilon)
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        x = check_floating("x", x)
        return _standardize(x, tuple(range(x.ndim - 1)), self.epsilon)

    @nn.nowrap
    def needs(self, above: str) -> str:
        """Nothing helps: an error that says so."""
        raise ValueError(
            "BatchNorm has no infinite face: examples of a batch act on each other, and no closed form is known. Use "
            "the empirical kernel (ntk_vector_product takes such networks), or a network without normalisation"
        )


def _standardize(x: Array, axis: Any, epsilon: Any) -> Array:
    x = x - jnp.mean(x, axis, keepdims=True)
    # Large numbers are divided before they are squared; by what does not matter, and so not to derivatives.
    scale = lax.stop_gradient(jnp.maximum(jnp.max(abs(x), axis, keepdims=True), 1))
    x = x / scale
    return x * lax.rsqrt(jnp.mean(x**2, axis, keepdims=True) + epsilon / scale / scale)
