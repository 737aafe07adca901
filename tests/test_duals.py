"""Duals against quadrature in the plane, Price's theorem, and themselves at singular points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from oracles import FUNCTIONS, expectation

from lib import duals

DUALS = {
    "relu": duals.relu,
    "erf": duals.erf,
    "identity": duals.identity,
    "tanh": lambda *k: duals.quadrature(*k, jnp.tanh),
    "sin": lambda *k: duals.quadrature(*k, jnp.sin),
}
every_dual = pytest.mark.parametrize("name", DUALS)


def scalars(*values):
    return [jnp.asarray(value) for value in values]


# Columns (k11, k12, k22): unequal variances, both signs, orthogonal, nearly parallel, large.
COVARIANCES = [(1.3, 0.4, 0.7), (0.2, -0.3, 1.9), (1.0, 0.0, 2.0), (1.0, 0.995, 1.0), (4.0, -3.0, 4.5)]


def covariances():
    return jnp.asarray(np.transpose(COVARIANCES))  # (3, cases)


@every_dual
def test_it_is_the_gaussian_expectation(name):
    t, t_dot = DUALS[name](*covariances())
    phi, slope = FUNCTIONS[name]
    np.testing.assert_allclose(t, [expectation(phi, *k) for k in COVARIANCES], **tolerance(t))
    np.testing.assert_allclose(t_dot, [expectation(slope, *k) for k in COVARIANCES], **tolerance(t, scale=3))


@every_dual
def test_price(name, x64):
    """∂𝒯/∂k12 = 𝒯̇, by automatic differentiation and by differences of the value, which know no derivative rule."""
    k11, k12, k22 = covariances()
    value = lambda c: DUALS[name](k11, c, k22)[0]
    t_dot = DUALS[name](k11, k12, k22)[1]
    np.testing.assert_allclose(jax.grad(lambda c: value(c).sum())(k12), t_dot, rtol=1e-9)
    np.testing.assert_allclose(central_difference(value, k12, 1e-5), t_dot, rtol=1e-6)


@every_dual
@pytest.mark.parametrize("which", ["value", "derivative"])
def test_gradients_are_those_of_central_differences(name, which, x64):
    value = lambda k: DUALS[name](*k)[which == "derivative"]
    k = covariances()
    gradient = jax.grad(lambda k: value(k).sum())(k)
    for i, step in enumerate(1e-5 * jnp.eye(3)[:, :, None]):
        np.testing.assert_allclose(gradient[i], central_difference(value, k, step), rtol=1e-6, atol=1e-8)


def central_difference(f, at, step):
    return (f(at + step) - f(at - step)) / (2 * jnp.sum(step))


def test_relu_between_equal_inputs_is_exact():
    """𝒯 = k/2 and 𝒯̇ = 1/2 to the last bit, compiled or not: no square root of a rounding error."""
    k = jnp.asarray(np.geomspace(1e-3, 1e3, 101))
    for t, t_dot in (duals.relu(k, k, k), jax.jit(lambda k: duals.relu(k, k, k))(k)):
        np.testing.assert_allclose(t, k / 2, rtol=4 * float(jnp.finfo(k.dtype).eps))
        np.testing.assert_array_equal(t_dot, 0.5)


def test_relu_between_nearly_equal_inputs_keeps_half_the_digits(x64):
    """The rounded cosine of an angle of 1e-6 knows it to 1e-4 of itself, and nothing more is lost on the way to 𝒯̇."""
    angle = 1e-6
    t_dot = duals.relu(*scalars(1.0, np.cos(angle), 1.0))[1]
    np.testing.assert_allclose(0.5 - t_dot, angle / (2 * np.pi), rtol=1e-4)


def test_erf_at_large_variance_keeps_its_digits():
    """(1 + 2k)² − 4k² = 1 + 4k, which by subtraction has no digits left in float32 at k = 10⁴."""
    k = jnp.float32(1e4)
    for t, t_dot in (duals.erf(k, k, k), jax.jit(lambda k: duals.erf(k, k, k))(k)):
        np.testing.assert_allclose(t, 2 / np.pi * np.arctan2(2e4, np.sqrt(40001.0)), rtol=1e-6)
        np.testing.assert_allclose(t_dot, 4 / np.pi / np.sqrt(40001.0), rtol=1e-6)


@every_dual
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_value_and_gradient_are_finite_at_singular_points(name, dtype, x64):
    """Equal, opposite and parallel inputs, zero vectors; eager and compiled, whose rounding differs."""
    points = [(1.3, 1.3, 1.3), (1.3, -1.3, 1.3), (2.0, 1.0, 0.5), (0, 0, 0), (0, 0, 1), (1, 0, 0), (1e-30,) * 3]
    k = jnp.asarray(np.transpose(points), dtype)
    value_and_gradient = lambda k: jax.vjp(lambda k: DUALS[name](*k), k)
    for value, pull_back in (value_and_gradient(k), jax.jit(value_and_gradient)(k)):
        assert np.isfinite(value).all()
        for one_of_two in [(1.0, 0.0), (0.0, 1.0)]:
            (gradient,) = pull_back(tuple(jnp.full_like(k[0], c) for c in one_of_two))
            assert np.isfinite(gradient).all()


@every_dual
def test_a_zero_vector_gives_what_phi_gives_at_zero(name):
    phi, _ = FUNCTIONS[name]
    t, _ = DUALS[name](*scalars(0.0, 0.0, 1.7))
    np.testing.assert_allclose(t, expectation(phi, 0.0, 0.0, 1.7), **tolerance(t))


def test_quadrature_sees_a_slope_at_a_zero_vector(x64):
    """Near u = 0, E[sin u sin v] = k12 e^{−k22/2}: the gradient to k12 is not 0 where the correlation is undefined."""
    gradient = jax.grad(lambda c: DUALS["sin"](*scalars(0.0, c, 1.0))[0])(0.0)
    np.testing.assert_allclose(gradient, np.exp(-0.5), rtol=1e-12)


@every_dual
def test_arguments_broadcast(name):
    k11, k22 = jnp.asarray([[0.5], [1.0]]), jnp.asarray([[0.7, 0.9, 1.1]])
    k12 = 0.5 * jnp.sqrt(k11 * k22)
    for k12_shape in (k12, jnp.zeros(())):
        t, t_dot = DUALS[name](k11, k12_shape, k22)
        assert t.shape == t_dot.shape == (2, 3)
    t, t_dot = DUALS[name](k11, k12, k22)
    one = DUALS[name](k11[1, 0], k12[1, 2], k22[0, 2])
    np.testing.assert_allclose((t[1, 2], t_dot[1, 2]), one, **tolerance(t))


@every_dual
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_follows_the_inputs(name, dtype, x64):
    k = jnp.asarray(0.5, dtype)
    assert {t.dtype for t in DUALS[name](k, k / 2, k)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(("k", "t_error", "t_dot_error"), [(4, 1e-13, 1e-11), (9, 1e-8, 1e-6), (25, 1e-5, 1e-4)])
def test_errors_of_the_quadrature_are_those_documented(k, t_error, t_dot_error, x64):
    phi, slope = FUNCTIONS["tanh"]
    for rho in (0.5, 0.99, 1.0):
        t, t_dot = DUALS["tanh"](*scalars(float(k), rho * k, float(k)))
        assert abs(t - expectation(phi, k, rho * k, k, nodes=500)) < t_error
        assert abs(t_dot - expectation(slope, k, rho * k, k, nodes=500)) < t_dot_error


def test_what_the_quadrature_cannot_do_with_a_kink(x64):
    """For |u|, between exact limits at ρ = ±1, errors reach (1e-3, 2e-2) and gradients of 𝒯̇ miss φ″."""
    correlation = np.array([0.0, 0.5, 0.9, 0.99, 0.999])
    one, rho = jnp.ones(5), jnp.asarray(correlation)
    t, t_dot = duals.quadrature(one, rho, one, jnp.abs)
    exact, exact_dot = (
        2 / np.pi * (np.sqrt(1 - correlation**2) + correlation * np.arcsin(correlation)),
        2 / np.pi * np.arcsin(correlation),
    )
    assert 1e-4 < abs(t - exact).max() < 1.1e-3
    assert 1e-3 < abs(t_dot - exact_dot).max() < 2e-2
    assert (
        jax.grad(lambda c: duals.quadrature(one[0], c, one[0], jnp.abs)[1])(jnp.asarray(0.5)) == 0
    )  # where it is 0.73
