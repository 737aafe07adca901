"""Filters against their definitions: matrix exponentials, explicit steps, the integral and the sum that define h."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from tolerances import tolerance

from lib import Kernel, averaged, decayed, descent, flow, heavy_ball, momentum_flow, nesterov, then

MODES = [0.0, 1e-14, 1e-6, 0.3, 1.0, 2.5]


@pytest.mark.parametrize("t", [0.0, 0.7, 40.0])
def test_flow_residual_is_the_matrix_exponential(t):
    modes = jnp.array(MODES)
    expected = np.diag(expm(-t * np.diag(MODES)))
    np.testing.assert_allclose(flow(t).residual(modes), expected, **tolerance(modes))


@pytest.mark.parametrize("t", [0.0, 0.7, 40.0])
def test_flow_response_is_the_integral_of_the_residual(t):
    """h(λ) = ∫₀ᵗ e^{−λs} ds, by Gauss-Legendre quadrature: no cancellation there to share."""
    modes = jnp.array(MODES)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s = t * (nodes + 1) / 2
    expected = (t / 2 * weights * np.exp(-np.outer(MODES, s))).sum(axis=1)
    np.testing.assert_allclose(flow(t).response(modes), expected, **tolerance(modes))


@pytest.mark.parametrize("steps", [0, 1, 2, 57, 300])
def test_descent_follows_explicit_steps(steps):
    """One step: f − y ← (1 − ηλ)(f − y), a ← a + η g. Includes ηλ = 1, where a mode dies at once, and ηλ > 1."""
    modes, eta = np.array([0.0, 1e-14, 1e-6, 0.1, 0.5, 1.0, 1.4, 1.9]), 1.0
    g, h = np.ones_like(modes), np.zeros_like(modes)
    for _ in range(steps):
        g, h = g * (1 - eta * modes), h + eta * g
    filtered = descent(eta, steps)
    modes = jnp.array(modes)
    np.testing.assert_allclose(filtered.residual(modes), g, **tolerance(modes, scale=100))
    np.testing.assert_allclose(filtered.response(modes), h, **tolerance(modes, scale=100))


def test_descent_with_small_steps_is_flow():
    """η → 0 at fixed ηi: the difference falls in proportion to η."""
    modes = jnp.array([0.5, 1.0, 2.0])
    gaps = [float(abs(descent(1 / n, n).residual(modes) - flow(1.0).residual(modes)).max()) for n in (10, 20)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)


def test_response_keeps_its_digits_where_dividing_loses_them():
    modes = jnp.array([1e-14])
    assert float(flow(3.0).response(modes)[0]) == pytest.approx(3.0, rel=1e-6)
    assert float(descent(0.1, 30).response(modes)[0]) == pytest.approx(3.0, rel=1e-6)


def test_times_come_first_in_the_shape():
    modes = jnp.array(MODES)
    assert flow(jnp.ones((2, 3))).residual(modes).shape == (2, 3, len(MODES))
    assert descent(0.1, jnp.arange(5)).response(modes).shape == (5, len(MODES))


def test_flow_to_convergence_divides_by_the_eigenvalue_and_leaves_dead_modes():
    assert flow(jnp.inf).residual(jnp.array([0.0, 2.0])).tolist() == [1.0, 0.0]
    assert flow(jnp.inf).response(jnp.array([0.0, 2.0])).tolist() == [0.0, 0.5]


def test_negative_eigenvalues_count_as_zero():
    for filtered in (flow(2.0), descent(0.5, 4)):
        assert filtered.residual(jnp.array([-1.0])).tolist() == [1.0]
        assert filtered.response(jnp.array([-1.0])).tolist() == [2.0]


def test_steps_must_be_integers():
    with pytest.raises(TypeError, match="`steps` must be an integer"):
        descent(0.1, 2.0)


def test_dtype_follows_the_eigenvalues():
    modes = jnp.array([1.0], jnp.float32)
    assert flow(np.float64(2)).residual(modes).dtype == jnp.float32
    assert descent(np.float64(0.1), np.arange(3)).response(modes).dtype == jnp.float32


def every_filter():
    return [
        *(flow(0.0), flow(1.0), flow(jnp.inf), descent(0.1, 0), descent(0.1, 3)),
        *(heavy_ball(0.1, 0.9, 0), nesterov(0.1, 0.9, 3), momentum_flow(1.0, momentum=0.5, learning_rate=0.1)),
        *(then(flow(1.5), descent(0.3, 2)), averaged(descent(0.3, jnp.arange(3))), decayed(flow(1.5), 0.3)),
    ]


def test_an_eigenvalue_that_is_not_a_number_gives_none():
    for filtered in every_filter():
        for function in filtered:
            assert np.isnan(function(jnp.array([np.nan, 1.0]))).tolist() == [True, False]


def test_whole_eigenvalues_are_those_numbers():
    """Whose dtype no time, rate or weight may take."""
    for filtered in every_filter():
        for function in filtered:
            expected = function(jnp.arange(3.0))
            for whole in (jnp.arange(3), [0, 1, 2], np.arange(3)):
                np.testing.assert_allclose(function(whole), expected, **tolerance(expected))


def test_times_and_rates_must_be_numbers_from_zero():
    kernel = Kernel(jnp.eye(2), jnp.eye(2))
    makers = {
        "t": flow,
        "learning_rate": lambda value: descent(value, 2),
        "momentum": lambda value: heavy_ball(0.1, value, 2),
        "s": lambda value: momentum_flow(value, momentum=0.5, learning_rate=0.1),
        "decay": lambda value: decayed(flow(1.0), value),
    }
    for name, make in makers.items():
        for wrong in (None, "2", True, kernel, 1j, [True], [[1.0], [1.0, 2.0]]):
            with pytest.raises(TypeError, match=f"`{name}` must be"):
                make(wrong)
        if name != "momentum":
            with pytest.raises(ValueError, match=f"`{name}` must be 0 or more, got -1"):
                make(jnp.array([2.0, -1.0]))
    with pytest.raises(ValueError, match="`learning_rate` must be above 0, got 0"):
        momentum_flow(1.0, momentum=0.5, learning_rate=0.0)
    with pytest.raises(ValueError, match="`s` must be finite"):
        momentum_flow(jnp.inf, momentum=0.5, learning_rate=0.1)
    with pytest.raises(TypeError, match="`eigenvalues` must be an array, got a Kernel"):
        flow(1.0).residual(kernel)
