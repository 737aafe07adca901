"""Dual activations: Gaussian expectations of a nonlinearity and of its derivative.

A dual takes the variances k11 = E[u²], k22 = E[v²] and the covariance k12 = E[uv] of a centred Gaussian pair, arrays
that broadcast against each other, and returns (𝒯, 𝒯̇) = (E[φ(u) φ(v)], E[φ′(u) φ′(v)]) in their broadcast shape.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.special import roots_hermitenorm

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]

# Nodes of the quadrature, and terms of its series. Nodes lie 0.14 deviations apart around the origin.
DEGREE = 512


@jax.custom_jvp
def relu(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = max(u, 0): the arc-cosine kernels of degree 1 and 0.

    𝒯 = √(k11 k22) (sin θ + (π − θ) cos θ) / 2π,  𝒯̇ = (π − θ) / 2π,  cos θ = k12 / √(k11 k22)

    At θ = 0 the slope of 𝒯̇ is infinite on one side and minus that on the other: the ReLU tangent kernel has a kink at
    x = x′. There, and at zero vectors, where θ means nothing, the gradient of 𝒯̇ is set to 0. First derivatives are
    finite everywhere; second ones are not, where inputs are parallel.

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇). Between equal inputs, k11 = k12 = k22 = k, exactly (k/2, 1/2).

    Example:
        >>> t, t_dot = relu(jnp.array(1.0), jnp.array(1.0), jnp.array(1.0))
        >>> float(t), float(t_dot)
        (0.5, 0.5)

    Source: Lee et al. 2019, eqs S13-S15; Cho & Saul 2009.
    """
    theta, norm_sine = _angle(k11, k12, k22)
    return (norm_sine + (jnp.pi - theta) * k12) / (2 * jnp.pi), (jnp.pi - theta) / (2 * jnp.pi)


@relu.defjvp
def _relu_jvp(primals: tuple, tangents: tuple) -> tuple[Pair, Pair]:
    """∂𝒯/∂k12 = 𝒯̇ (Price), ∂𝒯/∂k11 = √(k22/k11) sin θ / 4π, ∂θ/∂k12 = −1 / √(k11 k22) sin θ."""
    k11, k12, k22 = primals
    d11, d12, d22 = tangents
    t, t_dot = relu(k11, k12, k22)
    _, norm_sine = _angle(k11, k12, k22)
    stretch = _divide(d11, k11) + _divide(d22, k22)
    slope_t = t_dot * d12 + norm_sine * stretch / (4 * jnp.pi)
    slope_t_dot = _divide(d12 - k12 * stretch / 2, norm_sine) / (2 * jnp.pi)
    return (t, t_dot), (slope_t, slope_t_dot)


def erf(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = erf(u): the arc-sine kernel, as an arctangent, exact at large variance too.

    𝒯 = 2/π asin(2 k12 / √((1 + 2 k11)(1 + 2 k22))) = 2/π atan(2 k12 / √D),  𝒯̇ = 4/π / √D,
    D = (1 + 2 k11)(1 + 2 k22) − 4 k12²

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> t, t_dot = erf(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))
        >>> round(float(t), 4), round(float(t_dot), 4)  # uncorrelated; 4/3π
        (0.0, 0.4244)

    Source: Lee et al. 2019, eqs S16-S17; Williams 1997.
    """
    # det Σ = k11 k22 − k12² in differences of like numbers, which are exactly 0 between equal inputs.
    det = k11 * (k22 - k12) + k12 * (k11 - k12)
    root = jnp.sqrt(1 + 2 * (k11 + k22) + 4 * det)
    return 2 / jnp.pi * jnp.arctan(2 * k12 / root), 4 / jnp.pi / root


def identity(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = u: (k12, 1).

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> [float(t) for t in identity(jnp.array(1.0), jnp.array(0.5), jnp.array(1.0))]
        [0.5, 1.0]

    Source: Lee et al. 2019, eq S24.
    """
    t = jnp.broadcast_to(k12, jnp.broadcast_shapes(k11.shape, k12.shape, k22.shape))
    return t, jnp.ones_like(t)


def quadrature(k11: Array, k12: Array, k22: Array, phi: Callable) -> Pair:
    """The dual of any scalar function, by Gauss-Hermite quadrature and Mehler's formula.

    E[φ(u) φ(v)] = Σ_m a_m(k11) a_m(k22) ρᵐ,  a_m(k) = E[φ(√k z) h_m(z)],  ρ = k12 / √(k11 k22)

    with h_m the orthonormal Hermite polynomials, m < 512, and each a_m a one-dimensional quadrature of 512 nodes: a sum
    per pair of inputs, where quadrature in the plane takes the square of it. φ′ is taken by automatic differentiation.

    Errors of (𝒯, 𝒯̇) for tanh in float64, at the worst ρ: (1e-13, 1e-11) at variance 4, (1e-8, 1e-6) at 9 and
    (1e-5, 1e-4) at 25; smoother functions do better. A kink costs far more: for |u| it is (1e-3, 2e-2), and gradients
    miss the point mass in φ″ altogether, so take a closed form where there is one. At ρ = 1 the error is that of a
    one-dimensional rule. φ must not overflow within 12 standard deviations of its input.

    Args:
        k11, k12, k22: variances and covariance, broadcastable. Coefficients are taken at the variances' own shapes.
        phi: scalar → scalar, differentiable by JAX.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> one = jnp.array(1.0)
        >>> t, t_dot = quadrature(one, one / 2, one, jnp.sin)
        >>> exact = jnp.exp(-one) * jnp.sinh(one / 2), jnp.exp(-one) * jnp.cosh(one / 2)
        >>> bool(abs(t - exact[0]) + abs(t_dot - exact[1]) < 1e-6)
        True

    Source: Lee et al. 2019, eq S24; Mehler 1866.
    """
    slope = jax.grad(phi)
    return _expectation(phi, phi, k11, k12, k22), _expectation(slope, slope, k11, k12, k22)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _expectation(f: Callable, g: Callable, k11: Array, k12: Array, k22: Array) -> Float[Array, "..."]:
    """E[f(u) g(v)] = Σ_m a_m(k11) b_m(k22) ρᵐ."""
    rho = jnp.clip(_divide(k12, jnp.sqrt(k11 * k22)), -1, 1)
    return _power_series(_hermite_coefficients(f, k11), _hermite_coefficients(g, k22), rho)


@_expectation.defjvp
def _expectation_jvp(f: Callable, g: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The heat equation of the Gaussian: ∂/∂k12 = E[f′g′] (Price), ∂/∂k11 = ½ E[f″g], ∂/∂k22 = ½ E[fg″]."""
    d11, d12, d22 = tangents
    df, dg = jax.grad(f), jax.grad(g)
    by_k12 = _expectation(df, dg, *primals)
    by_k11, by_k22 = _expectation(jax.grad(df), g, *primals) / 2, _expectation(f, jax.grad(dg), *primals) / 2
    return _expectation(f, g, *primals), by_k11 * d11 + by_k12 * d12 + by_k22 * d22


@jax.jit
def _power_series(a: Float[Array, "m ..."], b: Float[Array, "m ..."], rho: Array) -> Float[Array, "..."]:
    """Σ_m a_m b_m ρᵐ by Horner's rule. Compiled, because a bare scan is compiled anew at each uncompiled call."""
    step = lambda total, pair: (total * rho + pair[0] * pair[1], None)
    return lax.scan(step, jnp.zeros_like(rho), (a, b), reverse=True, unroll=8)[0]


def _hermite_coefficients(f: Callable, k: Array) -> Float[Array, "m ..."]:
    """a_m(k) = E[f(√k z) h_m(z)] for m < DEGREE."""
    z, projection = _hermite_rule(DEGREE)
    values = jnp.vectorize(f)(jnp.sqrt(k)[..., None] * jnp.asarray(z, k.dtype))  # (..., nodes)
    return jnp.einsum("mn,...n->m...", jnp.asarray(projection, k.dtype), values, precision="highest")


@lru_cache
def _hermite_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z (n,) and weighted orthonormal polynomials w_n h_m(z_n) (degree, n)."""
    z, w = roots_hermitenorm(degree)
    # Beyond 12 deviations weights are below 1e-31, and h_m is too large for them.
    z, w = z[abs(z) < 12], w[abs(z) < 12] / np.sqrt(2 * np.pi)
    h = [np.ones_like(z), z]
    for m in range(1, degree - 1):
        h.append((z * h[m] - np.sqrt(m) * h[m - 1]) / np.sqrt(m + 1))
    return z, w * np.stack(h)


def _angle(k11: Array, k12: Array, k22: Array) -> Pair:
    """θ and √(k11 k22) sin θ, by the half-angle tan θ/2 = √((1 − cos θ)/(1 + cos θ)).

    Differences of numbers of size √(k11 k22), never of their squares: exactly 0 between equal inputs.
    """
    norm = jnp.sqrt(k11 * k22)
    below, above = jnp.sqrt(jnp.maximum(norm - k12, 0)), jnp.sqrt(jnp.maximum(norm + k12, 0))
    return 2 * jnp.arctan(below / jnp.maximum(above, jnp.finfo(above.dtype).tiny)), below * above


def _divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is not above 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
