"""Expectations of functions of two Gaussians by quadrature in the plane."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from lib.infinite.duals import normalized
from lib.infinite.hermite import REACH, Orders, derivatives, highest, rounding

# Nodes of a panel beside v = 0, and of one beyond: of a coarse rule, and of a fine one.
NODES = ((56, 32), (72, 40))
# How many times denser than a Gaussian's own width nodes may become.
DENSEST = 1e5


def replace_hard(
    phi: Callable,
    orders: Orders,
    k: tuple[Array, Array, Array],
    size: Array,
    value: Array,
    hard: Array,
) -> Float[Array, "orders ..."]:
    """`value`, and E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)] by quadrature in the plane where `hard`; NaN where that is not known to 1e-6.

    It takes the time of 100,000 values of φ a pair, and none for pairs that are not hard.

    Args:
        phi: scalar → scalar.
        orders: each (i, j).
        k: variances and covariance (k11, k12, k22), broadcastable to (...).
        size: what errors are measured by, √(E[φ⁽ⁱ⁾(u)²] E[φ⁽ʲ⁾(v)²]), (orders, ...).
        value: values for pairs that are not hard, (orders, ...).
        hard: which are, (orders, ...).
    """
    shape = value.shape
    pairs = [jnp.broadcast_to(a, shape[1:]).ravel() for a in k]
    size, value, hard = (a.reshape(len(orders), -1) for a in (size, value, hard))
    rules = jnp.asarray(_rules(), value.dtype)

    def replace(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, left = state
        at = jnp.argmax(left)
        k11, k12, k22 = (a[at] for a in pairs)
        coarse, fine = jax.vmap(lambda rule: _expectations(phi, orders, k11, k12, k22, rule))(rules)
        # Errors fall as a power of the number of nodes rises: where the coarse rule is 1e-5 off, the fine one is 1e-6.
        known = abs(fine - coarse) <= 100 * rounding(value.dtype) * size[:, at]
        new = jnp.where(hard[:, at], jnp.where(known, fine, jnp.nan), value[:, at])
        return value.at[:, at].set(new), left.at[at].set(False)

    # One pair after another, whose nodes fill a core's cache. A loop over none where none is hard: under `vmap`, which
    # takes both ways of a branch, too.
    left = jnp.any(hard, 0)
    return lax.fori_loop(0, jnp.sum(left), replace, (value, left))[0].reshape(shape)


def _expectations(
    phi: Callable, orders: Orders, k11: Array, k12: Array, k22: Array, rule: Array
) -> Float[Array, " orders"]:
    """E[f(u) E[g(v) | u]] with v | u ~ N(k12/k11 u, k22 − k12²/k11), by one-dimensional rules within each other.

    As u serves the one of larger variance: so g(v) changes, where v follows u, no faster with u than f does. It does
    within deviation/ratio of u = 0 where g has a kink there, and nodes become as dense.
    """
    order, (i, j) = highest(orders), np.transpose(orders)
    i, j = jnp.where(k22 > k11, np.stack([j, i]), np.stack([i, j]))
    k11, k22 = jnp.maximum(k11, k22), jnp.minimum(k11, k22)
    norm, k, s1, s2 = normalized(k11, k12, k22)
    root, ratio = jnp.sqrt(k11), k12 / k11
    deviation = jnp.sqrt(jnp.maximum(norm - k, 0)) * jnp.sqrt(jnp.maximum(norm + k, 0)) * (s1 / root) * s2
    follows = abs(ratio) * root
    tiny = jnp.finfo(root.dtype).tiny ** 0.5
    u, w = _gaussian_rule(jnp.zeros_like(k11), root, rule, follows / jnp.maximum(deviation, follows / DENSEST + tiny))
    v, w_given_u = _gaussian_rule((ratio * u)[:, None], deviation, rule)
    given_u = jnp.sum(w_given_u * derivatives(phi, order, v), -1)
    return jnp.sum(w * derivatives(phi, order, u)[i] * given_u[j], -1)


def _gaussian_rule(mean: Array, deviation: Array, rule: Array, dense: Any = 1e-3) -> tuple[Array, Array]:
    """Nodes v and weights of N(mean, deviation²), (..., n): fine around v = 0, on the scale of φ itself, or finer.

    v = mean + deviation z. With b the z of v = 0, or the end that is nearest to it, panels are (−R, b − 1), (b − 1, b),
    (b, b + 1) and (b + 1, R) for R = REACH. On the inner ones z = b ± (e^t − 1)/scale, with t at Legendre's nodes,
    and the scale that of φ, the deviation, or `dense` where that is more.
    """
    x, w, side, inner = rule
    tiny = jnp.finfo(mean.dtype).tiny ** 0.5
    b = jnp.clip(-mean / jnp.maximum(deviation, tiny), -REACH, REACH)
    scale = jnp.maximum(jnp.maximum(deviation, dense), 1e-3)
    steps = jnp.expm1(jnp.log1p(scale) * x) / scale
    w_steps = w * jnp.log1p(scale) * (steps + 1 / scale)
    length = REACH - 1 - side * b  # of the outer panel; −1 where nothing is left to add
    away = side * jnp.where(inner > 0, steps, 1 + length * x)  # z − b
    weights = jnp.where(inner > 0, w_steps, w * length) * jnp.exp(-((b + away) ** 2) / 2)
    start = jnp.where(abs(b) < REACH, 0, mean + deviation * b)  # the v of b, exactly 0 where it is
    return start + deviation * away, weights


@lru_cache
def _rules() -> np.ndarray:
    """Of the coarse and the fine rule: nodes on (0, 1), weights over √2π, sides ±1 of b, whether inner; (2, 4, n)."""
    rules = np.zeros((2, 4, 2 * sum(NODES[1])))  # weights of 0 fill the coarse one
    for rule, nodes in zip(rules, NODES, strict=True):
        panels = []
        for n, inner in zip(nodes, (1, 0), strict=True):
            x, w = np.polynomial.legendre.leggauss(n)
            panels += [
                [(x + 1) / 2, w / 2 / np.sqrt(2 * np.pi), np.full(n, side), np.full(n, inner)] for side in (-1, 1)
            ]
        rule[:, : 2 * sum(nodes)] = np.concatenate(panels, 1)
    return rules
