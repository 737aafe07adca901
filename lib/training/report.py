"""Is my network linear?"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lib.checks import check_examples
from lib.tangent.apply_fn import Network, as_apply_fn
from lib.tangent.expansion import linearize
from lib.tangent.ntk import empirical_ntk
from lib.training.spectrum import decompose


class Linearity(NamedTuple):
    """How far a trained network has left its linearisation, each number 0 or unchanged for a linear one.

    `kernel_change` is ‖Θ̂ − Θ̂₀‖_F / ‖Θ̂₀‖_F; `rmse` the root mean square of f(θ, x) − f_lin(θ, x), in the units of the
    outputs, and `moved` that of f(θ, x) − f(θ₀, x), to compare it with; `lambda_max0` and `lambda_max` are the largest
    eigenvalues of Θ̂ before and after training.
    """

    kernel_change: Float[Array, ""]
    rmse: Float[Array, ""]
    moved: Float[Array, ""]
    lambda_max0: Float[Array, ""]
    lambda_max: Float[Array, ""]


def linearity(net: Network, params0: PyTree, params: PyTree, x: PyTree) -> Linearity:
    """Compares a trained network with its own linearisation.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params0: parameters before training, θ₀.
        params: parameters after it, θ.
        x: inputs on which to compare, first axis N; a hundred or so are enough.

    Returns:
        The report. A network trained in the linear regime has `rmse` well below `moved`, and `kernel_change` below 1.

    Raises:
        ValueError: when `params` and `params0` are not of one network, `x` holds no examples, and as `empirical_ntk`.
        TypeError: as `empirical_ntk`.

    Example:
        >>> line = lambda params, x: x @ params
        >>> report = linearity(line, jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.eye(2))
        >>> report.rmse.item(), report.moved.item(), report.kernel_change.item()
        (0.0, 1.0, 0.0)

    Source: the measures of Lee et al. 2019, Figures 1 and 3.
    """
    if not check_examples("x", x):
        raise ValueError("`x` must hold at least one example to compare on, got none")
    apply_fn = as_apply_fn(net)
    theta0, theta = empirical_ntk(apply_fn, params0, x), empirical_ntk(apply_fn, params, x)
    f0, f, f_lin = apply_fn(params0, x), apply_fn(params, x), linearize(apply_fn, params0)(params, x)
    # No eigenvalues are known of half precision.
    largest = lambda k: decompose(k.astype(jnp.promote_types(k.dtype, jnp.float32))).eigenvalues[-1].astype(k.dtype)
    rms = lambda difference: jnp.sqrt(jnp.mean(difference**2))
    change, norm0 = jnp.linalg.norm(theta - theta0), jnp.linalg.norm(theta0)
    return Linearity(
        kernel_change=jnp.where(change == 0, 0, change / jnp.where(change == 0, 1, norm0)),
        rmse=rms(f - f_lin),
        moved=rms(f - f0),
        lambda_max0=largest(theta0),
        lambda_max=largest(theta),
    )
