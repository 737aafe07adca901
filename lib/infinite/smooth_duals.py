"""Dual activations of smooth functions that the paper does not use, in closed form."""

from math import factorial, perm, prod

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lib.infinite.duals import Pair, spread


def gelu(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = u P(z < u), z ~ N(0, 1): the exact GELU.

    𝒯 = k12 p + (√D k11 k22 + k12²/√D) / 2π(1 + k11)(1 + k22)
    𝒯̇ = p + k12 b (1/(1 + k11) + 1/(1 + k22) + 1/D)
    p = 1/4 + atan(k12 / √D) / 2π,  b = 1 / 2π√D,  D = (1 + k11)(1 + k22) − k12²

    Here p = E[P(z < u) P(z′ < v)] and b = ∂p/∂k12; Stein's lemma gives the rest.

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> float(gelu(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))[1])  # E[φ′]² = 1/4
        0.25

    Source: Hendrycks & Gimpel 2016 for φ; Stein 1981.
    """
    root, ratio, inverse = spread(k11, k12, k22, 1.0)
    p = 1 / 4 + jnp.arctan(ratio) / (2 * jnp.pi)
    r1, r2 = lax.rsqrt(1 + k11), lax.rsqrt(1 + k22)  # no quotients: the derivative of one squares its denominator
    shared = k12 * r1 * r2
    t = k12 * p + (root * _share(k11) * _share(k22) + shared**2 * inverse) / (2 * jnp.pi)
    return t, p + (ratio * r1 * r1 + ratio * r2 * r2 + ratio * inverse * inverse) / (2 * jnp.pi)


@jax.custom_jvp
def _share(k: Array) -> Array:
    """k / (1 + k)."""
    return k / (1 + k)


@_share.defjvp
def _share_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Its derivative, which is not a difference of two numbers, nor squared before it is a quotient."""
    (k,), (change,) = primals, tangents
    return _share(k), change / (1 + k) / (1 + k)


def gaussian(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = exp(−u²).

    𝒯 = 1 / √D,  𝒯̇ = 4 k12 / D^{3/2},  D = (1 + 2 k11)(1 + 2 k22) − 4 k12²

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> [float(t) for t in gaussian(jnp.array(0.0), jnp.array(0.0), jnp.array(0.0))]
        [1.0, 0.0]

    Source: Williams 1997.
    """
    _, ratio, inverse = spread(k11, k12, k22, 2.0)
    return inverse, 4 * ratio * inverse * inverse


def sin(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = sin u.

    𝒯 = e^{−(k11 + k22)/2} sinh k12,  𝒯̇ = e^{−(k11 + k22)/2} cosh k12

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> t, t_dot = sin(jnp.array(1.0), jnp.array(1.0), jnp.array(1.0))
        >>> round(float(t), 4), round(float(t_dot), 4)  # (1 ∓ e⁻²)/2
        (0.4323, 0.5677)

    Source: Rahimi & Recht 2007.
    """
    # Exponents by differences of like numbers, and not above 0 where Cauchy-Schwarz puts them, whatever is rounded.
    half = (k11 + k22) / 2
    bounded = lambda x: jnp.exp(x - lax.stop_gradient(jnp.maximum(x, 0)))
    above = bounded(((k12 - k11) + (k12 - k22)) / 2)
    below = bounded(-((k12 + k11) + (k12 + k22)) / 2)
    # Away from 0 as their difference, because e^{−k} sinh k is 0 times infinity at large k.
    near_zero = jnp.exp(-half) * jnp.sinh(jnp.clip(k12, -1, 1))
    return jnp.where(abs(k12) < 1, near_zero, (above - below) / 2), (above + below) / 2


def cos(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = cos u, that of the sine with value and derivative exchanged.

    𝒯 = e^{−(k11 + k22)/2} cosh k12,  𝒯̇ = e^{−(k11 + k22)/2} sinh k12

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> [float(t) for t in cos(jnp.array(0.0), jnp.array(0.0), jnp.array(0.0))]
        [1.0, 0.0]

    Source: Rahimi & Recht 2007.
    """
    t, t_dot = sin(k11, k12, k22)
    return t_dot, t


def polynomial(k11: Array, k12: Array, k22: Array, *coefficients: float | Array) -> Pair:
    """The dual of φ(u) = Σ_i c_i uⁱ, by Price's theorem once for each power of k12.

    𝒯 = Σ_m k12ᵐ/m! E[φ⁽ᵐ⁾(u)] E[φ⁽ᵐ⁾(v)],  𝒯̇ the same for φ′,  E[uⁿ] = (n − 1)!! k11^{n/2} for even n

    Args:
        k11, k12, k22: variances and covariance, broadcastable.
        coefficients: c_0, c_1, …: of the constant first.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> [float(t) for t in polynomial(jnp.array(1.0), jnp.array(1.0), jnp.array(1.0), 0, 0, 1)]  # E[u⁴], E[4u²]
        [3.0, 4.0]

    Source: Price 1958.
    """
    derivative = tuple(i * c for i, c in enumerate(coefficients))[1:]
    return _polynomial_expectation(coefficients, k11, k12, k22), _polynomial_expectation(derivative, k11, k12, k22)


def _polynomial_expectation(coefficients: tuple, k11: Array, k12: Array, k22: Array) -> Float[Array, "..."]:
    """Σ_m k12ᵐ/m! E[φ⁽ᵐ⁾(u)] E[φ⁽ᵐ⁾(v)], by Horner's rule; infinite where a term of it is too large for the dtype."""
    total = jnp.zeros_like(k11 + k12 + k22)
    for m in reversed(range(len(coefficients))):
        total = total * k12 + _mean_derivative(coefficients, m, k11) * _mean_derivative(
            coefficients, m, k22
        ) / factorial(m)
    overflow = jnp.isnan(total) & jnp.isfinite(k11) & jnp.isfinite(k12) & jnp.isfinite(k22)  # ∞ − ∞, or 0 × ∞
    return jnp.where(overflow, jnp.inf, total)


def _mean_derivative(coefficients: tuple, m: int, k: Array) -> Float[Array, "..."]:
    """E[φ⁽ᵐ⁾(u)] = Σ_i c_i i!/(i − m)! E[u^{i − m}]."""
    moment = lambda n: prod(range(n - 1, 0, -2)) * k ** (n // 2)
    return sum(
        (c * perm(i, m) * moment(i - m) for i, c in enumerate(coefficients) if (i - m) in range(0, i + 1, 2)), 0 * k
    )
