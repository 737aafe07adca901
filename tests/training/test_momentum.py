"""Momentum against its own steps, Optax's, matrix exponentials, and the continuous limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm
from tolerances import tolerance

from lib import descent, flow, heavy_ball, max_learning_rate, momentum_flow, nesterov

BOTH = pytest.mark.parametrize("method", [heavy_ball, nesterov])


def limit(method, beta):
    """The largest ηλ that converges."""
    return 2 * (1 + beta) / (1 + 2 * beta if method is nesterov else 1)


def modes(method, beta):
    """ηλ of dead, slow, creeping, critical, oscillating and nearly unstable modes."""
    critical = (1 - np.sqrt(beta)) ** 2 / (1 if method is heavy_ball else np.sqrt(beta) ** 2 + 1e-300)
    inside = [0.0, 1e-14, 1e-6, 1e-3, critical, critical * (1 + 1e-9), 0.1, 0.47, 1.03, 0.97 * limit(method, beta)]
    return np.array([x for x in inside if x < limit(method, beta)])


def run(method, eta, beta, modes, steps):
    """g and h after every step, from the velocity form in extended precision: v ← βv + ∇L, θ ← θ − ηv or its like."""
    lam = modes.astype(np.longdouble)
    g, h, v = np.ones_like(lam), np.zeros_like(lam), np.zeros_like(lam)
    visited = [(g, h)]
    for _ in range(steps):
        v = beta * v + g
        change = eta * (v if method is heavy_ball else g + beta * v)
        g, h = g - lam * change, h + change
        visited.append((g, h))
    return np.array(visited).swapaxes(0, 1)


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_every_step_is_the_optimisers_own(x64, method, beta):
    """At 0, 1, 2, 57 and 300 steps, in every regime of damping; small residuals to their last digits."""
    steps, eta = np.array([0, 1, 2, 57, 300]), 0.25
    lam = modes(method, beta) / eta
    g, h = run(method, eta, beta, lam, 300)
    filtered = method(eta, beta, steps)
    np.testing.assert_allclose(filtered.residual(jnp.array(lam)), g[steps].astype(float), rtol=1e-9, atol=1e-20)
    np.testing.assert_allclose(filtered.response(jnp.array(lam)), h[steps].astype(float), rtol=1e-11)


@BOTH
def test_it_is_what_optax_does(method):
    optimizer = optax.sgd(0.2, momentum=0.8, nesterov=method is nesterov)
    lam = jnp.array([0.0, 0.05, 1.0, 4.0])

    def step(carry, _):
        h, state = carry
        updates, state = optimizer.update(lam * h - 1, state)
        return (h + updates, state), h + updates

    start = jnp.zeros_like(lam)
    _, h = jax.lax.scan(step, (start, optimizer.init(start)), length=57)
    filtered = method(0.2, 0.8, jnp.arange(1, 58))
    np.testing.assert_allclose(filtered.response(lam), h, **tolerance(lam, scale=10))
    np.testing.assert_allclose(filtered.residual(lam), 1 - lam * h, **tolerance(lam, scale=10))


@BOTH
def test_without_momentum_it_is_descent(method):
    lam, steps = jnp.array([0.0, 1e-14, 1e-3, 0.5, 2.0, 3.9, 4.1]), jnp.array([0, 1, 7, 300])
    ours, plain = method(0.5, 0.0, steps), descent(0.5, steps)
    np.testing.assert_allclose(ours.residual(lam), plain.residual(lam), **tolerance(lam, scale=100))
    np.testing.assert_allclose(ours.response(lam), plain.response(lam), **tolerance(lam, scale=100))


@BOTH
def test_dead_and_nearly_dead_modes_keep_their_digits(method):
    """At λ = 0 nothing pulls back: h_i = η Σ_j (1 + β + ... ), summed here; dividing 1 − g by 1e-14 would lose it."""
    beta, eta, i = 0.9, 0.1, 100
    velocity = np.cumsum(beta ** np.arange(i))
    expected = eta * (velocity.sum() if method is heavy_ball else (1 + beta * velocity).sum())
    h = method(eta, beta, i).response(jnp.array([0.0, 1e-14, -1.0]))
    np.testing.assert_allclose(h, expected, **tolerance(h))


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_it_converges_below_the_largest_learning_rate_and_diverges_above(x64, method, beta):
    eta = max_learning_rate(jnp.diag(jnp.array([0.3, 2.0])), beta, nesterov=method is nesterov)
    assert float(eta) * 2.0 == pytest.approx(limit(method, beta))
    left = lambda scale: float(abs(method(scale * eta, beta, 3000).residual(jnp.array([2.0]))[0]))
    assert left(0.99) < 1e-6 and left(1.01) > 1e6


def test_float32_follows_slow_modes_for_many_steps():
    """A mode with ηλ = 3e-8 is 1 − ηλ = 1 in single precision, yet learns over 2^25 steps."""
    g = heavy_ball(1.0, 0.0, 2**25).residual(jnp.array([3e-8], jnp.float32))
    assert float(g[0]) == pytest.approx(np.exp(-(2**25) * 3e-8), rel=1e-4)


def test_the_flow_is_the_matrix_exponential(x64):
    """(h, ḣ, 1) obeys a linear equation. Oscillating, creeping, critical and undamped modes, early and late."""
    for beta, eta in ((0.0, 0.04), (0.9, 0.01), (0.9, 1.0), (1.0, 0.1)):
        gamma = (1 - beta) / (2 * np.sqrt(eta))
        lam = np.array([0.0, 1e-14, 1e-6, 0.01, 1.0, 30.0, *(gamma**2 * np.array([0.99, 1 - 1e-9, 1, 1 + 1e-9, 1.01]))])
        times = np.array([0.0, 1e-3, 0.4, 1.3, 4.0, 25.0])
        moved = np.array(
            [[expm(s * np.array([[0, 1, 0], [-x, -2 * gamma, 1], [0, 0, 0]]))[0] for x in lam] for s in times]
        )
        filtered = momentum_flow(times, momentum=beta, learning_rate=eta)
        g = np.array([[expm(s * np.array([[0, 1], [-x, -2 * gamma]]))[0, 0] for x in lam] for s in times])
        np.testing.assert_allclose(filtered.residual(jnp.array(lam)), g, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(filtered.response(jnp.array(lam)), moved[..., 2], rtol=1e-9, atol=1e-12)


def test_the_flow_has_no_seams():
    """Where one way of computing g and h hands over to another, nothing jumps: neighbours in λ, and double roots."""
    lam = jnp.linspace(0, 4, 4001)
    for s in (0.5, 1.9, 2.1, 6.0):
        for values in momentum_flow(s, momentum=0.0, learning_rate=1.0):
            bend = jnp.abs(jnp.diff(values(lam), 2))
            assert float(bend.max()) < 1e-7 * s**4 + float(tolerance(lam)["atol"]) * s**2


def test_under_strong_friction_the_flow_is_that_without_momentum(x64):
    """One root is −λ√η, the other −1/√η: as their half-sum and half-difference the first would have two digits left."""
    eta, lam, t = 1e-14, jnp.array([0.3, 1.0, 7.0]), 2.0
    strong, without = momentum_flow(t / eta**0.5, momentum=0.0, learning_rate=eta), flow(t)
    np.testing.assert_allclose(strong.residual(lam), without.residual(lam), rtol=1e-11)
    np.testing.assert_allclose(strong.response(lam), without.response(lam), rtol=1e-11)


def test_small_steps_tend_to_the_flow(x64):
    """β = 1 + β̃√η at fixed β̃: the error is in proportion to √η."""
    lam, gaps = jnp.array([0.1, 1.0, 9.0]), []
    for n in (40, 80):
        root, s = 2.0 / n, 2.0
        beta = 1 - 1.5 * root
        discrete, limiting = heavy_ball(root**2, beta, n), momentum_flow(s, momentum=beta, learning_rate=root**2)
        gaps.append([float(abs(a(lam) - b(lam)).max()) for a, b in zip(discrete, limiting, strict=True)])
    np.testing.assert_allclose(np.divide(*gaps), 2, rtol=0.1)


def test_shapes_dtypes_and_traced_steps():
    lam = jnp.array([0.0, 1.0], jnp.float32)
    for filtered in (
        heavy_ball(np.float64(0.1), np.float64(0.9), np.arange(6).reshape(2, 3)),
        nesterov(np.float64(0.1), np.float64(0.9), np.arange(6).reshape(2, 3)),
        momentum_flow(np.arange(6.0).reshape(2, 3), momentum=np.float64(0.9), learning_rate=np.float64(0.1)),
    ):
        for values in filtered:
            assert values(lam).shape == (2, 3, 2) and values(lam).dtype == jnp.float32
    traced = jax.jit(lambda i: heavy_ball(0.1, 0.9, i).residual(lam))(jnp.array([3, 4]))
    np.testing.assert_allclose(traced, heavy_ball(0.1, 0.9, jnp.array([3, 4])).residual(lam), **tolerance(lam))


def test_the_flow_takes_its_rates_by_name():
    """`heavy_ball` has them in another order: without their names a swap would be silent."""
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        momentum_flow(1.0, 0.9, 0.1)


@BOTH
def test_steps_must_be_integers_from_zero(method):
    with pytest.raises(TypeError, match="`steps` must be an integer"):
        method(0.1, 0.9, 2.0)
    with pytest.raises(ValueError, match="`steps` must be 0 or more, got -3"):
        method(0.1, 0.9, jnp.array([2, -3]))
