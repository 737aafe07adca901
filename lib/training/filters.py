"""Optimisers as spectral filters.

Under squared loss a linear optimiser acts on each eigenmode of Θ alone. After training, a mode with eigenvalue λ keeps
the fraction g(λ) of its residual; what it has gained, measured in the weights, is h(λ) = (1 − g(λ))/λ.
"""

from collections.abc import Callable
from functools import wraps
from math import factorial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Integer

from lib.checks import as_numbers, as_real, check_steps


class Filter(NamedTuple):
    """An optimiser, seen by one eigenmode: two functions of the eigenvalues λ (n,).

    `residual` is g(λ), the part of f − y that is left; `response` is h(λ) = (1 − g(λ))/λ. Both return (..., n), with
    the shape of the times or steps the filter was made with in front. Outputs and weights need h, and dividing 1 − g
    by λ would lose every digit as λ → 0, so each filter brings its own h.

    Any two functions of JAX will do. The filters of this library are pytrees, whose leaves are times, rates and steps:
    they pass through `jax.jit` as arguments.
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
        The filter; its functions map (n,) to (*t.shape, n). Where an eigenvalue is NaN they are.

    Raises:
        TypeError: when `t` holds no real numbers.
        ValueError: when a time is below 0.

    Example:
        >>> [round(h, 4) for h in flow(2.0).response(jnp.array([0.0, 1.0])).tolist()]  # t, and 1 − e⁻²
        [2.0, 0.8647]

    Source: Lee et al. 2019, eqs 8-11.
    """
    t = as_numbers("t", t, least=0)
    return Filter(Partial(_flow_residual, t), Partial(_flow_response, t))


def descent(learning_rate: ArrayLike, steps: ArrayLike) -> Filter:
    """Full-batch gradient descent for i steps: g(λ) = (1 − ηλ)^i, h(λ) = η Σ_{j<i} (1 − ηλ)^j.

    It converges on modes with ηλ < 2 and diverges beyond. (The paper's text prints 1 − (1 − ηλ)^i for g.)

    Args:
        learning_rate: η for the total loss ½ Σ (f − y)²; divide by N·K to follow a mean over N·K entries.
        steps: i, an integer or an array of integers of any shape, each 0 or more.

    Returns:
        The filter; its functions map (n,) to (*steps.shape, n).

    Raises:
        TypeError: when `steps` is not of an integer type, or `learning_rate` no real number.
        ValueError: when a step or the learning rate is below 0.

    Example:
        >>> descent(0.5, 3).residual(jnp.array([1.0, 2.0])).tolist()
        [0.125, 0.0]

    Source: Lee et al. 2019, section 2.2, with its exponent corrected.
    """
    leaves = as_numbers("learning_rate", learning_rate, least=0), check_steps(steps)
    return Filter(Partial(_descent_residual, *leaves), Partial(_descent_response, *leaves))


def check_filter(name: str, filter: Any) -> None:
    """That it is a Filter."""
    if not isinstance(filter, Filter):
        raise TypeError(f"`{name}` must be a Filter, such as flow(1.0), got {type(filter).__name__}")


def floating(function: Callable[..., Array]) -> Callable[..., Array]:
    """A filter's function, of eigenvalues that are floating before anything takes their dtype."""

    @wraps(function)
    def converted(*given: Any) -> Array:
        return function(*given[:-1], as_real("eigenvalues", given[-1]))

    return converted


def of_eigenvalues(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same, compiled, and NaN where eigenvalues are: no step, or a comparison with 0, would hide it."""
    compiled = jax.jit(lambda *given: jnp.where(jnp.isnan(given[-1]), jnp.nan, function(*given)))
    return floating(wraps(function)(lambda *given: compiled(*given)))


def not_negative(eigenvalues: Array) -> Array:
    """Eigenvalues, those below 0 counting as 0; at 0 with the derivative to the right, where eigenvalues are."""
    return jnp.where(eigenvalues < 0, 0.0, eigenvalues)


def mean_decay(z: Array) -> Array:
    """(1 − e^{−z})/z, the mean of e^{−s} from 0 to z; near 0 by its series, whose derivatives keep their digits."""
    near = jnp.abs(z) < 1
    far = jnp.where(near, 1.0, z)
    series = horner([(-1) ** k / factorial(k + 1) for k in range(19)], jnp.where(near, z, 0.0))
    return jnp.where(near, series, -jnp.expm1(-far) / far)


@of_eigenvalues
def _flow_residual(t: ArrayLike, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    lam, time, converged = _flow_times(t, eigenvalues)
    return jnp.where(converged, jnp.where(lam > 0, 0.0, 1.0), jnp.exp(-lam * time))


@of_eigenvalues
def _flow_response(t: ArrayLike, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    lam, time, converged = _flow_times(t, eigenvalues)
    early = lam * time < 1
    safe = jnp.where(lam > 0, lam, 1.0)
    late = jnp.where(early, 1.0, safe)  # λt may overflow here, and h is 1/λ
    learnt = jnp.where(early, time * mean_decay(jnp.where(early, lam * time, 0.0)), -jnp.expm1(-late * time) / late)
    return jnp.where(converged, jnp.where(lam > 0, 1 / safe, 0.0), learnt)


def _flow_times(t: ArrayLike, eigenvalues: Array) -> tuple[Array, Array, Array]:
    """λ; the time, (..., 1), or 1 in the place of infinity; and whether it was that."""
    time = jnp.asarray(t, eigenvalues.dtype)[..., None]
    return not_negative(eigenvalues), jnp.where(jnp.isinf(time), 1.0, time), jnp.isinf(time)


@of_eigenvalues
def _descent_residual(
    learning_rate: ArrayLike, steps: Integer[Array, "*steps"], eigenvalues: Float[Array, " n"]
) -> Float[Array, "*steps n"]:
    x, i, odd, slow, fast = _descent_steps(learning_rate, steps, eigenvalues)
    exponent = i * _log_step(x, slow, fast)
    swung = jnp.where(odd, -1.0, 1.0) * jnp.exp(exponent)
    return jnp.where(slow, jnp.exp(exponent), jnp.where(fast, swung, _power(x, i, slow | fast)))


@of_eigenvalues
def _descent_response(
    learning_rate: ArrayLike, steps: Integer[Array, "*steps"], eigenvalues: Float[Array, " n"]
) -> Float[Array, "*steps n"]:
    x, i, odd, slow, fast = _descent_steps(learning_rate, steps, eigenvalues)
    rate = _slow_rate(jnp.where(slow, x, 0.0))
    early = i * rate * mean_decay(i * jnp.where(slow, x, 0.0) * rate)
    exponent = i * _log_step(x, slow, fast)
    swung = jnp.where(odd, 1 + jnp.exp(exponent), -jnp.expm1(exponent))
    late = jnp.where(fast, swung, 1 - _power(x, i, slow | fast)) / jnp.where(slow, 1.0, x)
    return jnp.asarray(learning_rate, eigenvalues.dtype) * jnp.where(slow, early, late)


def _descent_steps(
    learning_rate: ArrayLike, steps: Array, eigenvalues: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """x = ηλ; i and whether it is odd, (..., 1); and where x is slow, or fast and swings from side to side."""
    x = jnp.asarray(learning_rate, eigenvalues.dtype) * not_negative(eigenvalues)
    return x, steps.astype(x.dtype)[..., None], (steps % 2 == 1)[..., None], x < 0.25, x > 1.75


def _log_step(x: Array, slow: Array, fast: Array) -> Array:
    """log |1 − x| at both ends, where it is small: 1 − x itself has lost the digits of x, or those of 2 − x."""
    return jnp.where(slow, jnp.log1p(-jnp.where(slow, x, 0.0)), jnp.log1p(jnp.where(fast, x, 2.0) - 2))


def _power(x: Array, i: Array, elsewhere: Array) -> Array:
    """(1 − x)^i between the ends, where 1 − x is exact and may be 0."""
    return (1 - jnp.where(elsewhere, 1.0, x)) ** i


def _slow_rate(x: Array) -> Array:
    """−log(1 − x)/x for x < ¼; near 0 by its series, whose derivatives keep their digits."""
    near = jnp.abs(x) < 0.1
    far = jnp.where(near, 0.2, x)
    series = horner([1 / (k + 1) for k in range(17)], jnp.where(near, x, 0.0))
    return jnp.where(near, series, -jnp.log1p(-far) / far)


def horner(terms: list[float], x: Array) -> Array:
    """Σ_k terms_k x^k."""
    total = jnp.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * x + term
    return total
