"""Quadrature at every variance and correlation, against closed forms; and where it says that it does not know."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import FUNCTIONS, expectation

from lib.infinite import duals
from lib.infinite.quadrature import dual_by_quadrature
from lib.networks.activations import tanh
from lib.networks.architectures import fully_connected

VARIANCES = [1e-12, 1.0, 100.0, 1e5, 1e8]
CORRELATIONS = [-1, -0.9, 0, 0.5, 0.97, 0.9999, 1 - 1e-9, 1]


def pairs(dtype):
    """(k11, k12, k22) of all variances and correlations, with equal and with different variances."""
    k, ratio, rho = (a.ravel() for a in np.meshgrid(VARIANCES, [1.0, 0.01], CORRELATIONS))
    k11, k22 = jnp.asarray(k, dtype), jnp.asarray(k * ratio, dtype)
    equal = (rho == 1) & (ratio == 1)
    return k11, jnp.where(equal, k11, jnp.asarray(rho, dtype) * jnp.sqrt(k11) * jnp.sqrt(k22)), k22


def value_and_gradient(dual):
    """𝒯, 𝒯̇, and the gradient of 𝒯 + 𝒯̇ to the variances and the covariance, of every pair."""

    @jax.jit
    def numbers(*k):
        return dual(*k), jax.grad(lambda k: sum(t.sum() for t in dual(*k)))(k)

    return numbers


def test_erf_by_quadrature_is_its_closed_form_at_every_variance(x64):
    """To 1e-6 from variance 1e-12 to 1e8. What is not known is NaN: the slope of erf, e^{−u²}, is none too smooth."""
    k = pairs(float)
    (t, t_dot), gradient = value_and_gradient(partial(dual_by_quadrature, phi=jax.scipy.special.erf))(*k)
    (exact, exact_dot), exact_gradient = value_and_gradient(duals.erf)(*k)
    own = [np.sqrt(np.multiply(a, b)) for a, b in zip(*(duals.erf(a, a, a) for a in (k[0], k[2])), strict=True)]
    for ours, right, size in [(t, exact, own[0]), (t_dot, exact_dot, own[1])]:
        known = ~np.isnan(ours)
        np.testing.assert_array_less(abs(ours - right)[known], (1e-6 * size)[known])
        assert known.mean() > 0.9
    for ours, right in zip(gradient, exact_gradient, strict=True):
        # Near ρ = ±1 the gradient of 𝒯̇ is as large as it gets, and a difference.
        rows = lambda a: np.reshape(a, (-1, len(CORRELATIONS)))
        size = np.max(abs(rows(right)), 1, keepdims=True)
        known = ~np.isnan(rows(ours))
        np.testing.assert_array_less(np.where(known, abs(rows(ours) - rows(right)) / size, 0), 1e-5)
        assert known.mean() > 0.8


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tanh_is_known_at_every_variance_and_correlation(dtype, x64):
    k = pairs(dtype)
    (t, t_dot), gradient = value_and_gradient(partial(dual_by_quadrature, phi=jnp.tanh))(*k)
    for numbers in (t, t_dot, *gradient):
        assert np.isfinite(numbers).all()
        assert numbers.dtype == dtype
    largest = np.isclose(k[0], 1e8) & np.isclose(k[2], 1e8)
    # E[sech⁴] = 4/3 / √(2πk), and the arc-sine law of signs, whose slope is 4 δδ.
    np.testing.assert_allclose(t_dot[largest][-1], 4 / 3 / np.sqrt(2e8 * np.pi), rtol=2e-6)
    rho = np.asarray(CORRELATIONS)[1:6]
    np.testing.assert_allclose(t[largest][1:6], 2 / np.pi * np.arcsin(rho), atol=1e-5)
    np.testing.assert_allclose(t_dot[largest][1:5], 2 / np.pi / 1e8 / np.sqrt(1 - rho[:4] ** 2), rtol=1e-5)


@pytest.mark.parametrize(("k", "t_error", "t_dot_error"), [(4, 1e-13, 1e-11), (9, 1e-9, 1e-9), (25, 1e-9, 1e-9)])
def test_tanh_against_quadrature_in_the_plane(k, t_error, t_dot_error, x64):
    phi, slope = FUNCTIONS["tanh"]
    for rho in (0.5, 0.99, 1.0):
        t, t_dot = dual_by_quadrature(*map(jnp.asarray, (float(k), rho * k, float(k))), jnp.tanh)
        assert abs(t - expectation(phi, k, rho * k, k, nodes=500)) < t_error
        assert abs(t_dot - expectation(slope, k, rho * k, k, nodes=500)) < t_dot_error


def test_inputs_that_nobody_standardised():
    """On inputs thirty times too large, two layers of tanh are a dual by a rule of its own, four times over."""
    x = 30 * jnp.asarray([[1.0, 0.5, -1.0], [0.9, 0.6, -1.0]])
    ours = fully_connected(8, 1, 1, tanh, 1.5, 0.1).kernel(x)
    k = 2.25 * np.asarray(x, float) @ np.asarray(x, float).T / 3 + 0.01
    for i, j in ((0, 0), (0, 1)):
        u, w = graded_rule(k[i, i])
        ratio = k[i, j] / k[i, i]
        phi, slope = np.tanh, lambda u: 1 - np.tanh(u) ** 2
        t, t_dot = (
            np.sum(w * f(u) * conditional(f, ratio * u, max(k[j, j] - ratio * k[i, j], 0))) for f in (phi, slope)
        )
        np.testing.assert_allclose(ours.nngp[i, j], 2.25 * t + 0.01, rtol=3e-4)
        np.testing.assert_allclose(ours.ntk[i, j], 2.25 * t + 0.01 + 2.25 * t_dot * k[i, j], rtol=3e-4)


def graded_rule(k):
    """A trapezoidal rule for N(0, k) in sinh⁻¹ u."""
    t = np.linspace(-12, 12, 6001)
    u = np.sinh(t)
    return u, (t[1] - t[0]) * np.cosh(t) * np.exp(-(u**2) / (2 * k)) / np.sqrt(2 * np.pi * k)


def conditional(f, mean, variance):
    """E[f(v)] for v ~ N(mean, variance), by the trapezoidal rule."""
    z = np.linspace(-9, 9, 2001)
    w = (z[1] - z[0]) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return f(mean[:, None] + np.sqrt(variance) * z) @ w


def test_a_kink_at_0_is_known_and_its_point_mass_is_not(x64):
    """|u| is known to 1e-6, its slope to 1e-5; what would need E[δ(u) …] is NaN, not the 0 that its derivative says."""
    rho = jnp.asarray([0.0, 0.5, 0.9, 0.99, 0.999, 1.0])
    one = jnp.ones(6)
    t, t_dot = jax.jit(partial(dual_by_quadrature, phi=jnp.abs))(one, rho, one)
    exact, exact_dot = duals.leaky_relu(one, rho, one, -1.0)
    np.testing.assert_allclose(t, exact, atol=1e-6)
    np.testing.assert_allclose(t_dot, exact_dot, atol=1e-5)
    assert np.isnan(jax.grad(lambda c: dual_by_quadrature(one[0], c, one[0], jnp.abs)[1])(rho[1]))
    np.testing.assert_allclose(
        jax.grad(lambda c: dual_by_quadrature(one[0], c, one[0], jnp.abs)[0])(rho[1]), exact_dot[1], atol=1e-6
    )


@pytest.mark.parametrize(
    ("phi", "k", "known"),
    [
        (lambda u: jnp.abs(u - 1), 1.0, (False, False)),  # a kink elsewhere
        (jnp.sign, 1.0, (True, False)),  # a jump, whose slope is a point mass
        (jnp.sin, 1e6, (False, False)),  # more waves than nodes
        (jnp.exp, 400.0, (False, False)),  # an expectation from 20 and 40 deviations away
        (jnp.exp, 1e8, (False, False)),  # overflow
        (lambda u: jnp.tanh(1e4 * u), 1e8, (True, False)),  # finer than the finest panel
    ],
)
def test_what_is_not_known_is_not_a_number(phi, k, known, x64):
    k = jnp.asarray(k)
    for k12 in (k, k / 2):
        numbers = dual_by_quadrature(k, k12, k, phi)
        assert tuple(bool(np.isfinite(t)) for t in numbers) == known


def test_ordinary_pairs_wait_for_no_other():
    """The loop over pairs that need the plane is one over none, also where kernels are mapped over."""
    k = jnp.ones((3, 4, 4))
    mapped = jax.jit(jax.vmap(lambda k12: dual_by_quadrature(jnp.ones((4, 1)), k12, jnp.ones((1, 4)), jnp.tanh)))(k / 2)
    alone = dual_by_quadrature(jnp.ones(()), jnp.ones(()) / 2, jnp.ones(()), jnp.tanh)
    for all_of_them, one in zip(mapped, alone, strict=True):
        np.testing.assert_allclose(all_of_them, jnp.full_like(k, one), rtol=2e-5)


@pytest.mark.parametrize(
    ("phi", "k", "rho"),
    [(jnp.exp, 20.0, 0.5), (jnp.exp, 20.0, 0.0), (jnp.exp, 30.0, -0.3), (lambda u: u**8, 1e4, 0.0)],
    ids=["exp", "exp, uncorrelated", "exp, negative", "eighth power"],
)
def test_what_is_too_large_to_be_squared_is_not_zero(phi, k, rho):
    """In single precision E[φ²] overflows where E[φ(u) φ(v)] need not."""
    k = jnp.float32(k)
    assert np.isnan(dual_by_quadrature(k, rho * k, k, phi)[0])


@pytest.mark.parametrize("phi", [jnp.abs, jax.nn.relu])
def test_a_kink_is_known_between_nearly_parallel_inputs(phi, x64):
    """Whose signs differ within an angle of √(1 − ρ²), which nodes on the scale of φ would not see."""
    k11, k22 = jnp.asarray([(1.0, 1.0), (2.0, 1.0), (0.01, 1.0), (1.0, 0.01), (1e4, 1.0)]).T[..., None]
    k12 = (1 - jnp.asarray([1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-11])) * jnp.sqrt(k11 * k22)
    found = jax.jit(partial(dual_by_quadrature, phi=phi))(k11, k12, k22)
    expected = duals.leaky_relu(k11, k12, k22, 0.0 if phi is jax.nn.relu else -1.0)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_the_order_of_two_inputs_does_not_matter(x64):
    """Of the most different variances, parallel and not, against the closed form of erf; NaN is rare."""
    rng = np.random.default_rng(0)
    k11, k22 = 10 ** rng.uniform(-12, 8, (2, 60))
    rho = rng.choice([1, -1, 1 - 1e-3, -(1 - 1e-6), 0.99, 1 - 1e-9], 60)
    k12 = rho * np.sqrt(k11) * np.sqrt(k22)
    dual = jax.jit(partial(dual_by_quadrature, phi=jax.scipy.special.erf))
    k11, k12, k22 = map(jnp.asarray, (k11, k12, k22))
    exact = duals.erf(k11, k12, k22)
    sizes = [np.sqrt(a * b) for a, b in zip(duals.erf(k11, k11, k11), duals.erf(k22, k22, k22), strict=True)]
    for found in (dual(k11, k12, k22), dual(k22, k12, k11)):
        for one, other, size in zip(found, exact, sizes, strict=True):
            assert np.mean(np.isnan(one)) < 0.05
            assert np.nanmax(abs(one - other) / size) < 1e-6
