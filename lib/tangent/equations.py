"""Linear equations with the finite-width tangent kernel, which is never formed."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lib.checks import as_array, check_floating, check_scalar, check_size
from lib.tangent.apply_fn import Network, as_apply_fn
from lib.tangent.ntk import ntk_vector_product


class Solution(NamedTuple):
    """a with Θ̂ a = v, and how well: `residual` is ‖(Θ̂ + µ) a − v‖ / ‖v‖, and 0 where v is 0, and so is a."""

    a: Float[Array, "n k"]
    residual: Float[Array, ""]


def ntk_solve(
    net: Network,
    params: PyTree,
    x: Array,
    v: Float[Array, "n k"],
    ridge: Any = 0.0,
    tolerance: Any = 1e-5,
    steps: int | None = None,
) -> Solution:
    """Solves (Θ̂ + µ) a = v by conjugate gradients, with one ntk-vector product a step.

    With v = y − f₀ and µ = 0 the weight change Jᵀa takes f_lin to y, and is the smallest that does (`weight_change`).

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K). Examples may influence each other.
        params: θ.
        x: inputs, first axis N.
        v: (N, K); the solution has the dtype of the outputs.
        ridge: µ ≥ 0, added to every eigenvalue; without it small eigenvalues take many steps, and zero ones all.
        tolerance: the residual at which to stop.
        steps: the most steps; left out, ten for every one of the N K unknowns.

    Returns:
        Solution(a, residual): look at the residual, which is larger than `tolerance` where steps or digits ran out.

    Raises:
        ValueError: when `v` does not have the shape of the outputs at `x`, or `ridge`, `tolerance` or `steps` is below
            its least.
        TypeError: when one of these is not a number, `steps` not an integer, or `v` not of floating-point numbers.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> solution = ntk_solve(linear, jnp.zeros((2, 1)), x, jnp.array([[1.0], [8.0]]))
        >>> [round(a, 3) for a in solution.a.ravel().tolist()]
        [1.0, 2.0]

    Source: Lee et al. 2019, eq 4; Hestenes & Stiefel 1952.
    """
    apply_fn = as_apply_fn(net)
    f = jax.eval_shape(lambda net, params, x: net(params, x), apply_fn, params, x)
    v = check_floating("v", as_array("v", v)).astype(f.dtype)
    ridge = jnp.asarray(check_scalar("ridge", ridge, least=0), v.dtype)
    tolerance = check_scalar("tolerance", tolerance, least=0)
    steps = None if steps is None else check_size("steps", steps)
    return _solve(apply_fn, params, x, v, ridge, tolerance, steps)


@partial(jax.jit, static_argnames="steps")
def _solve(apply_fn, params, x, v, ridge, tolerance, steps) -> Solution:
    product = lambda a: ntk_vector_product(apply_fn, params, x, None, a) + ridge * a
    a, _ = jax.scipy.sparse.linalg.cg(product, v, tol=tolerance, maxiter=steps)
    norm = jnp.linalg.norm(v)
    return Solution(a, jnp.linalg.norm(product(a) - v) / jnp.where(norm > 0, norm, 1))
