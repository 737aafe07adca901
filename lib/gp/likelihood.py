"""A Gaussian process as a probability: how likely the targets are, and functions drawn from it."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Float

from lib.checks import as_kernel, check_floating, check_scalar, check_symmetric, check_targets


def log_marginal_likelihood(
    k_xx: Float[Array, "n n"], y: Float[Array, "n k"], noise_variance: ArrayLike = 0.0
) -> Float[Array, ""]:
    """The log probability density of the targets under the prior: what to maximise in σ_w, σ_b or the depth.

    log p(y) = −½ Σ_k y_kᵀ (k + σ² I)⁻¹ y_k − K/2 log det(k + σ² I) − NK/2 log 2π

    Args:
        k_xx: covariance of the training inputs (N, N), such as `net.kernel(x).nngp`. Use float64.
        y: targets (N, K): K independent outputs of the same covariance.
        noise_variance: σ² of the targets. Where k + σ² I is not positive definite the result is NaN: raise σ².

    Returns:
        One number, in nats, of all N·K targets together, in the dtype of the arrays; it can be differentiated. Of no
        targets it is 0.

    Raises:
        ValueError: when shapes do not fit, `k_xx` is not symmetric, or `noise_variance` is below 0.
        TypeError: when `k_xx` does not hold floating-point numbers of single or double precision, or `noise_variance`
            is no number.

    Example:
        >>> round(log_marginal_likelihood(jnp.ones((1, 1)), jnp.zeros((1, 1))).item(), 4)  # −½ log 2π
        -0.9189

    Source: the Gaussian of Lee et al. 2019, eq 12.
    """
    k_xx = as_kernel("k_xx", check_floating("k_xx", k_xx))
    n, k = (y := check_targets(y, dtype=k_xx.dtype)).shape
    if k_xx.shape != (n, n):
        raise ValueError(f"`k_xx` must have shape {(n, n)} for N = {n} targets, got {k_xx.shape}")
    k_xx = check_symmetric("k_xx", k_xx)
    noise_variance = jnp.asarray(check_scalar("noise_variance", noise_variance, least=0), k_xx.dtype)
    factor = jnp.linalg.cholesky(k_xx + noise_variance * jnp.eye(n, dtype=k_xx.dtype))
    whitened = solve_triangular(factor, y, lower=True)
    half_log_det = jnp.log(jnp.diagonal(factor)).sum()
    return -0.5 * (whitened**2).sum() - k * half_log_det - 0.5 * n * k * jnp.log(2 * jnp.pi)


def sample(
    key: Array, mean: Float[Array, "*t m k"], cov: Float[Array, "*t m m"], shape: tuple[int, ...] = ()
) -> Float[Array, "*st m k"]:
    """Functions drawn from a Gaussian process, at M inputs.

    f = µ + V √Λ z,  with Σ = V Λ Vᵀ and z ~ N(0, 1): exact where Σ is singular, as at training inputs

    Args:
        key: a PRNG key.
        mean: µ (..., M, K), as from `posterior`, `ensemble`, or jnp.zeros((M, K)) for the prior.
        cov: Σ (..., M, M), the same for each of the K outputs, which are independent.
        shape: of the draws, in front; one draw if left out.

    Returns:
        Draws (*shape, ..., M, K). Different times' draws are independent. NaN where `cov` has an eigenvalue further
        below 0 than rounding takes a posterior's, eps^¼ of the largest or of 1: it is no covariance.

    Raises:
        ValueError: when `mean` and `cov` do not fit, or `cov` is not symmetric.
        TypeError: when one of them does not hold floating-point numbers of single or double precision.

    Example:
        >>> sample(jax.random.key(0), jnp.zeros((5, 1)), jnp.eye(5), shape=(3,)).shape
        (3, 5, 1)

    Source: Lee et al. 2019, eq 12.
    """
    mean, cov = (as_kernel(name, check_floating(name, value)) for name, value in (("mean", mean), ("cov", cov)))
    if mean.ndim < 2 or cov.shape != (*mean.shape[:-1], mean.shape[-2]):
        raise ValueError(
            f"`cov` must have shape (..., M, M) for `mean` of shape (..., M, K), got {cov.shape} and {mean.shape}"
        )
    eigenvalues, v = jnp.linalg.eigh(check_symmetric("cov", cov))
    largest = eigenvalues.max(-1, keepdims=True, initial=1.0)
    least = -(jnp.finfo(cov.dtype).eps ** 0.25) * largest
    root = v * jnp.sqrt(jnp.where(eigenvalues < least, jnp.nan, jnp.maximum(eigenvalues, 0.0)))[..., None, :]
    z = jax.random.normal(key, (*shape, *mean.shape), mean.dtype)
    return mean + jnp.matmul(root, z, precision="highest")
