"""The linear model's training under squared loss, in closed form.

Everything the linear model can do is ω = J₀ᵀ a: a change of the weights made of the training examples' gradients. Its
outputs are then f(x) = f₀(x) + Θ(x, X) a, so training is a search for the coefficients a, of shape (N, K).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lib.checks import as_array, as_numbers, as_real, check_params
from lib.tangent.apply_fn import Network, as_apply_fn
from lib.tangent.jacobians import check_batches
from lib.training.filters import Filter
from lib.training.spectrum import Spectrum, check_problem, function_product, symmetric_matrix


def coefficients(
    spectrum: Spectrum, filter: Filter, y: Float[Array, "n k"], f0_x: Float[Array, "n k"]
) -> Float[Array, "*t n k"]:
    """The coefficients a of the training examples' gradients: ω = J₀ᵀ a.

    a = −V h(λ) Vᵀ (f₀(X) − y)

    Args:
        spectrum: of Θ(X, X), from `decompose`.
        filter: the optimiser, for a time or an array of times.
        y: targets (N, K).
        f0_x: outputs at initialisation on the training set (N, K).

    Returns:
        a, (..., N, K), with the shape of the filter's times in front. It can be differentiated, in Θ by way of the
        spectrum and in the filter's times and rates, wherever eigenvalues coincide; see `decompose`.

    Raises:
        TypeError: when `spectrum` is not of `decompose`, `filter` no Filter, or `y` or `f0_x` hold no real numbers.
        ValueError: when shapes do not fit.

    Example:
        >>> from lib.training.filters import descent
        >>> from lib.training.spectrum import decompose
        >>> one = jnp.ones((1, 1))
        >>> coefficients(decompose(2 * one), descent(0.25, 1), y=one, f0_x=0 * one).item()  # η (y − f₀), after one step
        0.25

    Source: Lee et al. 2019, eq 8.
    """
    y, f0_x = check_problem(spectrum, filter, y, as_array("f0_x", f0_x))
    return -_filtered(spectrum, filter.response, f0_x - y)


def train_outputs(
    spectrum: Spectrum, filter: Filter, y: Float[Array, "n k"], f0_x: Float[Array, "n k"]
) -> Float[Array, "*t n k"]:
    """The linear model's outputs on its training set: f(X) = y + V g(λ) Vᵀ (f₀(X) − y).

    Args, Raises: as `coefficients`.

    Returns:
        Outputs (..., N, K).

    Example:
        >>> from lib.training.filters import descent
        >>> from lib.training.spectrum import decompose
        >>> one = jnp.ones((1, 1))
        >>> train_outputs(decompose(2 * one), descent(0.25, 2), y=one, f0_x=0 * one).item()  # 1 − (1 − 0.25 · 2)²
        0.75

    Source: Lee et al. 2019, eq 9.
    """
    y, f0_x = check_problem(spectrum, filter, y, as_array("f0_x", f0_x))
    return y + _filtered(spectrum, filter.residual, f0_x - y)


def test_outputs(
    spectrum: Spectrum,
    filter: Filter,
    y: Float[Array, "n k"],
    f0_x: Float[Array, "n k"],
    theta_tx: Float[Array, "m n *kk"],
    f0_test: Float[Array, "m k"],
) -> Float[Array, "*t m k"]:
    """The linear model's outputs at any inputs: f(x) = f₀(x) + Θ(x, X) a.

    Args:
        spectrum, filter, y, f0_x: as `coefficients`.
        theta_tx: Θ(x, X), (M, N) or (M, N, K, K).
        f0_test: outputs at initialisation at those inputs (M, K).

    Returns:
        Outputs (..., M, K).

    Raises:
        ValueError: when shapes do not fit.

    Example:
        >>> from lib.training.filters import descent
        >>> from lib.training.spectrum import decompose
        >>> one = jnp.ones((1, 1))
        >>> problem = decompose(2 * one), descent(0.25, 1), one, 0 * one  # a = 0.25
        >>> test_outputs(*problem, theta_tx=3 * one, f0_test=-one).item()
        -0.25

    Source: Lee et al. 2019, eqs 10-11 (µ and γ together).
    """
    a = coefficients(spectrum, filter, y, f0_x)
    y, theta_tx, f0_test = (
        as_array("y", y),
        as_real("theta_tx", theta_tx, a.dtype),
        as_real("f0_test", f0_test, a.dtype),
    )
    if f0_test.ndim != 2 or f0_test.shape[1] != y.shape[1]:
        raise ValueError(f"`f0_test` must have shape (M, K) with K = {y.shape[1]}, got {f0_test.shape}")
    expected = (f0_test.shape[0], y.shape[0])
    if theta_tx.shape not in (expected, (*expected, y.shape[1], y.shape[1])):
        raise ValueError(
            f"`theta_tx` must have shape (M, N) = {expected} or (M, N, K, K), got {theta_tx.shape}; "
            "rows are the new inputs, columns the training set"
        )
    return f0_test + kernel_product(theta_tx, a)


# pytest would take a function of this name for a test.
test_outputs.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def kernel_product(theta: Float[Array, "m n *kk"], a: Float[Array, "*t n k"]) -> Float[Array, "*t m k"]:
    """Θ a for a kernel (M, N), meaning Θ ⊗ I_K, or (M, N, K, K), and coefficients (..., N, K).

    Example:
        >>> kernel_product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).item()
        11.0
    """
    theta, a = as_real("theta", theta), as_real("a", a)
    if theta.ndim not in (2, 4):
        raise ValueError(f"`theta` must have shape (M, N) or (M, N, K, K), got {theta.shape}")
    n, *outputs = theta.shape[1:]
    if a.ndim < 2 or a.shape[-2] != n or outputs not in ([], [a.shape[-1]] * 2):
        raise ValueError(f"`a` must have shape (..., N, K) for `theta` of shape {theta.shape}, got {a.shape}")
    spec = "mn,...nk->...mk" if theta.ndim == 2 else "mnkl,...nl->...mk"
    return jnp.einsum(spec, theta, a, precision="highest")


def weight_change(net: Network, params0: PyTree, x: PyTree, a: Float[Array, "*t n k"]) -> PyTree:
    """What training has done to each weight: ω = θ − θ₀ = J₀ᵀ a, one vector-Jacobian product.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)`.
        params0: θ₀.
        x: the training inputs, first axis N.
        a: coefficients (N, K), or (..., N, K) for a product at each time (memory: as many copies of the parameters).

    Returns:
        ω, a pytree like `params0`, with `a`'s leading axes in front of each leaf's own.

    Raises:
        ValueError: when `a` does not have the shape of the outputs, or `net` does not return (N, K).
        TypeError: when parameters or outputs are not real floating-point numbers.

    Example:
        >>> line = lambda params, x: x @ params
        >>> weight_change(line, jnp.zeros((1, 1)), x=jnp.array([[2.0], [3.0]]), a=jnp.ones((2, 1))).item()
        5.0

    Source: Lee et al. 2019, eq 8.
    """
    apply_fn, params0 = as_apply_fn(net), check_params("params0", params0)
    f0_x, a = check_batches(apply_fn, params0, x), as_array("a", a)
    if a.shape[-2:] != f0_x.shape:
        raise ValueError(f"`a` must have shape (..., N, K) with (N, K) = {f0_x.shape}, got {a.shape}")
    if a.size == 0:  # no examples, of which many a network takes none, or no times
        return jax.tree.map(lambda p: jnp.zeros((*a.shape[:-2], *p.shape), p.dtype), params0)
    pull_back = jax.vjp(lambda theta: apply_fn(theta, x), params0)[1]
    product = lambda v: pull_back(v.astype(f0_x.dtype))[0]
    for _ in a.shape[:-2]:
        product = jax.vmap(product)
    return product(a)


def max_learning_rate(
    theta: Float[Array, "n n *kk"], momentum: ArrayLike = 0.0, nesterov: bool = False
) -> Float[Array, ""]:
    """The learning rate at which the linear model stops converging: 2(1 + β)/λ_max, for the total loss.

    With Nesterov momentum it is 2(1 + β)/((1 + 2β) λ_max), never more than without momentum.

    Args:
        theta: Θ(X, X), (N, N) or (N, N, K, K).
        momentum: β.
        nesterov: whether the momentum is Nesterov's and not the heavy ball's.

    Returns:
        One number, infinite where no eigenvalue is above 0.

    Raises:
        TypeError: when `theta` or `momentum` does not hold real numbers.
        ValueError: when `theta` has neither shape, or is not symmetric.

    Example:
        >>> theta = jnp.diag(jnp.array([1.0, 4.0]))
        >>> max_learning_rate(theta).item(), max_learning_rate(theta, momentum=0.5).item()
        (0.5, 0.75)

    Source: stability of the recurrences of `heavy_ball` and `nesterov`.
    """
    eigenvalues = _eigenvalues(theta)
    momentum = jnp.asarray(as_numbers("momentum", momentum), eigenvalues.dtype)
    limit = 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1)
    return limit / jnp.where(eigenvalues[-1] <= 0, 0.0, eigenvalues[-1])


def critical_learning_rate(theta: Float[Array, "n n *kk"]) -> Float[Array, ""]:
    """η_critical = 2/(λ_min + λ_max): the fastest and the slowest mode contract equally; total loss.

    Args:
        theta: Θ(X, X), (N, N) or (N, N, K, K).

    Returns:
        One number, infinite where no eigenvalue is above 0.

    Raises:
        TypeError: when `theta` does not hold real numbers.
        ValueError: when `theta` has neither shape, or is not symmetric.

    Example:
        >>> critical_learning_rate(jnp.diag(jnp.array([1.0, 3.0]))).item()
        0.5

    Source: Lee et al. 2019, section 2.4.
    """
    eigenvalues = _eigenvalues(theta)
    both = eigenvalues[0] + eigenvalues[-1]
    return 2 / jnp.where(both <= 0, 0.0, both)


def _eigenvalues(theta: Array) -> Float[Array, " n"]:
    """In ascending order; of no inputs a single 0."""
    matrix = symmetric_matrix(theta)
    return jnp.linalg.eigvalsh(matrix) if len(matrix) else jnp.zeros(1, matrix.dtype)


def _filtered(spectrum: Spectrum, function: Callable[[Array], Array], r: Float[Array, "n k"]) -> Float[Array, "*t n k"]:
    """V f(λ) Vᵀ r."""
    columns = r if len(r) == len(spectrum.eigenvalues) else r.reshape(-1, 1)  # (N, K) or (N·K, 1)
    filtered = function_product(spectrum, function, columns)
    return filtered.reshape(*filtered.shape[:-2], *r.shape)
