"""Closed forms against matrix exponentials, step-by-step descent, the reference, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import small_network, waves
from problems import half_square, random_problem
from scipy.linalg import expm
from tolerances import tolerance

import lib
from lib import (
    coefficients,
    critical_learning_rate,
    decompose,
    descent,
    empirical_ntk,
    flow,
    linearize,
    max_learning_rate,
    train,
    train_outputs,
    weight_change,
)


@pytest.mark.parametrize(
    "k, full, rank", [(1, False, None), (3, False, None), (3, True, None), (3, True, 7), (1, False, 4)]
)
def test_flow_is_the_matrix_exponential(x64, k, full, rank):
    theta, matrix, y, f0_x = random_problem(6, k, full, rank)
    spectrum = decompose(theta)
    for t in (0.0, 0.5, 3.0, 50.0):
        expected = y + (expm(-t * matrix) @ (f0_x - y).ravel()).reshape(y.shape)
        np.testing.assert_allclose(train_outputs(spectrum, flow(t), y, f0_x), expected, atol=1e-9)


@pytest.mark.parametrize("k, full, rank", [(1, False, None), (3, True, None), (3, True, 7)])
@pytest.mark.parametrize("steps", [0, 1, 2, 57, 300])
def test_descent_is_descent_on_the_coefficients(x64, k, full, rank, steps):
    """a ← a − η (f − y) with f = f₀ + Θa: gradient descent, seen from function space."""
    theta, matrix, y, f0_x = random_problem(6, k, full, rank)
    spectrum, eta, a = decompose(theta), 0.2, np.zeros(y.size)
    for _ in range(steps):
        a -= eta * (matrix @ a + (f0_x - y).ravel())
    np.testing.assert_allclose(coefficients(spectrum, descent(eta, steps), y, f0_x).ravel(), a, atol=1e-9)
    np.testing.assert_allclose(
        train_outputs(spectrum, descent(eta, steps), y, f0_x).ravel(), f0_x.ravel() + matrix @ a, atol=1e-9
    )


def test_train_outputs_are_test_outputs_on_the_training_set(x64):
    """With an asymmetric Θ in the place of Θ(x, X), a transposed product would show."""
    theta, _, y, f0_x = random_problem(6, 3, full=True)
    spectrum = decompose(theta)
    on_test = lib.test_outputs(spectrum, flow(2.0), y, f0_x, theta, f0_x)
    np.testing.assert_allclose(on_test, train_outputs(spectrum, flow(2.0), y, f0_x), atol=1e-10)
    theta_tx = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 3, 3)))
    a = coefficients(spectrum, flow(2.0), y, f0_x)
    expected = np.einsum("mnkl,nl->mk", theta_tx, a)
    outputs = lib.test_outputs(spectrum, flow(2.0), y, f0_x, theta_tx, jnp.zeros((2, 3)))
    np.testing.assert_allclose(outputs, expected, atol=1e-10)


def test_closed_forms_are_descent_on_the_linearised_network(x64):
    """Weights, training and test outputs after 1, 5 and 40 actual steps, K = 2 and the full finite-width Θ̂."""
    net, params, x = small_network()
    y, x_test = jnp.cos(jnp.arange(10.0)).reshape(5, 2), x[:3] * 0.4 + 0.2
    theta, theta_tx = empirical_ntk(net, params, x), empirical_ntk(net, params, x_test, x)
    spectrum, eta, f0_x = decompose(theta), 0.3 / jnp.linalg.norm(theta), net(params, x)
    for steps in (1, 5, 40):
        run = train(linearize(net, params), params, half_square, optax.sgd(eta), x, y, steps)
        done = descent(eta, steps)
        f_lin = linearize(net, params)
        np.testing.assert_allclose(train_outputs(spectrum, done, y, f0_x), f_lin(run.params, x), atol=1e-9)
        on_test = lib.test_outputs(spectrum, done, y, f0_x, theta_tx, net(params, x_test))
        np.testing.assert_allclose(on_test, f_lin(run.params, x_test), atol=1e-9)
        omega = weight_change(net, params, x, coefficients(spectrum, done, y, f0_x))
        moved = jax.tree.map(jnp.subtract, run.params, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), omega, moved)
    assert float(abs(train_outputs(spectrum, done, y, f0_x) - f0_x).max()) > 0.3  # it did train


def test_reference_gradient_flow(x64, reference):
    """Mean loss over N·K = 8 entries: time is ηt/8."""
    values, kernel = reference["gradient_descent_mse"], reference["fc"]["erf_d1_W1.5_b0.05"]
    i = jnp.arange(4.0)
    y = jnp.stack([jnp.sin(i), jnp.cos(i)], axis=1)
    f0_x, f0_test = jnp.asarray(values["f0_train"]), jnp.asarray(values["f0_test"])
    spectrum, theta_tx = decompose(jnp.asarray(kernel["ntk_xx"])), jnp.asarray(kernel["ntk_tx"])
    filtered = flow(values["eta"] * jnp.asarray(values["t"]) / 8)
    np.testing.assert_allclose(train_outputs(spectrum, filtered, y, f0_x), values["train"], rtol=1e-9, atol=1e-12)
    on_test = lib.test_outputs(spectrum, filtered, y, f0_x, theta_tx, f0_test)
    np.testing.assert_allclose(on_test, values["test"], rtol=1e-9)
    converged = lib.test_outputs(spectrum, flow(jnp.inf), y, f0_x, theta_tx, f0_test)
    np.testing.assert_allclose(converged, values["test_inf"], rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_reference_learning_rate(x64, reference, momentum):
    """The reference is for a mean over N·K entries: N·K times ours."""
    theta = jnp.asarray(reference["fc"]["erf_d1_W1.5_b0.05"]["ntk_xx"])
    expected = reference[f"max_learning_rate_momentum_{momentum}"]["value"]
    assert float(max_learning_rate(theta, momentum)) * 8 == pytest.approx(expected, rel=1e-9)


def test_kernel_regression_is_flow_to_convergence_from_zero(x64):
    x, x_test = waves(6, 3, 0.0), waves(2, 3, 0.4)
    gram = lambda a, b: jnp.exp(-((a[:, None] - b) ** 2).sum(-1))
    y, zeros = jnp.sin(jnp.arange(6.0))[:, None], jnp.zeros((6, 1))
    f = lib.test_outputs(decompose(gram(x, x)), flow(jnp.inf), y, zeros, gram(x_test, x), jnp.zeros((2, 1)))
    np.testing.assert_allclose(f, gram(x_test, x) @ jnp.linalg.solve(gram(x, x), y), rtol=1e-8)


def test_descent_decays_below_and_grows_above_the_largest_learning_rate(x64):
    theta, _, y, f0_x = random_problem(6, 1, full=False)
    spectrum, eta = decompose(theta), max_learning_rate(theta)
    start = np.linalg.norm(spectrum.eigenvectors[:, -1] @ (f0_x - y))

    def left(scale):
        f = train_outputs(spectrum, descent(scale * eta, 300), y, f0_x)
        return np.linalg.norm(spectrum.eigenvectors[:, -1] @ (f - y)) / start

    assert left(0.99) < 0.01 and left(1.01) > 100


def test_at_the_critical_learning_rate_extreme_modes_contract_alike(x64):
    theta, *_ = random_problem(6, 1, full=False)
    modes = jnp.linalg.eigvalsh(theta)
    g = 1 - critical_learning_rate(theta) * modes
    assert float(g[0]) == pytest.approx(-float(g[-1]), rel=1e-10)


def test_rounding_below_zero_does_not_come_back():
    """A kernel of rank 1: eight of its nine modes are rounding, and none may learn or blow up."""
    theta = jnp.ones((9, 9))
    spectrum = decompose(theta)
    assert int((spectrum.eigenvalues == 0).sum()) == 8
    y = jnp.arange(9.0)[:, None]
    f = train_outputs(spectrum, flow(jnp.inf), y, jnp.zeros((9, 1)))
    np.testing.assert_allclose(f, 4.0, **tolerance(y, scale=100))


def test_times_lead_in_every_result():
    net, params, x = small_network()
    y = jnp.ones((5, 2))
    spectrum, f0_x = decompose(empirical_ntk(net, params, x)), net(params, x)
    a = coefficients(spectrum, flow(jnp.ones((2, 3))), y, f0_x)
    assert a.shape == (2, 3, 5, 2)
    omega = weight_change(net, params, x, a)
    assert omega["W1"].shape == (2, 3, *params["W1"].shape)
    np.testing.assert_allclose(
        omega["W1"][1, 2], weight_change(net, params, x, a[1, 2])["W1"], **tolerance(x, scale=10)
    )


def test_weights_of_single_precision_take_coefficients_of_double(x64):
    """Closed forms are worked out in double precision, for networks that are trained in single."""
    net, params, x = small_network()
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    a = jnp.cos(jnp.arange(10.0)).reshape(5, 2)
    omega = weight_change(net, single, x.astype(jnp.float32), a)
    assert {leaf.dtype for leaf in jax.tree.leaves(omega)} == {jnp.dtype(jnp.float32)}
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5),
        omega,
        weight_change(net, params, x, a),
    )


def test_errors_name_the_argument():
    net, params, x = small_network()
    theta, y, f0_x = empirical_ntk(net, params, x), jnp.ones((5, 2)), net(params, x)
    spectrum = decompose(theta)
    with pytest.raises(ValueError, match=r"`theta` must have shape \(N, N\)"):
        decompose(theta[:3])
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        coefficients(spectrum, flow(1.0), y[:, 0], f0_x)
    with pytest.raises(ValueError, match="`f0_x` must have the shape of `y`"):
        train_outputs(spectrum, flow(1.0), y, f0_x[:, :1])
    with pytest.raises(ValueError, match="`spectrum` has 10 modes"):
        train_outputs(spectrum, flow(1.0), y[:4], f0_x[:4])
    with pytest.raises(ValueError, match="`theta_tx` must have shape"):
        lib.test_outputs(spectrum, flow(1.0), y, f0_x, theta[:, :3], f0_x)
    with pytest.raises(ValueError, match="`f0_test` must have shape"):
        lib.test_outputs(spectrum, flow(1.0), y, f0_x, theta, 0.0)
    with pytest.raises(ValueError, match="`f0_test` must have shape"):
        lib.test_outputs(spectrum, flow(1.0), y, f0_x, theta, f0_x[:, :1])
    with pytest.raises(ValueError, match=r"`a` must have shape \(..., N, K\)"):
        weight_change(net, params, x, y[:4])
