"""Optimisers as spectral filters.

Under squared loss a linear optimiser acts on each eigenmode of Θ alone. After training, a mode with eigenvalue λ keeps
the fraction g(λ) of its residual; what it has gained, measured in the weights, is h(λ) = (1 − g(λ))/λ.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from lib.checks import check_steps


class Filter(NamedTuple):
    """An optimiser, seen by one eigenmode: two functions of the eigenvalues λ (n,).

    `residual` is g(λ), the part of f − y that is left; `response` is h(λ) = (1 − g(λ))/λ. Both return (..., n), with
    the shape of the times or steps the filter was made with in front. Outputs and weights need h, and dividing 1 − g
    by λ would lose every digit as λ → 0, so each filter brings its own h.
    """

    residual: Callable[[Array], Array]
    response: Callable[[Array], Array]


def flow(t: ArrayLike) -> Filter:
    """Gradient flow for a time t: g(λ) = e^{−λt}, h(λ) = (1 − e^{−λt})/λ.

    Args:
        t: time, in units of learning rate × steps for the total loss ½ Σ (f − y)²; a number or an array of any shape.
            A mean over N·K entries makes it learning rate × steps / (N·K). `t = inf` is training to convergence; modes
            with λ = 0 never learn, and keep h = 0 there.

    Returns:
        The filter; its functions map (n,) to (*t.shape, n).

    Example:
        >>> [round(h, 4) for h in flow(2.0).response(jnp.array([0.0, 1.0])).tolist()]  # t, and 1 − e⁻²
        [2.0, 0.8647]

    Source: Lee et al. 2019, eqs 8-11.
    """

    def exponent(eigenvalues):
        time = jnp.asarray(t, eigenvalues.dtype)[..., None]
        return time, jnp.where(eigenvalues > 0, -_positive(eigenvalues) * time, 0.0)

    def residual(eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
        return jnp.exp(exponent(eigenvalues)[1])

    def response(eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
        time, decay = exponent(eigenvalues)
        learnt = -jnp.expm1(decay) / _positive(eigenvalues)
        return jnp.where(eigenvalues > 0, learnt, jnp.where(jnp.isinf(time), 0.0, time))

    return Filter(residual, response)


def descent(learning_rate: ArrayLike, steps: ArrayLike) -> Filter:
    """Full-batch gradient descent for i steps: g(λ) = (1 − ηλ)^i, h(λ) = η Σ_{j<i} (1 − ηλ)^j.

    It converges on modes with ηλ < 2 and diverges beyond. (The paper's text prints 1 − (1 − ηλ)^i for g.)

    Args:
        learning_rate: η for the total loss ½ Σ (f − y)²; divide by N·K to follow a mean over N·K entries.
        steps: i, an integer or an array of integers of any shape, each 0 or more.

    Returns:
        The filter; its functions map (n,) to (*steps.shape, n).

    Raises:
        TypeError: when `steps` is not of an integer type.
        ValueError: when a step is below 0.

    Example:
        >>> descent(0.5, 3).residual(jnp.array([1.0, 2.0])).tolist()
        [0.125, 0.0]

    Source: Lee et al. 2019, section 2.2, with its exponent corrected.
    """
    count = check_steps(steps)

    def split(eigenvalues):
        eta = jnp.asarray(learning_rate, eigenvalues.dtype)
        lam = jnp.maximum(eigenvalues, 0.0)
        return eta, lam, count.astype(eigenvalues.dtype)[..., None]

    def residual(eigenvalues: Float[Array, " n"]) -> Float[Array, "*steps n"]:
        eta, lam, i = split(eigenvalues)
        return (1 - eta * lam) ** i

    def response(eigenvalues: Float[Array, " n"]) -> Float[Array, "*steps n"]:
        eta, lam, i = split(eigenvalues)
        slow = eta * lam < 0.5  # where 1 − g would cancel
        per_step = jnp.log1p(-jnp.where(slow, eta * lam, 0.0))
        learnt = jnp.where(slow, -jnp.expm1(i * per_step), 1 - (1 - eta * lam) ** i) / _positive(lam)
        return jnp.where(lam > 0, learnt, eta * i)

    return Filter(residual, response)


def _positive(eigenvalues: Array) -> Array:
    """Eigenvalues safe to divide by: those that are not positive become 1, and are masked out by the caller."""
    return jnp.where(eigenvalues > 0, eigenvalues, 1.0)
