"""Duals against quadrature in the plane, Price's theorem, and themselves at singular points."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import FUNCTIONS, expectation
from tolerances import tolerance

from lib.infinite import duals, smooth_duals
from lib.infinite.quadrature import dual_by_quadrature

DUALS = {
    "relu": duals.relu,
    "leaky_relu": partial(duals.leaky_relu, slope=0.1),
    "absolute": partial(duals.leaky_relu, slope=-1.0),
    "erf": duals.erf,
    "sigmoid_like": duals.sigmoid_like,
    "identity": duals.identity,
    "gelu": smooth_duals.gelu,
    "gaussian": smooth_duals.gaussian,
    "sin": smooth_duals.sin,
    "cos": smooth_duals.cos,
    "polynomial": lambda *k: smooth_duals.polynomial(*k, 1, 0, -0.5, 0.2),
    "tanh": partial(dual_by_quadrature, phi=jnp.tanh),
    "gabor": partial(dual_by_quadrature, phi=lambda u: jnp.exp(-(u**2)) * jnp.sin(u)),
}


def every_dual(f, compile=jax.jit):
    """(name, f(dual, *arguments)) of every dual, from one compiled program."""
    return lambda *arguments: compile(lambda *a: {name: f(dual, *a) for name, dual in DUALS.items()})(
        *arguments
    ).items()


def scalars(*values):
    return [jnp.asarray(value) for value in values]


# Columns (k11, k12, k22): unequal variances, both signs, orthogonal, nearly parallel, large.
COVARIANCES = [(1.3, 0.4, 0.7), (0.2, -0.3, 1.9), (1.0, 0.0, 2.0), (1.0, 0.995, 1.0), (4.0, -3.0, 4.5)]


def covariances():
    return jnp.asarray(np.transpose(COVARIANCES))  # (3, cases)


def test_they_are_the_gaussian_expectations():
    for name, (t, t_dot) in every_dual(lambda dual, k: dual(*k))(covariances()):
        phi, slope = FUNCTIONS[name]
        expected = [[expectation(f, *k) for k in COVARIANCES] for f in (phi, slope)]
        np.testing.assert_allclose(t, expected[0], err_msg=name, **tolerance(t, scale=3))
        np.testing.assert_allclose(t_dot, expected[1], err_msg=name, **tolerance(t, scale=3))


def test_price(x64):
    """∂𝒯/∂k12 = 𝒯̇, by automatic differentiation and by differences of the value, which know no derivative rule."""

    def slopes(dual, k11, k12, k22):
        value = lambda c: dual(k11, c, k22)[0]
        automatic = jax.grad(lambda c: value(c).sum())(k12)
        return dual(k11, k12, k22)[1], automatic, central_difference(value, k12, 1e-5)

    for name, (t_dot, automatic, difference) in every_dual(slopes)(*covariances()):
        np.testing.assert_allclose(automatic, t_dot, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(difference, t_dot, rtol=1e-6, atol=1e-9, err_msg=name)


def test_gradients_are_those_of_central_differences(x64):
    """Of 𝒯 and 𝒯̇, to each of k11, k12 and k22."""

    def gradients(dual, k):
        both = lambda k: jnp.stack(dual(*k))
        automatic = jnp.stack([jax.grad(lambda k, i=i: both(k)[i].sum())(k) for i in (0, 1)])
        return automatic, [central_difference(both, k, step) for step in 1e-5 * jnp.eye(3)[:, :, None]]

    for name, (automatic, differences) in every_dual(gradients)(covariances()):
        np.testing.assert_allclose(automatic, np.stack(differences, axis=1), rtol=1e-6, atol=1e-8, err_msg=name)


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


def test_the_arctangent_of_single_precision_is_as_accurate_as_its_digits():
    """Angles from 10⁻³ to π, each to a few roundings; half of them by the polynomial of 1/tan."""
    angle = np.linspace(1e-3, np.pi - 1e-3, 20001)
    k12 = jnp.asarray(np.cos(angle), jnp.float32)
    theta, _ = duals._angle(jnp.float32(1), k12, jnp.float32(1))
    np.testing.assert_allclose(theta, np.arccos(np.asarray(k12, float)), rtol=5e-7)


def test_erf_at_large_variance_keeps_its_digits():
    """(1 + 2k)² − 4k² = 1 + 4k, which by subtraction has no digits left in float32 at k = 10⁴."""
    k = jnp.float32(1e4)
    for t, t_dot in (duals.erf(k, k, k), jax.jit(lambda k: duals.erf(k, k, k))(k)):
        np.testing.assert_allclose(t, 2 / np.pi * np.arctan2(2e4, np.sqrt(40001.0)), rtol=1e-6)
        np.testing.assert_allclose(t_dot, 4 / np.pi / np.sqrt(40001.0), rtol=1e-6)


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_value_and_gradient_are_finite_at_singular_points(dtype, compile, x64):
    """Equal, opposite and parallel inputs, zero vectors; eager and compiled, whose rounding differs."""
    points = [(1.3, 1.3, 1.3), (1.3, -1.3, 1.3), (2.0, 1.0, 0.5), (0, 0, 0), (0, 0, 1), (1, 0, 0), (1e-30,) * 3]

    def value_and_gradients(dual, k):
        value, pull_back = jax.vjp(lambda k: dual(*k), k)
        return value, [pull_back(tuple(jnp.full_like(k[0], c) for c in one)) for one in [(1.0, 0.0), (0.0, 1.0)]]

    for name, numbers in every_dual(value_and_gradients, compile)(jnp.asarray(np.transpose(points), dtype)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)), name


def test_a_zero_vector_gives_what_phi_gives_at_zero():
    for name, (t, _) in every_dual(lambda dual, *k: dual(*k))(*scalars(0.0, 0.0, 1.7)):
        phi, _ = FUNCTIONS[name]
        np.testing.assert_allclose(t, expectation(phi, 0.0, 0.0, 1.7), err_msg=name, **tolerance(t))


def test_quadrature_sees_a_slope_at_a_zero_vector(x64):
    """Near u = 0, E[sin u sin v] = k12 e^{−k22/2}: the gradient to k12 is not 0 where the correlation is undefined."""
    gradient = jax.grad(lambda c: dual_by_quadrature(*scalars(0.0, c, 1.0), jnp.sin)[0])(0.0)
    np.testing.assert_allclose(gradient, np.exp(-0.5), rtol=1e-12)


def test_sines_of_small_and_of_large_inputs_keep_their_digits():
    """e^{−k} sinh k12 loses them to a difference at k12 = 10⁻⁶, and is 0 × ∞ at 10³."""
    t, t_dot = smooth_duals.sin(*(jnp.asarray([1e-6, 1e3]) for _ in range(3)))
    np.testing.assert_allclose(t, [1e-6 - 1e-12, 0.5], rtol=1e-6)
    np.testing.assert_allclose(t_dot, [1 - 1e-6, 0.5], rtol=1e-6)


def test_arguments_broadcast():
    k11, k22 = jnp.asarray([[0.5], [1.0]]), jnp.asarray([[0.7, 0.9, 1.1]])
    k12 = 0.5 * jnp.sqrt(k11 * k22)

    def shapes(dual):
        return dual(k11, jnp.zeros(()), k22), dual(k11, k12, k22), dual(k11[1, 0], k12[1, 2], k22[0, 2])

    for name, (uncorrelated, (t, t_dot), one) in every_dual(shapes)():
        assert {a.shape for a in (*uncorrelated, t, t_dot)} == {(2, 3)}, name
        np.testing.assert_allclose((t[1, 2], t_dot[1, 2]), one, err_msg=name, **tolerance(t))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_follows_the_inputs(dtype, x64):
    k = jnp.asarray(0.5, dtype)
    for name, pair in every_dual(lambda dual: dual(k, k / 2, k), lambda f: partial(jax.eval_shape, f))():
        assert {t.dtype for t in pair} == {jnp.dtype(dtype)}, name


def test_no_variance_is_too_small_or_too_large_for_single_precision(x64):
    """From 10⁻³⁷ to 10³⁷ values and gradients are those of double precision, where nothing over- or underflows."""
    sizes = [1e-37, 1e-12, 1.0, 1e4, 1e12, 1e37]
    k11, k22, rho = (a.ravel() for a in np.meshgrid(sizes, sizes, [-0.9, 0.0, 0.3, 0.9]))
    k = [jnp.asarray(a, jnp.float32) for a in (k11, rho * np.sqrt(k11) * np.sqrt(k22), k22)]
    names = DUALS.keys() - {"tanh", "gabor", "polynomial", "sin", "cos"}

    def numbers(k):
        duals_of = lambda dual: (dual(*k), jax.grad(lambda c: dual(k[0], c, k[2])[0].sum())(k[1]))
        return {name: duals_of(DUALS[name]) for name in names}

    single, double = (jax.jit(numbers)(k) for k in (k, [a.astype(float) for a in k]))
    own = {
        name: jax.jit(lambda a, b, d=DUALS[name]: jnp.sqrt(d(a, a, a)[0]) * jnp.sqrt(d(b, b, b)[0])) for name in names
    }
    for name in names:
        (t, t_dot), gradient = single[name]
        (exact, exact_dot), _ = double[name]
        size = own[name](k[0].astype(float), k[2].astype(float))
        np.testing.assert_array_less(abs(t - exact), 1e-5 * size + 1e-38, err_msg=name)
        np.testing.assert_allclose(
            t_dot, exact_dot, rtol=1e-5, atol=1e-6 if name == "absolute" else 1e-37, err_msg=name
        )
        np.testing.assert_allclose(gradient, t_dot, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("k", [3e10, 1e20, 1e30])
def test_rounding_takes_no_dual_past_cauchy_and_schwarz(k):
    """A covariance that is rounded above √(k11 k22), as on raw columns of a table: no root of what is below 0."""
    k = jnp.float32(k)
    above = [jnp.nextafter(jnp.nextafter(k, jnp.float32(jnp.inf)), jnp.float32(jnp.inf)) * sign for sign in (1, -1)]
    for name, pairs in every_dual(lambda dual: [dual(k, c, k) for c in above])():
        if name not in {"polynomial", "gabor", "tanh"}:
            bound = (
                duals.relu(k, k, k)[0] * 4 if name in {"relu", "leaky_relu", "absolute", "gelu", "identity"} else 1.01
            )
            for t, t_dot in pairs:
                assert np.isfinite(t) and np.isfinite(t_dot), name
                assert abs(t) <= bound, name


def test_a_polynomial_that_is_too_large_is_infinite():
    k = jnp.float32(1e20)
    for k12 in (0.0, -1e20, 1e20):
        for t in smooth_duals.polynomial(k, jnp.float32(k12), k, 1, 0, -0.5, 0.2):
            assert np.isinf(t)


@pytest.mark.parametrize("dtype, large", [(jnp.float32, 1e36), (jnp.float64, 1e300)])
def test_the_slope_of_gelu_is_right_beyond_the_root_of_the_largest_number(x64, dtype, large):
    """Uncorrelated, 2π𝒯 = k11/√(1 + k11) k22/√(1 + k22), whose slope is (1 + k/2)/√(1 + k)³; from small k to large."""
    for k in (1e-30, 1e-3, 2.0, 2.8e19, large**0.8, large):
        k11, k22 = np.longdouble(5.03e17), np.longdouble(k)
        expected = k11 / np.sqrt(1 + k11) / np.sqrt(1 + k22) / (1 + k22) * (1 + k22 / 2) / (2 * np.longdouble(np.pi))
        value = lambda c: smooth_duals.gelu(dtype(5.03e17), dtype(0), c)[0]
        for slope in (jax.grad, jax.jacfwd):
            np.testing.assert_allclose(slope(value)(dtype(k)), float(expected), rtol=3e-6)


def test_the_slopes_of_gelu_in_single_precision_are_those_of_double(x64):
    """At parallel, correlated and uncorrelated inputs of large variance, where double precision is far from its end."""
    for k, rho in ((3e10, 0.5), (1e20, 0.0), (1e20, 0.9), (1e22, -0.5)):
        slopes = lambda transform, dtype, k=k, rho=rho: np.array(
            transform(lambda k: jnp.stack(smooth_duals.gelu(*k)))(jnp.array([k, rho * k, 2 * k], dtype))
        )
        exact = slopes(jax.jacrev, jnp.float64)
        for transform in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(slopes(transform, jnp.float32), exact, rtol=1e-4, atol=1e-36)
