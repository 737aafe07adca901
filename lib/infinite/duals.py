"""Dual activations: Gaussian expectations of a nonlinearity and of its derivative.

A dual takes the variances k11 = E[u²], k22 = E[v²] and the covariance k12 = E[uv] of a centred Gaussian pair, arrays
that broadcast against each other, and returns (𝒯, 𝒯̇) = (E[φ(u) φ(v)], E[φ′(u) φ′(v)]) in their broadcast shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]

# The erf in `sigmoid_like` is closest to the logistic function, within 0.01 of it, at about this scale.
SIGMOID_SCALE = 2.4020563531719796

# Of x, x³, x⁵, … in the polynomial whose largest relative distance from atan x on [0, 1] is least, 1.5e-8.
ARCTANGENT = (
    *(1.0, -0.33333072, 0.19992620, -0.14203648, 0.10640947),
    *(-0.07504319, 0.04269178, -0.01606878, 0.00284993),
)


def relu(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = max(u, 0): the arc-cosine kernels of degree 1 and 0.

    𝒯 = √(k11 k22) (sin θ + (π − θ) cos θ) / 2π,  𝒯̇ = (π − θ) / 2π,  cos θ = k12 / √(k11 k22)

    At θ = 0 the slope of 𝒯̇ is infinite on one side and minus that on the other: the ReLU tangent kernel has a kink at
    x = x′. There, and at zero vectors, where θ means nothing, the gradient of 𝒯̇ is set to 0. First derivatives are
    finite everywhere; second ones are not, where inputs are parallel, but of an input with itself.

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇). Between equal inputs, k11 = k12 = k22 = k, exactly (k/2, 1/2).

    Example:
        >>> t, t_dot = relu(jnp.array(1.0), jnp.array(1.0), jnp.array(1.0))
        >>> float(t), float(t_dot)
        (0.5, 0.5)

    Source: Lee et al. 2019, eqs S13-S15; Cho & Saul 2009.
    """
    if k11 is k12 and k12 is k22:  # of an input with itself, a linear function
        return k11 / 2, jnp.where(jnp.isnan(k11), k11, jnp.asarray(0.5, k11.dtype))
    return _relu(k11, k12, k22)


@jax.custom_jvp
def _relu(k11: Array, k12: Array, k22: Array) -> Pair:
    theta, norm_sine = _angle(k11, k12, k22)
    return (norm_sine + (jnp.pi - theta) * k12) / (2 * jnp.pi), (jnp.pi - theta) / (2 * jnp.pi)


@_relu.defjvp
def _relu_jvp(primals: tuple, tangents: tuple) -> tuple[Pair, Pair]:
    """∂𝒯/∂k12 = 𝒯̇ (Price), ∂𝒯/∂k11 = √(k22/k11) sin θ / 4π, ∂θ/∂k12 = −1 / √(k11 k22) sin θ."""
    k11, k12, k22 = primals
    d11, d12, d22 = tangents
    t, t_dot = _relu(k11, k12, k22)
    _, norm_sine = _angle(k11, k12, k22)
    stretch = divide(d11, k11) + divide(d22, k22)
    slope_t = t_dot * d12 + norm_sine * stretch / (4 * jnp.pi)
    slope_t_dot = divide(d12 - k12 * stretch / 2, norm_sine) / (2 * jnp.pi)
    return (t, t_dot), (slope_t, slope_t_dot)


def leaky_relu(k11: Array, k12: Array, k22: Array, slope: float | Array) -> Pair:
    """The dual of φ(u) = max(u, 0) + a min(u, 0), from that of ReLU; a = −1 is |u|.

    𝒯 = (1 − a)² 𝒯_relu + a k12,  𝒯̇ = (1 − a)² 𝒯̇_relu + a

    Args:
        k11, k12, k22: variances and covariance, broadcastable.
        slope: a.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> t, t_dot = leaky_relu(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0), -1.0)
        >>> round(float(t), 4), float(t_dot)  # E|u| E|v| = 2/π
        (0.6366, 0.0)

    Source: Cho & Saul 2009, by φ(u) = relu(u) − a relu(−u).
    """
    t, t_dot = relu(k11, k12, k22)
    return (1 - slope) ** 2 * t + slope * k12, (1 - slope) ** 2 * t_dot + slope


def erf(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = erf(u): the arc-sine kernel, as an arctangent, exact at large variance too.

    𝒯 = 2/π asin(2 k12 / √((1 + 2 k11)(1 + 2 k22))) = 2/π atan(2 k12 / √D),  𝒯̇ = 4/π / √D,
    D = (1 + 2 k11)(1 + 2 k22) − 4 k12²

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> t, t_dot = erf(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))
        >>> round(float(t), 4), round(float(t_dot), 4)  # uncorrelated; 4/3π
        (0.0, 0.4244)

    Source: Lee et al. 2019, eqs S16-S17; Williams 1997.
    """
    _, ratio, inverse = spread(k11, k12, k22, 2.0)
    return 2 / jnp.pi * jnp.arctan(2 * ratio), 4 / jnp.pi * inverse


def sigmoid_like(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = (1 + erf(u/s)) / 2 with s = 2.402…, which is within 0.01 of the logistic function.

    𝒯 = (1 + 𝒯_erf(Σ/s²)) / 4,  𝒯̇ = 𝒯̇_erf(Σ/s²) / 4s²

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> float(sigmoid_like(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))[0])
        0.25

    Source: Williams 1997, by the linearity of expectations.
    """
    t, t_dot = erf(*(k / SIGMOID_SCALE**2 for k in (k11, k12, k22)))
    return (1 + t) / 4, t_dot / (2 * SIGMOID_SCALE) ** 2


def identity(k11: Array, k12: Array, k22: Array) -> Pair:
    """The dual of φ(u) = u: (k12, 1).

    Args:
        k11, k12, k22: variances and covariance, broadcastable.

    Returns:
        (𝒯, 𝒯̇).

    Example:
        >>> [float(t) for t in identity(jnp.array(1.0), jnp.array(0.5), jnp.array(1.0))]
        [0.5, 1.0]

    Source: Lee et al. 2019, eq S24.
    """
    t = jnp.broadcast_to(k12, jnp.broadcast_shapes(k11.shape, k12.shape, k22.shape))
    return t, jnp.ones_like(t)


@jax.custom_jvp
def spread(k11: Array, k12: Array, k22: Array, c: Any) -> tuple[Array, Array, Array]:
    """√D, k12/√D and 1/√D for D = (1 + c k11)(1 + c k22) − c² k12², at least 1 + c k11 + c k22 whatever is rounded.

    As √A₁ √A₂ √((L + S²) / A₁A₂) with A = 1 + c k, L = 1 + c (k11 + k22) and S = c √(k11 k22) sin θ: nothing is squared
    before it is divided, and S² is that of a difference of like numbers, exactly 0 between equal inputs. Quotients
    come along, because the derivative of one squares its denominator.
    """
    A1, A2 = 1 + c * k11, 1 + c * k22
    norm, k, s1, s2 = normalized(k11, k12, k22)
    share, scaled = lax.rsqrt(A1) * lax.rsqrt(A2), c * (s1 * lax.rsqrt(A1)) * (s2 * lax.rsqrt(A2))
    below, above = jnp.maximum(norm - k, 0) * scaled, jnp.maximum(norm + k, 0) * scaled
    root = jnp.sqrt((A1 + c * k22) * share * share + below * above) * jnp.sqrt(A1) * jnp.sqrt(A2)
    return root, k12 / root, 1 / root


@spread.defjvp
def _spread_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """d√D = √D dD/2D and d(1/√D) = −dD/2D /√D."""
    k11, _, k22, c = primals
    d11, d12, d22, _ = tangents
    root, ratio, inverse = spread(*primals)
    along = (1 + c * k22) * inverse * d11 + (1 + c * k11) * inverse * d22 - 2 * c * ratio * d12
    relative = c / 2 * along * inverse
    return (root, ratio, inverse), (root * relative, d12 * inverse - ratio * relative, -inverse * relative)


def normalized(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array, Array, Array]:
    """√(k11 k22)/s₁s₂, k12/s₁s₂, s₁ and s₂, with powers of two s ≈ √k, by which division is exact.

    The first two are no larger than 4, where k11 k22 would over- or underflow too, and equal where k11 = k12 = k22.
    """
    s1, s2 = _power_of_two(k11), _power_of_two(k22)
    return jnp.sqrt((k11 / s1 / s1) * (k22 / s2 / s2)), k12 / s1 / s2, s1, s2


def _power_of_two(k: Array) -> Float[Array, "..."]:
    """√k to its first binary digit."""
    number = jnp.finfo(k.dtype)
    return lax.reduce_precision(jnp.sqrt(jnp.maximum(k, number.tiny)), number.nexp, 0)


def _angle(k11: Array, k12: Array, k22: Array) -> Pair:
    """θ and √(k11 k22) sin θ, by the half-angle tan θ/2 = √((1 − cos θ)/(1 + cos θ)).

    Differences of numbers of size √(k11 k22), never of their squares: exactly 0 between equal inputs.
    """
    norm, k, s1, s2 = normalized(k11, k12, k22)
    below, above = jnp.sqrt(jnp.maximum(norm - k, 0)), jnp.sqrt(jnp.maximum(norm + k, 0))
    smaller, larger = jnp.minimum(below, above), jnp.maximum(below, above)
    half = _arctangent(smaller / jnp.maximum(larger, jnp.finfo(larger.dtype).tiny))
    return 2 * jnp.where(below > above, jnp.pi / 2 - half, half), below * above * s1 * s2


def _arctangent(x: Array) -> Float[Array, "..."]:
    """atan x for x in [0, 1]; in single precision by a polynomial, several times faster and as accurate."""
    if x.dtype == jnp.float64:
        return jnp.arctan(x)
    square, total = x * x, 0.0
    for coefficient in reversed(ARCTANGENT):
        total = total * square + coefficient
    return x * total


def divide(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is not above 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
