"""Gaussian processes of infinitely wide networks: the Bayesian posterior, and the ensemble of trained networks."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from lib.checks import as_kernel, as_real, check_scalar, check_symmetric, check_targets
from lib.infinite.kernel import Kernel
from lib.training.filters import Filter, flow
from lib.training.spectrum import FLOOR, Spectrum, check_problem, decompose, function_product


@runtime_checkable
class Kernels(Protocol):
    """Anything with `nngp` and `ntk`: a `Kernel`, or another library's."""

    @property
    def nngp(self) -> Array: ...
    @property
    def ntk(self) -> Array: ...


Moments = tuple[Float[Array, "*t m k"], Float[Array, "*t m m"]]


def posterior(
    k_xx: Float[Array, "n n"],
    k_tx: Float[Array, "m n"],
    k_tt: Float[Array, "m m"],
    y: Float[Array, "n k"],
    noise_variance: ArrayLike = 0.0,
) -> Moments:
    """The Gaussian process posterior given the training set: exact Bayesian inference for the prior k.

    µ = k(x, X) (k + σ² I)⁻¹ y,  Σ = k(x, x) − k(x, X) (k + σ² I)⁻¹ k(X, x)

    By a Cholesky factor; where k + σ² I, noise and all, is singular to rounding, as when an input repeats without
    noise, by its eigenvectors, leaving directions of eigenvalue 0 out of the inverse. It takes four arrays of the size
    of k. Where those do not fit, the mean needs only products with k, by `jax.scipy.sparse.linalg.cg`.

    Args:
        k_xx: covariance of the training inputs (N, N), such as `net.kernel(x).nngp`. Use float64.
        k_tx: of test and training inputs (M, N).
        k_tt: of the test inputs (M, M).
        y: targets (N, K).
        noise_variance: σ² of the targets, in the units of k.

    Returns:
        Mean (M, K), and covariance (M, M), the same for each of the K outputs. NaN where k + σ² I has an eigenvalue
        below 0 by more than rounding of single precision, 1e-5 of the largest in size: it is no covariance.

    Raises:
        TypeError: when an array does not hold integers or real numbers of single or double precision, or
            `noise_variance` is no number.
        ValueError: when shapes do not fit, a kernel is not symmetric, or `noise_variance` is below 0.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> mean, cov = posterior(one, 0.5 * one, one, 2 * one)
        >>> mean.item(), cov.item()
        (1.0, 0.75)

    Source: Lee et al. 2019, eq 13.
    """
    k_xx, k_tx, k_tt, y = _checked(k_xx, k_tx, k_tt, y)
    mean, explained = _conditioned(k_xx, k_tx, y, check_scalar("noise_variance", noise_variance, least=0))
    return mean, k_tt - explained


def ensemble(
    spectrum: Spectrum,
    filter: Filter,
    y: Float[Array, "n k"],
    kernel_xx: Kernels,
    kernel_tx: Kernels,
    kernel_tt: Kernels,
) -> Moments:
    """Mean and covariance of infinitely wide networks trained from independent initialisations, at any time.

    µ = A y,  Σ = 𝒦(x, x) + A 𝒦 Aᵀ − A 𝒦(X, x) − 𝒦(x, X) Aᵀ,  with A = Θ(x, X) V h(λ) Vᵀ

    This is not a posterior: it is what gradient descent makes of the prior.

    Args:
        spectrum: of Θ(X, X) = `kernel_xx.ntk`, from `decompose`.
        filter: the optimiser, for a time or an array of times.
        y: targets (N, K).
        kernel_xx, kernel_tx, kernel_tt: `net.kernel` of training, test × training and test inputs, or anything with
            fields `nngp` and `ntk`.

    Returns:
        Mean (..., M, K) and covariance (..., M, M), with the shape of the filter's times in front.

    Raises:
        TypeError: when a kernel lacks a field, or an argument is not of its kind.
        ValueError: when shapes do not fit, or a kernel is not symmetric.

    Example:
        >>> from lib.training.filters import flow
        >>> one = jnp.ones((1, 1))
        >>> k = Kernel(nngp=one, ntk=2 * one)  # of one input with itself, or with its equal
        >>> mean, cov = ensemble(decompose(k.ntk), flow(jnp.inf), one, k, k, k)  # what has been learnt is certain
        >>> mean.item(), cov.item()
        (1.0, 0.0)

    Source: Lee et al. 2019, eqs 14-15, for any filter.
    """
    k_xx, theta_tx, k_tt, y = _checked(
        _field("kernel_xx", kernel_xx, "nngp"),
        _field("kernel_tx", kernel_tx, "ntk"),
        _field("kernel_tt", kernel_tt, "nngp"),
        y,
    )
    check_problem(spectrum, filter, y)
    A = jnp.swapaxes(function_product(spectrum, filter.response, theta_tx.T), -1, -2)  # (..., M, N)
    k_tx = as_real("kernel_tx.nngp", _field("kernel_tx", kernel_tx, "nngp"), k_xx.dtype)
    cross = jnp.matmul(A, k_tx.T, precision="highest")  # (..., M, M)
    spread = jnp.einsum("...mi,ij,...nj->...mn", A, k_xx, A, precision="highest")
    covariance = k_tt + spread - cross - jnp.swapaxes(cross, -1, -2)
    return jnp.matmul(A, y, precision="highest"), covariance


def readout_ensemble(
    nngp_spectrum: Spectrum,
    filter: Filter,
    y: Float[Array, "n k"],
    kernel_xx: Kernels,
    kernel_tx: Kernels,
    kernel_tt: Kernels,
) -> Moments:
    """Mean and covariance of infinitely wide networks of which only the readout is trained: `ensemble` with Θ := 𝒦.

    µ = 𝒦(x, X) V h Vᵀ y,  Σ = 𝒦(x, x) − 𝒦(x, X) V h (1 + g) Vᵀ 𝒦(X, x)

    Under gradient flow h (1 + g) = (1 − e^{−2λt})/λ: the paper's print lacks the 2. At t → ∞ it is the posterior.

    Args:
        nngp_spectrum: of 𝒦(X, X) = `kernel_xx.nngp`, from `decompose`.
        filter, y, kernel_xx, kernel_tx, kernel_tt: as `ensemble`.

    Returns:
        Mean (..., M, K) and covariance (..., M, M).

    Example:
        >>> from lib.training.filters import flow
        >>> one = jnp.ones((1, 1))
        >>> k = Kernel(nngp=one, ntk=2 * one)  # of one input with itself, or with its equal
        >>> mean, cov = readout_ensemble(decompose(k.nngp), flow(0.0), one, k, k, k)  # before training: the prior
        >>> mean.item(), cov.item()
        (0.0, 1.0)

    Source: Lee et al. 2019, eqs S22-S23, with S23's exponent corrected.
    """
    kernels = {"kernel_xx": kernel_xx, "kernel_tx": kernel_tx, "kernel_tt": kernel_tt}
    frozen = [Kernel(*[_field(name, kernel, "nngp")] * 2) for name, kernel in kernels.items()]
    return ensemble(nngp_spectrum, filter, y, *frozen)


@jax.jit
def _conditioned(
    k: Float[Array, "n n"], k_tx: Float[Array, "m n"], y: Float[Array, "n k"], noise_variance: ArrayLike
) -> Moments:
    """The posterior's mean, and the covariance that the data take away."""
    product = partial(jnp.matmul, precision="highest")
    total = k + jnp.asarray(noise_variance, k.dtype) * jnp.eye(len(k), dtype=k.dtype)
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(total))  # a gradient of it would be NaN where it is not used
    pivots = jnp.diagonal(factor) ** 2
    definite = pivots.min(initial=jnp.inf) > FLOOR * jnp.finfo(k.dtype).eps * pivots.max(initial=0.0)  # not where NaN

    def by_cholesky():
        lower = _factor(total, factor)
        features = solve_triangular(lower, k_tx.T, lower=True)
        # Not product(features.T, solve_triangular(factor, y)), whose errors are those of the square roots.
        return product(k_tx, cho_solve((lower, True), y)), product(features.T, features)

    def by_eigenvectors():
        spectrum = decompose(total)
        features = function_product(spectrum, Partial(_inverse_root), k_tx.T)
        mean = product(k_tx, function_product(spectrum, flow(jnp.inf).response, y))
        v = spectrum.eigenvectors
        quotients = jax.lax.stop_gradient((v * product(total, v)).sum(0))  # the eigenvalues below 0 as well
        indefinite = quotients.min(initial=0.0) < -1e-5 * abs(quotients).max(initial=0.0)
        return tuple(jnp.where(indefinite, jnp.nan, part) for part in (mean, product(features.T, features)))

    return jax.lax.cond(definite, by_cholesky, by_eigenvectors)


@jax.custom_jvp
def _factor(matrix: Float[Array, "n n"], factor: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The Cholesky factor of a matrix, which is known, with its derivative L Φ(L⁻¹ Ȧ L⁻ᵀ), Φ the lower half."""
    return factor


@_factor.defjvp
def _factor_jvp(primals, tangents):
    lower, change = _factor(*primals), tangents[0]
    half = solve_triangular(lower, (change + change.T) / 2, lower=True)
    whitened = solve_triangular(lower, half.T, lower=True)
    phi = jnp.tril(whitened) - jnp.diag(jnp.diagonal(whitened)) / 2
    return lower, jnp.matmul(lower, phi, precision="highest")


def _inverse_root(eigenvalues: Float[Array, " n"]) -> Float[Array, " n"]:
    none = eigenvalues <= 0  # not where NaN
    return jnp.where(none, 0.0, 1 / jnp.sqrt(jnp.where(none, 1.0, eigenvalues)))


def _field(name: str, kernel: Any, field: str) -> Any:
    """One of a kernel's two, or an error that names the argument."""
    if not isinstance(kernel, Kernels):
        raise TypeError(f"`{name}` must have fields nngp and ntk, as of `net.kernel`, got {type(kernel).__name__}")
    return getattr(kernel, field)


def _checked(k_xx: Array, k_tx: Array, k_tt: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """The kernels and targets as arrays, or an error that names the argument."""
    k_xx, k_tx, k_tt = (as_kernel(name, k) for name, k in (("k_xx", k_xx), ("k_tx", k_tx), ("k_tt", k_tt)))
    y = check_targets(y, dtype=k_xx.dtype)
    if k_tt.ndim != 2:
        raise ValueError(f"the `tt` kernel must have shape (M, M) for M test inputs, got {k_tt.shape}")
    n, m = len(y), len(k_tt)
    for name, k, shape in [("xx", k_xx, (n, n)), ("tx", k_tx, (m, n)), ("tt", k_tt, (m, m))]:
        if k.shape != shape:
            raise ValueError(
                f"the `{name}` kernel must have shape {shape} for N = {n} targets and M = {m} test inputs, got "
                f"{k.shape}; rows of the `tx` kernel are test inputs"
            )
    return check_symmetric("k_xx", k_xx), k_tx, check_symmetric("k_tt", k_tt), y
