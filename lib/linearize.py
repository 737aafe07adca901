"""A network's Taylor expansion in its parameters."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

ApplyFn = Callable[[Any, Any], Any]
Network = nn.Module | ApplyFn


def linearize(net: Network, params0: PyTree) -> ApplyFn:
    """The network's first-order Taylor expansion around θ₀, affine in the parameters.

    f_lin(θ, x) = f(θ₀, x) + ∇_θ f(θ₀, x) (θ − θ₀)

    One Jacobian-vector product a call: the Jacobian is never formed.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params0: the point of expansion θ₀.

    Returns:
        `f_lin(params, x)` → (N, K), itself an `apply_fn`.

    Raises:
        ValueError: when called with `params` whose structure or shapes are not those of `params0`.

    Example:
        >>> square = lambda params, x: params**2 * x
        >>> f_lin = linearize(square, jnp.array(3.0))
        >>> float(f_lin(jnp.array(4.0), jnp.ones((1, 1)))[0, 0])  # 9 + 2·3·(4 − 3)
        15.0

    Source: Lee et al. 2019, eq 5.
    """
    apply_fn = as_apply_fn(net)

    def f_lin(params: PyTree, x: Array) -> Float[Array, "n k"]:
        omega = difference(params, params0)
        theta0 = jax.lax.optimization_barrier(params0)  # else the compiler evaluates f(θ₀, x) itself, for minutes
        f0_x, change = jax.jvp(lambda theta: apply_fn(theta, x), (theta0,), (omega,))
        return f0_x + change

    return f_lin


def taylor_expand(net: Network, params0: PyTree, degree: int) -> ApplyFn:
    """The network's Taylor expansion around θ₀ up to any degree.

    f_d(θ, x) = Σ_{r ≤ d} 1/r! · dʳ/dsʳ f(θ₀ + s (θ − θ₀), x) at s = 0

    Degree 1 is `linearize`. Derivatives along one direction are nested, so the cost doubles with each degree.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params0: the point of expansion θ₀.
        degree: the highest power of θ − θ₀ kept, an integer ≥ 0.

    Returns:
        `f_d(params, x)` → (N, K).

    Raises:
        ValueError: for a degree that is not an integer ≥ 0, or for parameters that do not match `params0`.

    Example:
        >>> cube = lambda params, x: params**3 * x
        >>> float(taylor_expand(cube, jnp.array(1.0), degree=2)(jnp.array(2.0), jnp.ones((1, 1)))[0, 0])  # 1 + 3 + 3
        7.0

    Source: the expansion behind Lee et al. 2019, eq 5, carried on.
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
        raise ValueError(f"`degree` must be an integer ≥ 0, got {degree!r}")
    apply_fn = as_apply_fn(net)

    def f_d(params: PyTree, x: Array) -> Float[Array, "n k"]:
        omega = difference(params, params0)
        derivative = lambda s: apply_fn(jax.tree.map(lambda p, w: p + s * w, params0, omega), x)
        total = derivative(0.0)
        for r in range(1, degree + 1):
            derivative = _differentiate(derivative)
            total += derivative(0.0) / math.factorial(r)
        return total

    return f_d


def as_apply_fn(net: Network) -> ApplyFn:
    """The pure function behind a network: `net.apply` of a Flax module, or the function itself."""
    if isinstance(net, nn.Module):
        return net.apply
    if callable(net):
        return net
    raise TypeError(
        f"`net` must be a Flax module or a function apply_fn(params, x), got {type(net).__name__}; "
        "for other libraries' models see the chapter 'Bring your own model'"
    )


def difference(params: PyTree, params0: PyTree) -> PyTree:
    """ω = θ − θ₀, after checking that the two belong to the same network."""
    here, there = jax.tree.structure(params), jax.tree.structure(params0)
    if here != there:
        raise ValueError(f"`params` must have the structure of `params0`, expected {there}, got {here}")
    for (path, p), p0 in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(params0), strict=True):
        if jnp.shape(p) != jnp.shape(p0):
            raise ValueError(
                f"`params`{jax.tree_util.keystr(path)} must have shape {jnp.shape(p0)} as in `params0`, "
                f"got {jnp.shape(p)}; are these the parameters of another width?"
            )
    return jax.tree.map(jnp.subtract, params, params0)


def _differentiate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda s: jax.jvp(function, (s,), (1.0,))[1]
