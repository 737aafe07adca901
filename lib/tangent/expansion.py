"""A network's Taylor expansion in its parameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from lib.checks import check_params
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn


def linearize(net: Network, params0: PyTree) -> Partial:
    """The network's first-order Taylor expansion around θ₀, affine in the parameters.

    f_lin(θ, x) = f(θ₀, x) + ∇_θ f(θ₀, x) (θ − θ₀)

    One Jacobian-vector product a call: the Jacobian is never formed. The result is a pytree with θ₀ as its leaves: as
    an argument of a jitted function it is compiled once for all θ₀, where a function that closes over it keeps θ₀.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K), or any pytree of arrays.
        params0: the point of expansion θ₀.

    Returns:
        `f_lin(params, x)` → (N, K), itself an `apply_fn`.

    Raises:
        ValueError: when called with `params` whose structure or shapes are not those of `params0`.
        TypeError: when `params0` hold anything but floating-point numbers.

    Example:
        >>> square = lambda params, x: params**2 * x
        >>> f_lin = linearize(square, jnp.array(3.0))
        >>> float(f_lin(jnp.array(4.0), jnp.ones((1, 1)))[0, 0])  # 9 + 2·3·(4 − 3)
        15.0

    Source: Lee et al. 2019, eq 5.
    """
    return Partial(_f_lin, as_apply_fn(net), check_params("params0", params0, jnp.inexact))


def taylor_expand(net: Network, params0: PyTree, degree: int) -> Partial:
    """The network's Taylor expansion around θ₀ up to any degree.

    f_d(θ, x) = Σ_{r ≤ d} 1/r! · dʳ/dsʳ f(θ₀ + s (θ − θ₀), x) at s = 0

    Degree 1 is `linearize`. Derivatives along one direction are nested, so the cost doubles with each degree. As with
    `linearize`, the result is a pytree with θ₀ as its leaves.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K), or any pytree of arrays.
        params0: the point of expansion θ₀.
        degree: the highest power of θ − θ₀ kept, an integer ≥ 0.

    Returns:
        `f_d(params, x)` → (N, K).

    Raises:
        ValueError: for a degree that is not an integer ≥ 0, or for parameters that do not match `params0`.
        TypeError: when `params0` hold anything but floating-point numbers.

    Example:
        >>> cube = lambda params, x: params**3 * x
        >>> float(taylor_expand(cube, jnp.array(1.0), degree=2)(jnp.array(2.0), jnp.ones((1, 1)))[0, 0])  # 1 + 3 + 3
        7.0

    Source: the expansion behind Lee et al. 2019, eq 5, carried on.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
        raise ValueError(f"`degree` must be an integer ≥ 0, got {degree!r}")
    return Partial(_Expansion(degree), as_apply_fn(net), check_params("params0", params0, jnp.inexact))


def _f_lin(apply_fn: ApplyFn, params0: PyTree, params: PyTree, x: PyTree) -> PyTree:
    params0, omega = _from(params0, params)
    theta0 = jax.lax.optimization_barrier(params0)  # else the compiler evaluates f(θ₀, x) itself, for minutes
    f0_x, change = jax.jvp(lambda theta: apply_fn(theta, x), (theta0,), (omega,))
    return jax.tree.map(jnp.add, f0_x, change)


@dataclass(frozen=True)
class _Expansion:
    """f_d of any network around any θ₀; equal where degrees are."""

    degree: int

    def __call__(self, apply_fn: ApplyFn, params0: PyTree, params: PyTree, x: PyTree) -> PyTree:
        params0, omega = _from(params0, params)
        derivative = lambda s: apply_fn(jax.tree.map(lambda p, w: p + s * w, params0, omega), x)
        total = derivative(0.0)
        for r in range(1, self.degree + 1):
            derivative = _differentiate(derivative)
            total = jax.tree.map(lambda sum_, term, r=r: sum_ + term / float(math.factorial(r)), total, derivative(0.0))
        return total


def _from(params0: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    """θ₀ and ω = θ − θ₀ of one dtype, after checking that θ and θ₀ belong to the same network."""
    here, there = jax.tree.structure(params), jax.tree.structure(params0)
    if here != there:
        raise ValueError(f"`params` must have the structure of `params0`, expected {there}, got {here}")
    for (path, p), p0 in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(params0), strict=True):
        if jnp.shape(p) != jnp.shape(p0):
            raise ValueError(
                f"`params`{jax.tree_util.keystr(path)} must have shape {jnp.shape(p0)} as in `params0`, "
                f"got {jnp.shape(p)}; are these the parameters of another width?"
            )
    omega = jax.tree.map(jnp.subtract, params, params0)
    return jax.tree.map(lambda p0, w: jnp.asarray(p0, w.dtype), params0, omega), omega


def _differentiate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda s: jax.jvp(function, (s,), (1.0,))[1]
