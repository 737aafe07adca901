"""The eigendecomposition of a kernel, and functions of the kernel by it, with their derivatives.

A trained model is a function of the matrix Θ, V f(λ) Vᵀ, which is smooth where eigenvalues coincide and V is not: its
derivative is made of divided differences of f, never of V's own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from lib.checks import as_array, as_kernel, as_real, check_symmetric, check_targets
from lib.training.filters import Filter, check_filter

# In units of eps · λ_max. What `eigh` makes of an eigenvalue 0 is below 2.3 for repeated inputs, up to n = 1,000; and
# entries that err by u = eps/2 are off by a random matrix of norm 2√n · u · rms(Θ), which is below 1.
FLOOR = 8
TIE = 1000  # of the difference of two eigenvalues three digits are left


class Spectrum(NamedTuple):
    """The eigendecomposition Θ = V diag(λ) Vᵀ of a kernel on the training set.

    `eigenvalues` (n,) ascend; `eigenvectors` (n, n) hold V by columns; `matrix` is Θ as (n, n), through which results
    are differentiated. n is N for a kernel Θ ⊗ I_K and N·K for a full one, whose rows are ordered example by example.
    """

    eigenvalues: Float[Array, " n"]
    eigenvectors: Float[Array, "n n"]
    matrix: Float[Array, "n n"]


def decompose(theta: Float[Array, "n n *kk"]) -> Spectrum:
    """Eigendecomposition of a kernel on the training set, once, for every filter and time.

    Θ = V diag(λ) Vᵀ. Eigenvalues below 8·eps·λ_max may be rounding errors of 0, and are set to it.

    Args:
        theta: Θ(X, X), (N, N) for Θ ⊗ I_K as at infinite width, or (N, N, K, K) as at finite width. Use float64.

    Returns:
        The spectrum. What `train_outputs` and the like make of it can be differentiated, once, wherever eigenvalues
        lie. Gradients of eigenvalues and eigenvectors themselves, and second derivatives, are NaN where two eigenvalues
        are within 1000·eps·λ_max; the largest has a gradient there by `max_learning_rate`.

    Raises:
        TypeError: when `theta` does not hold integers or real numbers of single or double precision.
        ValueError: when `theta` has neither shape, or is not symmetric. Inside `jit`, where that cannot be seen, an
            asymmetric kernel gives NaN.

    Example:
        >>> decompose(jnp.diag(jnp.array([2.0, 1.0]))).eigenvalues.tolist()
        [1.0, 2.0]

    Source: the diagonalisation behind Lee et al. 2019, eqs 8-11.
    """
    matrix = symmetric_matrix(theta)
    return Spectrum(*_eigh(matrix), matrix)


def symmetric_matrix(theta: Array) -> Array:
    """A kernel on the training set as a matrix that can be decomposed, or an error that says why not."""
    return check_symmetric("theta", as_matrix(as_kernel("theta", theta)))


def as_matrix(theta: Array) -> Array:
    """(N, N) as it is; (N, N, K, K) as (N·K, N·K), example by example."""
    theta = as_array("theta", theta)
    square = theta.ndim in (2, 4) and theta.shape[0] == theta.shape[1] and theta.shape[2:3] == theta.shape[3:4]
    if not square:
        raise ValueError(f"`theta` must have shape (N, N) or (N, N, K, K), got {theta.shape}; is it Θ(x, X)?")
    if theta.ndim == 2:
        return theta
    size = theta.shape[0] * theta.shape[2]
    return theta.transpose(0, 2, 1, 3).reshape(size, size)


def check_problem(spectrum: Spectrum, filter: Filter, y: Array, f0_x: Array | None = None) -> tuple[Array, ...]:
    """Targets and outputs at initialisation as arrays, integers in the dtype of the spectrum, or an error.

    A full kernel's N·K modes need the outputs at initialisation as well.
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"`spectrum` must be that of Θ(X, X), from `decompose`, got {type(spectrum).__name__}")
    check_filter("filter", filter)
    dtype = spectrum.eigenvalues.dtype
    n, k = (y := check_targets(y, f0_x, dtype)).shape
    if len(spectrum.eigenvalues) not in (n, n if f0_x is None else n * k):
        expected = f"N = {n}" if f0_x is None else f"N = {n} or N·K = {n * k}"
        raise ValueError(
            f"`spectrum` has {len(spectrum.eigenvalues)} modes, expected {expected} for `y` of shape {jnp.shape(y)}; "
            "is it of another training set?"
        )
    return (y,) if f0_x is None else (y, as_real("f0_x", f0_x, dtype))


def function_product(
    spectrum: Spectrum, function: Callable[[Array], Array], r: Float[Array, "n k"]
) -> Float[Array, "*t n k"]:
    """f(Θ) r = V f(λ) Vᵀ r, for a function from λ (n,) to (..., n), such as a filter's.

    Its derivative along Θ̇ is V (F ∘ VᵀΘ̇V) Vᵀ r, with F_ij = (f(λ_i) − f(λ_j))/(λ_i − λ_j), and f′(λ_i) where they
    coincide; it takes the memory of Θ for each time. At `flow(inf)` modes with λ = 0 are taken to stay at 0.

    Source: Daleckii and Krein's theorem, Higham 2008 (`higham2008functions`), section 3.2.
    """
    if any(callable(leaf) for leaf in jax.tree.leaves(function)):  # a bare function may hide what is differentiated
        bare, hidden = jax.closure_convert(function, spectrum.eigenvalues)
        function = Partial(_with_hidden, Partial(bare), hidden)
    return _product(function, spectrum, r)


def _with_hidden(bare: Callable[..., Array], hidden: list[ArrayLike], eigenvalues: Array) -> Array:
    return bare(eigenvalues, *hidden)


@jax.custom_jvp
def _product(function: Partial, spectrum: Spectrum, r: Float[Array, "n k"]) -> Float[Array, "*t n k"]:
    v = spectrum.eigenvectors
    modes = jnp.matmul(v.T, r, precision="highest")
    return jnp.matmul(v, function(spectrum.eigenvalues)[..., None] * modes, precision="highest")


@_product.defjvp
def _product_jvp(primals, tangents):
    (function, spectrum, r), (function_dot, spectrum_dot, r_dot) = primals, tangents
    lam, v, _ = spectrum
    product = partial(jnp.matmul, precision="highest")
    modes = product(v.T, r)
    of_leaves = jax.jvp(lambda function: function(lam), (function,), (function_dot,))[1]
    mixed = _divided_differences(function, lam) * _in_modes(v, spectrum_dot.matrix)
    change = product(v, product(mixed, modes) + of_leaves[..., None] * modes)
    return _product(function, spectrum, r), change + _product(function, spectrum, r_dot)


def _divided_differences(function: Callable[[Array], Array], lam: Float[Array, " n"]) -> Float[Array, "*t n n"]:
    """(f(λ_i) − f(λ_j))/(λ_i − λ_j), or what that tends to where it has lost its digits."""
    derivative = lambda f: lambda lam: jax.jvp(f, (lam,), (jnp.ones_like(lam),))
    (f, slopes), (_, curvature) = derivative(derivative(function))(lam)
    return _quotients(lam, f, slopes, curvature)


@jax.jit
def _quotients(
    lam: Float[Array, " n"], f: Float[Array, "*t n"], slopes: Float[Array, "*t n"], curvature: Float[Array, "*t n"]
) -> Float[Array, "*t n n"]:
    """Where λ_i and λ_j are close, the mean of both ends' f′, corrected by their f″, which errs by gap⁴ f⁽⁵⁾/720.

    The correction is about gap² f‴/12, so that its square over f′ estimates that error.
    """
    outer = lambda operation, x: operation(x[..., :, None], x[..., None, :])
    gap = outer(jnp.subtract, lam)
    apart = gap != 0
    quotient = outer(jnp.subtract, f) / jnp.where(apart, gap, 1.0)
    correction = jnp.where(apart, gap * outer(jnp.subtract, curvature) / 12, 0.0)
    size = outer(jnp.maximum, jnp.abs(slopes))
    share = correction / jnp.where(size > 0, size, 1.0)
    lost = jnp.finfo(lam.dtype).eps * outer(jnp.add, jnp.abs(f))
    close = ~apart | (share**2 * size * jnp.abs(gap) <= lost)
    return jnp.where(close, outer(jnp.add, slopes) / 2 - correction, quotient)


def _in_modes(v: Float[Array, "n n"], change: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """VᵀΘ̇V of the symmetric part, which is all that a symmetric kernel can change by."""
    return jnp.matmul(v.T, jnp.matmul((change + change.T) / 2, v, precision="highest"), precision="highest")


@jax.custom_jvp
def _eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    eigenvalues, eigenvectors = jnp.linalg.eigh(matrix)
    floor = FLOOR * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[-1:]
    return jnp.where(eigenvalues <= floor, 0.0, eigenvalues), eigenvectors  # NaN stays


@_eigh.defjvp
def _eigh_jvp(primals, tangents):
    lam, v = _eigh(*primals)
    change = _in_modes(v, *tangents)
    gap = lam - lam[:, None]
    itself = jnp.eye(len(lam), dtype=bool)
    tied = (jnp.abs(gap) <= TIE * jnp.finfo(lam.dtype).eps * lam[-1:]) & ~itself
    turn = change * jnp.where(tied, jnp.nan, jnp.where(itself, 0.0, 1 / jnp.where(gap == 0, 1.0, gap)))
    moved = jnp.diagonal(change) * jnp.where(tied.any(0), jnp.nan, 1.0)
    return (lam, v), (moved, jnp.matmul(v, turn, precision="highest"))
