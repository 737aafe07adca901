"""Momentum as a spectral filter: heavy ball and Nesterov step by step, and their oscillator in continuous time.

A preconditioned method, such as Adam's or Newton's, is no filter of Θ: it trains with another kernel, J P Jᵀ.
"""

from math import factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Integer

from lib.checks import as_numbers, check_steps, known
from lib.training.filters import Filter, horner, mean_decay, not_negative, of_eigenvalues


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
        TypeError: when `steps` is not of an integer type, or a rate no real number.
        ValueError: when a step or the learning rate is below 0.

    Example:
        >>> heavy_ball(1.0, 0.5, jnp.arange(4)).residual(jnp.array([0.5])).ravel().tolist()
        [1.0, 0.5, 0.0, -0.25]

    Source: Lee et al. 2019, eqs S1-S2; Polyak 1964 (`polyak1964momentum`).
    """
    return _repeated(learning_rate, momentum, 0.0, 1.0, steps)


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
    return _repeated(learning_rate, momentum, 1.0, momentum, steps)


def momentum_flow(s: ArrayLike, *, momentum: ArrayLike, learning_rate: ArrayLike) -> Filter:
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

    Raises:
        TypeError: when an argument holds no real numbers.
        ValueError: when a time is below 0 or infinite, or the learning rate is not above 0.

    Example:
        >>> round(momentum_flow(jnp.pi, momentum=1.0, learning_rate=0.1).residual(jnp.ones(1)).item(), 6)  # cos π
        -1.0

    Source: Lee et al. 2019, eqs S3-S4.
    """
    leaves = as_numbers("s", s, least=0), as_numbers("momentum", momentum), as_numbers("learning_rate", learning_rate)
    if known(jnp.isinf(leaves[0]).any()):
        raise ValueError("`s` must be finite, got inf; the limit is that of `flow(jnp.inf)`")
    if known((leaves[2] <= 0).any()):
        raise ValueError(f"`learning_rate` must be above 0, got {leaves[2].min()}; it decides the damping")
    return Filter(Partial(_oscillator_residual, *leaves), Partial(_oscillator_response, *leaves))


class _Step(NamedTuple):
    """u′ = u + now · (1 − xu) + ahead · v′, v′ = βv + (1 − xu), where u = h/η, x = ηλ, and v is the momentum."""

    learning_rate: ArrayLike
    momentum: ArrayLike
    now: ArrayLike
    ahead: ArrayLike

    def change(self, eigenvalues: Float[Array, " n"]) -> Float[Array, "3 3 n"]:
        """S, the step on (u, v, 1), with a 1 taken from S₀₀ = 1 − (now + ahead) x, beside which a slow x would vanish.

        Without the 1 the same map takes (1, 0) to the residual: the first row of Sⁱ holds both g and h/η.
        """
        eta, beta, now, ahead = (jnp.asarray(value, eigenvalues.dtype) for value in self)
        x = eta * not_negative(eigenvalues)
        rows = [[-(now + ahead) * x, ahead * beta, now + ahead], [-x, beta, 1.0], [0.0, 0.0, 1.0]]
        return jnp.stack([jnp.stack([x * 0 + entry for entry in row]) for row in rows])


def _repeated(
    learning_rate: ArrayLike, momentum: ArrayLike, now: ArrayLike, ahead: ArrayLike, steps: ArrayLike
) -> Filter:
    """The filter of as many of these steps, from rest."""
    rates = as_numbers("learning_rate", learning_rate, least=0), as_numbers("momentum", momentum)
    leaves = _Step(*rates, as_numbers("now", now), as_numbers("ahead", ahead)), check_steps(steps)
    return Filter(Partial(_repeated_residual, *leaves), Partial(_repeated_response, *leaves))


@of_eigenvalues
def _repeated_residual(
    step: _Step, steps: Integer[Array, "*steps"], eigenvalues: Float[Array, " n"]
) -> Float[Array, "*steps n"]:
    row, near = _first_row(step.change(eigenvalues), steps)
    return near + row[0]


@of_eigenvalues
def _repeated_response(
    step: _Step, steps: Integer[Array, "*steps"], eigenvalues: Float[Array, " n"]
) -> Float[Array, "*steps n"]:
    row, _ = _first_row(step.change(eigenvalues), steps)
    return jnp.asarray(step.learning_rate, eigenvalues.dtype) * row[2]


def _first_row(
    change: Float[Array, "3 3 n"], count: Integer[Array, "*t"]
) -> tuple[Float[Array, "3 *t n"], Float[Array, "*t n"]]:
    """The first row of Sⁱ by repeated squaring, given S, and what was taken from its first entry, 1 or 0.

    Powers are stored as D + P with D = diag(c, 0, 0). A mode begins with c = 1, where P₀₀ is a small change, and goes
    over to c = 0 once that is no longer small, where Sⁱ itself may become so: each keeps its digits. The small axes
    come first, so that products are sums of long vectors.
    """
    times, identity = (1,) * count.ndim, jnp.eye(3, dtype=change.dtype)[..., None]
    first = identity[0]
    product = lambda row, matrix: sum(row[j] * matrix[j] for j in range(3))

    def double(carry, bit):
        row, near, power, c = carry
        used = (count >> bit & 1)[..., None] == 1
        power = jnp.where((count >> bit > 0).any(), power, 0.0)  # beyond the last it overflows, and so do gradients
        far = jnp.abs(power[0, 0]) > 0.5
        power, c = power.at[0, 0].add(jnp.where(far, c, 0.0)), jnp.where(far, 0.0, c)

        def multiplied():  # (c₁e₀ + row)(D + P) = c₁c e₀ + [c₁P₀ + c row₀e₀ + row P]
            spread = lambda x: x.reshape(*x.shape[:-1], *times, x.shape[-1])
            factor = jnp.where(used, spread(power), spread(identity - first * first[:, None]))
            kept = jnp.where(used, c, 1.0)
            return near * factor[0] + kept * row[0] * spread(first) + product(row, factor), near * kept

        squared = c * first[:, None] * power[0] + c * power[:, :1] * first
        squared = squared + jnp.stack([product(power[i], power) for i in range(3)])
        row, near = jax.lax.cond(used.any(), multiplied, lambda: (row, near))
        return (row, near, squared, c), None

    near = jnp.ones((*count.shape, change.shape[-1]), change.dtype)
    start = jnp.zeros((3, *near.shape), change.dtype), near, change, jnp.ones_like(change[0, 0])
    bits = jnp.arange(int(jnp.iinfo(count.dtype).max).bit_length(), dtype=count.dtype)
    (row, near, *_), _ = jax.lax.scan(double, start, bits)
    return row, near


def _oscillation(p: Array, q: Array) -> Array:
    """g for p = −β̃s/2 and q = λs²; the roots times −s are p ± √(p² − q)."""
    z = p**2 - q
    root = jnp.sqrt(jnp.where(z > 1, z, 1.0))
    fast = p + root
    slow = q / fast  # = p − root without its cancellation
    apart = (fast * jnp.exp(-slow) - slow * jnp.exp(-fast)) / (2 * root)
    near = jnp.clip(z, -1.0, 1.0)  # here cosh √z and sinh √z/√z by their series, smooth at the double root
    even, odd = (horner([1 / factorial(2 * k + odd) for k in range(11)], near) for odd in (0, 1))
    angle = jnp.sqrt(jnp.where(z < -1, -z, 1.0))
    even = jnp.where(z < -1, jnp.cos(angle), even)
    odd = jnp.where(z < -1, jnp.sin(angle) / angle, odd)
    together = jnp.exp(-p) * (even + p * odd)
    return jnp.where(z > 1, apart, together)


def _displacement(p: Array, q: Array) -> Array:
    """h/s²: (1 − g)/q where 1 − g keeps its digits, else a difference of the two modes, or a power series in s."""
    z = p**2 - q
    root = jnp.sqrt(jnp.where(z > 1, z, 1.0))
    fast = p + root
    slow = q / fast
    apart = (mean_decay(slow) - mean_decay(fast)) / (2 * root)
    last, term = jnp.zeros_like(z), jnp.full_like(z, 0.5)
    series = term
    for j in range(3, 30):  # term_j of h/s² = Σ c_j s^{j−2}, from ḧ = 1 − 2pḣ − qh; here p < 1.5 and q < 1
        last, term = term, -(2 * p * (j - 1) * term + q * last) / (j * (j - 1))
        series += term
    direct = (1 - _oscillation(p, q)) / jnp.where(q >= 1, q, 1.0)
    return jnp.where((q >= 1) & ((z <= 1) | (slow >= 1)), direct, jnp.where(z > 1, apart, series))


@of_eigenvalues
def _oscillator_residual(
    s: ArrayLike, momentum: ArrayLike, learning_rate: ArrayLike, eigenvalues: Float[Array, " n"]
) -> Float[Array, "*s n"]:
    return _oscillation(*_scaled(s, momentum, learning_rate, eigenvalues)[1:])


@of_eigenvalues
def _oscillator_response(
    s: ArrayLike, momentum: ArrayLike, learning_rate: ArrayLike, eigenvalues: Float[Array, " n"]
) -> Float[Array, "*s n"]:
    time, p, q = _scaled(s, momentum, learning_rate, eigenvalues)
    return time**2 * _displacement(p, q)


def _scaled(
    s: ArrayLike, momentum: ArrayLike, learning_rate: ArrayLike, eigenvalues: Array
) -> tuple[Array, Array, Array]:
    """The time (..., 1), friction over it, p = −β̃s/2, and the spring's pull over it, q = λs²."""
    time, beta, eta = (jnp.asarray(value, eigenvalues.dtype) for value in (s, momentum, learning_rate))
    time = time[..., None]
    return time, (1 - beta) / (2 * jnp.sqrt(eta)) * time, not_negative(eigenvalues) * time**2
