"""Momentum as a spectral filter: heavy ball and Nesterov step by step, and their oscillator in continuous time.

A preconditioned method, such as Adam's or Newton's, is no filter of Θ: it trains with another kernel, J P Jᵀ.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from lib.checks import check_steps
from lib.filters import Filter


def heavy_ball(learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Filter:
    """Full-batch descent with heavy-ball momentum, from rest, for i steps.

    g_{i+1} = (1 + β − ηλ) g_i − β g_{i−1},  h_{i+1} = (1 + β − ηλ) h_i − β h_{i−1} + η,  g₀ = g₋₁ = 1, h₀ = h₋₁ = 0

    This is `optax.sgd(learning_rate, momentum)`: v ← βv + ∇L, θ ← θ − ηv. It converges on modes with ηλ < 2(1 + β).

    Args:
        learning_rate: η for the total loss ½ Σ (f − y)²; divide by N·K to follow a mean over N·K entries.
        momentum: β; 0 is `descent`.
        steps: i, an integer or an array of integers of any shape, each 0 or more.

    Returns:
        The filter; its functions map (n,) to (*steps.shape, n).

    Raises:
        TypeError: when `steps` is not of an integer type.
        ValueError: when a step is below 0.

    Example:
        >>> heavy_ball(1.0, 0.5, jnp.arange(4)).residual(jnp.array([0.5])).ravel().tolist()
        [1.0, 0.5, 0.0, -0.25]

    Source: Lee et al. 2019, eqs S1-S2; Polyak 1964 (`polyak1964momentum`).
    """

    def step(x, beta):  # v′ = βv + (1 − xu), u′ = u + v′ on (u, v, 1), with u = h/η and x = ηλ; minus the identity
        return [[-x, beta, 1.0], [-x, beta - 1, 1.0]]

    return _repeated(step, learning_rate, momentum, steps)


def nesterov(learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Filter:
    """Full-batch descent with Nesterov momentum, from rest, for i steps.

    g_{i+1} = (1 − ηλ) ((1 + β) g_i − β g_{i−1}),  h_{i+1} = (1 − ηλ) ((1 + β) h_i − β h_{i−1}) + η,
    g₁ = 1 − (1 + β) ηλ, h₁ = (1 + β) η, g₀ = 1, h₀ = 0

    This is `optax.sgd(learning_rate, momentum, nesterov=True)`, whose weights are the point looked ahead to, where the
    gradient is taken: v ← βv + ∇L, θ ← θ − η(∇L + βv). It converges on modes with ηλ < 2(1 + β)/(1 + 2β).

    Args, Returns, Raises: as `heavy_ball`.

    Example:
        >>> nesterov(1.0, 0.5, jnp.arange(4)).residual(jnp.array([0.5])).ravel().tolist()
        [1.0, 0.25, -0.0625, -0.109375]

    Source: Sutskever et al. 2013 (`sutskever2013momentum`), section 2.
    """

    def step(x, beta):  # v′ = βv + (1 − xu), u′ = u + (1 − xu) + βv′
        return [[-(1 + beta) * x, beta**2, 1 + beta], [-x, beta - 1, 1.0]]

    return _repeated(step, learning_rate, momentum, steps)


def momentum_flow(s: ArrayLike, momentum: ArrayLike, learning_rate: ArrayLike) -> Filter:
    """Heavy-ball momentum in continuous time: a damped oscillator for each mode, from rest.

    g̈ = β̃ ġ − λg, β̃ = (β − 1)/√η:  g = (r₊ e^{r₋s} − r₋ e^{r₊s})/(r₊ − r₋),  r± = ½ (β̃ ± √(β̃² − 4λ))
    h = (1 − g)/λ = [(1 − e^{r₊s})/r₊ − (1 − e^{r₋s})/r₋]/(r₋ − r₊)

    Modes with λ > β̃²/4 oscillate, those below creep, and at λ = β̃²/4 the roots coincide; each is computed to full
    precision. `heavy_ball` with small steps tends to this at s = √η · steps.

    Args:
        s: time, √(learning rate) × steps, finite; a number or an array of any shape. For a mean over N·K entries divide
            the learning rate by N·K, here and in s. The limit s → ∞ is that of `flow`.
        momentum: β.
        learning_rate: η, which decides the damping.

    Returns:
        The filter; its functions map (n,) to (*s.shape, n).

    Example:
        >>> round(momentum_flow(jnp.pi, momentum=1.0, learning_rate=0.1).residual(jnp.ones(1)).item(), 6)  # cos π
        -1.0

    Source: Lee et al. 2019, eqs S3-S4.
    """

    def scaled(eigenvalues):
        time = jnp.asarray(s, eigenvalues.dtype)[..., None]
        damping = (1 - jnp.asarray(momentum, eigenvalues.dtype)) / (
            2 * jnp.sqrt(jnp.asarray(learning_rate, time.dtype))
        )
        return time, damping * time, jnp.maximum(eigenvalues, 0.0) * time**2

    def residual(eigenvalues: Float[Array, " n"]) -> Float[Array, "*s n"]:
        return _oscillation(*scaled(eigenvalues)[1:])

    def response(eigenvalues: Float[Array, " n"]) -> Float[Array, "*s n"]:
        time, p, q = scaled(eigenvalues)
        return time**2 * _displacement(p, q)

    return Filter(residual, response)


def _repeated(step: Callable, learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Filter:
    """The filter of an optimiser whose step S is linear in (u, v, 1), with u = h/η and v the momentum.

    Without the 1 the same map takes (1, 0) to the residual: the first row of Sⁱ holds both g and h/η.
    """
    count = check_steps(steps)

    def change(eigenvalues):  # S − 1, (3, 3, n)
        eta, beta = (jnp.asarray(value, eigenvalues.dtype) for value in (learning_rate, momentum))
        x = eta * jnp.maximum(eigenvalues, 0.0)
        return jnp.stack([jnp.stack([x * 0 + entry for entry in row]) for row in (*step(x, beta), (0.0, 0.0, 0.0))])

    def residual(eigenvalues: Float[Array, " n"]) -> Float[Array, "*steps n"]:
        # Sⁱ − 1 is exact on slow modes, where S is 1 to rounding, but loses a g far below 1; Sⁱ itself keeps that.
        slow = 1 + _first_row(change(eigenvalues), count, 1)[0]
        return jnp.where(jnp.abs(slow) > 1e-3, slow, _first_row(change(eigenvalues), count, 0)[0])

    def response(eigenvalues: Float[Array, " n"]) -> Float[Array, "*steps n"]:
        return jnp.asarray(learning_rate, eigenvalues.dtype) * _first_row(change(eigenvalues), count, 1)[2]

    return Filter(residual, response)


@partial(jax.jit, static_argnames="c")
def _first_row(change: Float[Array, "3 3 n"], count: Int[Array, "*t"], c: int) -> Float[Array, "3 *t n"]:
    """The first row of (1 + change)ⁱ − c, c = 0 or 1, by repeated squaring: (c + P)(c + Q) = c + [cP + cQ + PQ].

    The small axes come first, so that products are sums of long vectors.
    """
    product = lambda row, matrix: sum(row[j] * jnp.expand_dims(matrix[j], range(1, row[j].ndim)) for j in range(3))
    first = (jnp.arange(3) == 0).astype(change.dtype).reshape(3, *(1,) * (count.ndim + 1))

    def double(carry, bit):
        row, power = carry
        used = (count >> bit & 1)[..., None] == 1
        multiplied = lambda: jnp.where(used, c * row + product(row + c * first, power), row)
        squared = jnp.stack([2 * c * power[i] + product(power[i], power) for i in range(3)])
        return (jax.lax.cond(used.any(), multiplied, lambda: row), squared), None

    identity = jnp.eye(3, dtype=change.dtype)[..., None]
    start = jnp.broadcast_to((1 - c) * first, (3, *count.shape, change.shape[-1]))
    bits = jnp.arange(int(jnp.iinfo(count.dtype).max).bit_length())
    (row, _), _ = jax.lax.scan(double, (start, change + (1 - c) * identity), bits)
    return row


@jax.jit
def _oscillation(p: Array, q: Array) -> Array:
    """g for p = −β̃s/2 and q = λs²; the roots times −s are p ± √(p² − q)."""
    z = p**2 - q
    root = jnp.sqrt(jnp.maximum(jnp.abs(z), jnp.finfo(z.dtype).tiny))  # at a double root the limits below hold
    fast = p + root
    slow = q / jnp.where(z > 1, fast, 1.0)  # = p − root without its cancellation
    apart = (fast * jnp.exp(-slow) - slow * jnp.exp(-fast)) / (2 * root)
    root = jnp.where(z > 1, 1.0, root)  # cosh would overflow
    even = jnp.where(z > 0, jnp.cosh(root), jnp.cos(root))
    odd = jnp.where(z > 0, jnp.sinh(root), jnp.sin(root)) / root
    together = jnp.exp(-p) * (even + p * odd)
    return jnp.where(z > 1, apart, together)


@jax.jit
def _displacement(p: Array, q: Array) -> Array:
    """h/s²: (1 − g)/q where 1 − g keeps its digits, else a difference of the two modes, or a power series in s."""
    z = p**2 - q
    root = jnp.sqrt(jnp.where(z > 1, z, 1.0))
    fast = p + root
    slow = q / fast
    flow_in = lambda x: jnp.where(x > 0, -jnp.expm1(-x) / jnp.where(x > 0, x, 1.0), 1.0)
    apart = (flow_in(slow) - flow_in(fast)) / (2 * root)
    last, term = jnp.zeros_like(z), jnp.full_like(z, 0.5)
    series = term
    for j in range(3, 30):  # term_j of h/s² = Σ c_j s^{j−2}, from ḧ = 1 − 2pḣ − qh; here p < 1.5 and q < 1
        last, term = term, -(2 * p * (j - 1) * term + q * last) / (j * (j - 1))
        series += term
    direct = (1 - _oscillation(p, q)) / jnp.where(q > 0, q, 1.0)
    return jnp.where((q >= 1) & ((z <= 1) | (slow >= 1)), direct, jnp.where(z > 1, apart, series))
