"""Continuous training against closed forms, an integrator of another library, and the reference."""

import gc

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import cross_entropy, half_square, random_problem
from scipy.integrate import solve_ivp
from scipy.special import softmax

import lib.programs
import lib.training.ode
from lib import coefficients, decompose, evolve, flow, kernel_product, momentum_flow

STEPS = np.array([[30.0, 0.0, 1.0], [2.5, 30.0, 300.0]])  # unsorted and repeated


@pytest.mark.parametrize(
    "k, full, rank, momentum", [(1, False, None, None), (3, False, 4, 0.9), (3, True, 7, None), (3, True, 7, 0.9)]
)
def test_squared_loss_has_a_closed_form(x64, k, full, rank, momentum):
    """Singular kernels included: what Θ cannot reach grows without bound in a, and never shows in f."""
    theta, _, y, f0_x = random_problem(6, k, full, rank)
    eta = 0.2
    a = evolve(half_square, theta, y, f0_x, STEPS, eta, momentum)
    filtered = (
        flow(eta * STEPS) if momentum is None else momentum_flow(eta**0.5 * STEPS, momentum=momentum, learning_rate=eta)
    )
    expected = coefficients(decompose(theta), filtered, y, f0_x)
    assert a.shape == (2, 3, *y.shape)
    np.testing.assert_allclose(kernel_product(theta, a), kernel_product(theta, expected), atol=1e-6)
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-6)
    assert float(abs(kernel_product(theta, a)).max()) > 1  # it did train


@pytest.mark.parametrize("k, full, rank, momentum", [(3, False, 4, None), (3, True, None, 0.5)])
def test_cross_entropy_is_the_equation_of_the_outputs(x64, k, full, rank, momentum):
    """ḟ = −ηΘ(σ(f) − y), or with momentum f̈ = β̃ḟ − Θ(σ(f) − y), integrated for f by scipy's DOP853."""
    theta, matrix, y, f0_x = random_problem(6, k, full, rank)
    targets, eta, size = softmax(2 * y, axis=1), 0.2, y.size
    gradient = lambda f: (softmax(f.reshape(y.shape), axis=1) - targets).ravel()
    if momentum is None:
        field, start, times = lambda t, f: -matrix @ gradient(f), f0_x.ravel(), eta * STEPS
    else:
        drag = (momentum - 1) / eta**0.5
        field = lambda t, z: np.concatenate([z[size:], drag * z[size:] - matrix @ gradient(z[:size])])
        start, times = np.concatenate([f0_x.ravel(), np.zeros(size)]), eta**0.5 * STEPS
    solved = solve_ivp(field, (0, times.max()), start, "DOP853", np.unique(times), rtol=1e-12, atol=1e-12)
    f = solved.y[:size].T[np.unique(times, return_inverse=True)[1].ravel()].reshape(2, 3, *y.shape)
    a = evolve(cross_entropy, theta, jnp.asarray(targets), f0_x, STEPS, eta, momentum)
    np.testing.assert_allclose(f0_x + kernel_product(theta, a), f, atol=1e-6)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_reference_cross_entropy(x64, reference, momentum):
    """Mean loss over N·K = 8 entries: the rate is η/8, at the same steps."""
    values, kernel = reference[f"gradient_descent_ce_momentum_{momentum}"], reference["fc"]["erf_d1_W1.5_b0.05"]
    start = reference["gradient_descent_mse"]
    f0_x, f0_test = jnp.asarray(start["f0_train"]), jnp.asarray(start["f0_test"])
    y = jnp.eye(2)[jnp.asarray(values["onehot"])]
    theta, steps = jnp.asarray(kernel["ntk_xx"]), np.asarray(values["t"])
    a = evolve(cross_entropy, theta, y, f0_x, steps, values["eta"] / 8, momentum)
    tolerances = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(f0_x + kernel_product(theta, a), values["train"], **tolerances)
    on_test = f0_test + kernel_product(jnp.asarray(kernel["ntk_tx"]), a)
    np.testing.assert_allclose(on_test, values["test"], **tolerances)


def test_an_implicit_solver_goes_where_explicit_ones_stall(x64, monkeypatch):
    """Eigenvalues from 1e-3 to 1e3: with 2,000 steps Kvaerno5 passes t = 100, Dopri5 does not."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    theta = jnp.asarray(basis * 10 ** np.linspace(-3, 3, 8)) @ basis.T
    y = jnp.asarray(np.random.default_rng(1).normal(size=(8, 1)))
    monkeypatch.setattr(lib.training.ode, "MAX_STEPS", 2000)
    problem = half_square, theta, y, 0 * y, 100.0
    a = evolve(*problem, solver=diffrax.Kvaerno5())
    expected = coefficients(decompose(theta), flow(100.0), y, 0 * y)
    np.testing.assert_allclose(kernel_product(theta, a), kernel_product(theta, expected), atol=1e-6)
    with pytest.raises(RuntimeError, match=r"`solver` did not reach 100.0 `steps` in 2,000"):
        evolve(*problem)


def test_tolerance_is_what_the_outputs_may_err_by(x64):
    theta, _, y, f0_x = random_problem(6, 3, full=True)
    exact = kernel_product(theta, coefficients(decompose(theta), flow(20.0), y, f0_x))
    errors = []
    for tolerance in (1e-4, 1e-7, 1e-10):
        a = evolve(half_square, theta, y, f0_x, 20.0, tolerance=tolerance)
        errors.append(float(abs(kernel_product(theta, a) - exact).max()) / tolerance)
    assert max(errors) < 3


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_tolerance_is_of_outputs_however_large_the_kernel(x64, scale):
    """Θ × c for a time / c is the same training, and errors of a weigh c times as much in the outputs."""
    theta, _, y, f0_x = random_problem(6, 3, full=True)
    exact = kernel_product(theta, coefficients(decompose(theta), flow(20.0), y, f0_x))
    a = evolve(half_square, scale * theta, y, f0_x, 20.0 / scale, tolerance=1e-6)
    error = float(abs(kernel_product(scale * theta, a) - exact).max())
    assert 1e-10 < error < 3e-6


def test_inside_jit_what_is_not_reached_is_nan(x64, monkeypatch):
    """Steps that the solver does not come to, and those without an a; the others are what they are."""
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    monkeypatch.setattr(lib.training.ode, "MAX_STEPS", 64)
    steps = jnp.array([1.0, np.inf, 0.0, -1.0, np.nan, 1e6])
    a = jax.jit(lambda steps, theta: evolve(half_square, theta, y, f0_x, steps))(steps, theta)
    expected = coefficients(decompose(theta), flow(jnp.array([1.0, 0.0])), y, f0_x)
    np.testing.assert_allclose(a[np.array([0, 2])], expected, atol=1e-6)
    assert np.isnan(a[np.array([1, 3, 4, 5])]).all()


def test_no_steps_and_no_examples_have_no_coefficients():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    assert evolve(half_square, theta, y, f0_x, []).shape == (0, 4, 2)
    assert evolve(half_square, theta[:0, :0], y[:0], f0_x[:0], [1.0, 2.0]).shape == (2, 0, 2)


def test_nothing_of_a_loss_is_kept():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    seen = []
    for _ in range(3):
        weights = jnp.linspace(1, 2, 4)[:, None]
        evolve(lambda f, y, w=weights: 0.5 * jnp.sum(w * (f - y) ** 2), theta, y, f0_x, 1.0)
        gc.collect()
        seen.append((len(jax.live_arrays()), len(lib.programs._KEPT)))
    assert seen[1] == seen[2]


def test_single_precision_stays_single():
    theta, _, y, f0_x = (jnp.asarray(part, jnp.float32) for part in random_problem(4, 2, full=False))
    a = evolve(half_square, theta, y, f0_x, steps=jnp.array([1, 3]))
    assert a.dtype == jnp.float32
    expected = coefficients(decompose(theta), flow(jnp.array([1.0, 3.0])), y, f0_x)
    np.testing.assert_allclose(a, expected, rtol=1e-3, atol=1e-3)


def test_errors_name_the_argument():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    with pytest.raises(ValueError, match="`loss` must return one number, got an array of shape"):
        evolve(optax.softmax_cross_entropy, theta, y, f0_x, 1.0)
    with pytest.raises(ValueError, match=r"`theta_xx` must have shape \(4, 4\) or \(4, 4, 2, 2\)"):
        evolve(half_square, theta[:3], y, f0_x, 1.0)
    with pytest.raises(ValueError, match="`theta_xx` must be symmetric"):
        evolve(half_square, theta.at[0, 1].add(1.0), y, f0_x, 1.0)
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        evolve(half_square, theta, y[:, 0], f0_x, 1.0)
    with pytest.raises(ValueError, match="`f0_x` must have the shape of `y`"):
        evolve(half_square, theta, y, f0_x[:, :1], 1.0)
    with pytest.raises(TypeError, match="`f0_x` must hold floating-point numbers, got int"):
        evolve(half_square, theta, y, jnp.zeros(y.shape, int), 1.0)
    for bad in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"`steps` must be 0 or more and finite, got {bad}"):
            evolve(half_square, theta, y, f0_x, jnp.array([2.0, bad]))
    for bad in (0.0, -0.5):
        with pytest.raises(ValueError, match=f"`learning_rate` must be above 0, got {bad}"):
            evolve(half_square, theta, y, f0_x, 1.0, bad)
    with pytest.raises(TypeError, match="`learning_rate` must be a real number"):
        evolve(half_square, theta, y, f0_x, 1.0, np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="`momentum` must be a number of at least 0"):
        evolve(half_square, theta, y, f0_x, 1.0, 0.1, -0.5)
    with pytest.raises(ValueError, match="`momentum` must be at most 1"):
        evolve(half_square, theta, y, f0_x, 1.0, 0.1, 1.5)
    with pytest.raises(ValueError, match="`tolerance` must be above 0, got 0"):
        evolve(half_square, theta, y, f0_x, 1.0, tolerance=0.0)
