"""The dual of any scalar function, by quadrature."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lib.checks import known as known_to_hold
from lib.infinite.duals import Pair, divide, normalized
from lib.infinite.hermite import TERMS, Orders, expand, highest, mehler, rounding
from lib.infinite.plane import replace_hard


def dual_by_quadrature(k11: Array, k12: Array, k22: Array, phi: Callable) -> Pair:
    """The dual of any scalar function, by Mehler's formula, and in the plane where that ends too soon.

    E[φ(u) φ(v)] = Σ_m a_m(k11) a_m(k22) ρᵐ,  a_m(k) = E[φ(√k z) h_m(z)],  ρ = k12 / √(k11 k22)

    with h_m the orthonormal Hermite polynomials, m < 512, and each a_m a one-dimensional quadrature on panels that
    halve towards u = 0: a sum per pair of inputs. Where |ρ|⁵¹² times what is missing of E[φ²] is not small, at large
    variance and |ρ| above .96 or so, a quadrature in the plane replaces it, which takes about a millisecond a pair.
    Inputs of large variance are therefore slow where they are nearly parallel; standardised ones never are. φ′ is taken
    by automatic differentiation.

    For φ that is smooth on a scale of 1, as tanh, values and first derivatives are within 1e-6 of √(E[φ(u)²] E[φ(v)²]),
    or its like in derivatives, in float64 from variance 1e-12 to 1e8, and within a hundred roundings in float32. So
    they are where φ has a kink at 0, as |u|. The result is NaN where it is not known:
    where φ is not resolved (a kink or a jump elsewhere; sin u from a variance of 1e3 on; e^{−u²} and sharper ones at
    large and different variances), where it overflows or grows so fast that the expectation comes from beyond 12
    standard deviations, and where φ⁽ⁿ⁾ is not the derivative of φ⁽ⁿ⁻¹⁾, because that jumps: 𝒯̇ of a step, and of a kink
    the gradient to the variances and that of 𝒯̇. Take a closed form where there is one.

    Args:
        k11, k12, k22: variances and covariance, broadcastable. Coefficients are taken at the variances' own shapes.
        phi: scalar → scalar, differentiable by JAX.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> one = jnp.array(1.0)
        >>> t, t_dot = dual_by_quadrature(one, one / 2, one, jnp.sin)
        >>> exact = jnp.exp(-one) * jnp.sinh(one / 2), jnp.exp(-one) * jnp.cosh(one / 2)
        >>> bool(abs(t - exact[0]) + abs(t_dot - exact[1]) < 1e-6)
        True

    Source: Lee et al. 2019, eq S24; Mehler 1866.
    """
    if k11 is k12 and k12 is k22:  # of an input with itself
        return _own_expectations(phi, ((0, 0), (1, 1)), k11)
    return _expectations(phi, ((0, 0), (1, 1)), k11, k12, k22)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _expectations(phi: Callable, orders: Orders, k11: Array, k12: Array, k22: Array) -> tuple[Array, ...]:
    """E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)] of all (i, j): by the series where its remainder is small, in one dimension where u = v, else
    in the plane.
    """
    norm, k, *_ = normalized(k11, k12, k22)
    rho = jnp.clip(divide(k, norm), -1, 1)
    k11, k22 = (jnp.expand_dims(variance, range(rho.ndim - variance.ndim)) for variance in (k11, k22))
    i, j = np.transpose(orders)
    f, g = expand(phi, highest(orders), k11).of(i), expand(phi, highest(orders), k22).of(j)
    equal = (k12 == k11) & (k12 == k22)
    size, known = f.size * g.size, f.known & g.known
    hard = known & ~equal & (abs(rho) ** TERMS * f.rest * g.rest > rounding(rho.dtype) / 10 * size)
    values = jnp.where(equal, f.products[np.arange(len(orders)), j], mehler(f, g, rho))
    if rho.size and not known_to_hold(~jnp.any(hard)):
        values = replace_hard(phi, orders, (k11, k12, k22), size, values, hard)
    return tuple(jnp.where(known, values, jnp.nan))


@_expectations.defjvp
def _expectations_jvp(phi: Callable, orders: Orders, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """The heat equation of the Gaussian: ∂/∂k12 = E[f′g′] (Price), ∂/∂k11 = ½ E[f″g], ∂/∂k22 = ½ E[fg″]."""
    d11, d12, d22 = tangents
    slopes = [order for i, j in orders for order in ((i + 1, j + 1), (i + 2, j), (i, j + 2))]
    needed = tuple(dict.fromkeys([*orders, *slopes]))
    of = dict(zip(needed, _expectations(phi, needed, *primals), strict=True))
    slope = lambda i, j: of[i + 1, j + 1] * d12 + (of[i + 2, j] * d11 + of[i, j + 2] * d22) / 2
    return tuple(of[order] for order in orders), tuple(slope(i, j) for i, j in orders)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _own_expectations(phi: Callable, orders: Orders, k: Array) -> tuple[Array, ...]:
    """E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(u)] of all (i, j)."""
    i, j = np.transpose(orders)
    f = expand(phi, highest(orders), k)
    return tuple(jnp.where(f.known[i] & f.known[j], f.products[i, j], jnp.nan))


@_own_expectations.defjvp
def _own_expectations_jvp(phi: Callable, orders: Orders, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """½ E[(fg)″]."""
    slopes = [order for i, j in orders for order in ((i + 1, j + 1), (i + 2, j), (i, j + 2))]
    needed = tuple(dict.fromkeys([*orders, *slopes]))
    of = dict(zip(needed, _own_expectations(phi, needed, *primals), strict=True))
    slope = lambda i, j: (of[i + 1, j + 1] + (of[i + 2, j] + of[i, j + 2]) / 2) * tangents[0]
    return tuple(of[order] for order in orders), tuple(slope(i, j) for i, j in orders)
