"""Conjugate gradients against the dense kernel, and against what the solution is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import dense_ntk, small_network, waves

from lib import BatchNorm, Dense, Sequential, erf, linearize, ntk_solve, weight_change


def matrix(net, params, x):
    theta = dense_ntk(net, params, x, x)
    size = theta.shape[0] * theta.shape[2]
    return theta.transpose(0, 2, 1, 3).reshape(size, size)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_it_solves_the_dense_equations(x64, ridge):
    net, params, x = small_network()
    v = waves(5, 2, 0.4)
    solution = ntk_solve(net, params, x, v, ridge, tolerance=1e-12)
    expected = np.linalg.solve(matrix(net, params, x) + ridge * np.eye(10), v.ravel())
    np.testing.assert_allclose(solution.a.ravel(), expected, rtol=1e-6, atol=1e-9 * abs(expected).max())
    assert float(solution.residual) < 1e-11


def test_the_weight_change_of_the_solution_reaches_the_targets(x64):
    net, params, x = small_network()
    y = waves(5, 2, 0.4)
    omega = weight_change(net, params, x, ntk_solve(net, params, x, y - net(params, x), tolerance=1e-12).a)
    np.testing.assert_allclose(linearize(net, params)(jax.tree.map(jnp.add, params, omega), x), y, atol=1e-9)


def test_batch_statistics_are_differentiated_too(x64):
    net = Sequential((Dense(4), BatchNorm(), erf, Dense(1)))
    x, v = waves(6, 3, 0.2), waves(6, 1, 0.4)
    params = jax.jit(net.init)(jax.random.key(0), x)
    solution = ntk_solve(net, params, x, v, 0.1, tolerance=1e-12)
    expected = np.linalg.solve(matrix(net.apply, params, x) + 0.1 * np.eye(6), v.ravel())
    np.testing.assert_allclose(solution.a.ravel(), expected, rtol=1e-8)


def test_nothing_to_reach_takes_nothing():
    net, params, x = small_network()
    for rows in (x, x[:0]):
        solution = ntk_solve(net, params, rows, jnp.zeros((len(rows), 2)))
        assert solution.a.shape == (len(rows), 2) and not solution.a.any() and float(solution.residual) == 0


def test_the_solution_has_the_dtype_of_the_outputs(x64):
    """Whatever that of v; and a ridge is not rounded to an integer."""
    linear = lambda params, x: x @ params
    x = jnp.eye(2, dtype=jnp.float32)
    solution = ntk_solve(linear, jnp.zeros((2, 1), jnp.float32), x, jnp.ones((2, 1)), ridge=0.5)
    assert solution.a.dtype == jnp.float32
    np.testing.assert_allclose(solution.a, 1 / 1.5, rtol=1e-6)


def test_too_few_steps_show_in_the_residual():
    net, params, x = small_network()
    v = waves(5, 2, 0.4)
    residuals = [float(ntk_solve(net, params, x, v, 0.1, steps=steps).residual) for steps in (1, 40)]
    assert residuals[1] < 1e-3 < residuals[0]


def test_errors_name_the_argument():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`v` must have the shape"):
        ntk_solve(net, params, x, jnp.ones((5, 1)))
    with pytest.raises(TypeError, match="`ridge` must be a real number"):
        ntk_solve(net, params, x, jnp.ones((5, 2)), ridge="small")
    with pytest.raises(ValueError, match="`ridge` must be a number of at least 0"):
        ntk_solve(net, params, x, jnp.ones((5, 2)), ridge=-0.1)
    with pytest.raises(ValueError, match="`tolerance` must be a number of at least 0"):
        ntk_solve(net, params, x, jnp.ones((5, 2)), tolerance=-1e-5)
    with pytest.raises(TypeError, match="`steps` must be an integer of at least 1"):
        ntk_solve(net, params, x, jnp.ones((5, 2)), steps=1.5)
    with pytest.raises(TypeError, match="`v` must hold floating-point numbers, got int"):
        ntk_solve(net, params, x, jnp.ones((5, 2), int))
    with pytest.raises(TypeError, match="`v` must be an array of numbers, got str"):
        ntk_solve(net, params, x, "v")
