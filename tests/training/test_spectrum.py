"""Functions of a kernel and their derivatives, against SciPy's matrix exponentials, at ties as elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm_frechet
from tolerances import tolerance

import lib
from lib import (
    Filter,
    averaged,
    coefficients,
    decayed,
    decompose,
    descent,
    ensemble,
    flow,
    heavy_ball,
    max_learning_rate,
    momentum_flow,
    nesterov,
    then,
    train_outputs,
)

FEATURES = np.random.default_rng(0).normal(size=(8, 20))
PLAIN = FEATURES @ FEATURES.T / 20
AGAIN = np.array([0, 1, 2, 2])
ANGLES = np.arange(8) * np.pi / 4
KERNELS = {
    "plain": PLAIN,
    "two outputs": np.kron(PLAIN[:4, :4], np.eye(2)),
    "repeated inputs, two outputs": np.kron(PLAIN[np.ix_(AGAIN, AGAIN)], np.eye(2)),
    "a ring": np.exp(np.cos(ANGLES[:, None] - ANGLES)) / 8,
}


def problem(name):
    """A kernel, a direction to change it by, targets and outputs at initialisation."""
    theta, rng = KERNELS[name], np.random.default_rng(1)
    change = rng.normal(size=theta.shape)
    y, f0_x = rng.normal(size=(2, len(theta), 2))
    return jnp.asarray(theta), jnp.asarray(change + change.T), jnp.asarray(y), jnp.asarray(f0_x)


@pytest.mark.parametrize("name", KERNELS)
def test_the_derivative_of_the_flow_is_that_of_the_matrix_exponential(x64, name):
    """Outputs e^{−tΘ} and coefficients ∫₀ᵗ e^{−sΘ} ds, a block of a larger exponential; early, late, and both ways."""
    theta, change, y, f0_x = problem(name)
    n, zero = len(theta), np.zeros(theta.shape)
    block = lambda a, b: np.block([[-np.asarray(a), b], [zero, zero]])
    times, weights = jnp.array([0.1, 1.0, 30.0]), jnp.cos(jnp.arange(6.0 * n)).reshape(3, n, 2)
    outputs = lambda theta: train_outputs(decompose(theta), flow(times), y, f0_x)
    found = jax.jvp(outputs, (theta,), (change,))[1]
    found_a = jax.jvp(lambda theta: coefficients(decompose(theta), flow(times), y, f0_x), (theta,), (change,))[1]
    for i, t in enumerate(times):
        frechet = lambda a, e, t=float(t): expm_frechet(t * a, t * e, compute_expm=False)
        expected = frechet(-np.asarray(theta), -np.asarray(change)) @ (f0_x - y)
        np.testing.assert_allclose(found[i], expected, atol=1e-11 * abs(expected).max())
        expected = -frechet(block(theta, np.eye(n)), block(change, zero))[:n, n:] @ (f0_x - y)
        np.testing.assert_allclose(found_a[i], expected, atol=1e-11 * abs(expected).max())
    backward = jax.grad(lambda theta: (outputs(theta) * weights).sum())(theta)
    np.testing.assert_allclose((backward * change).sum(), (found * weights).sum(), rtol=1e-10)


FILTERS = [
    descent(0.2, 17),
    descent(0.2, jnp.array([1, 2])),
    heavy_ball(0.2, 0.8, 17),
    nesterov(0.2, 0.8, 17),
    momentum_flow(3.0, momentum=0.5, learning_rate=0.1),
    averaged(descent(0.2, jnp.arange(9))),
    decayed(flow(3.0), 0.3),
    then(descent(0.2, 3), flow(2)),
    Filter(lambda lam: 0.3 / (0.3 + lam), lambda lam: 1 / (0.3 + lam)),
]


@pytest.mark.parametrize("filter", FILTERS, ids=range(len(FILTERS)))
def test_every_filter_has_the_derivative_of_a_difference(x64, filter):
    """To the right, where eigenvalues that are 0 may go, of second order."""
    theta, change, y, f0_x = problem("repeated inputs, two outputs")
    for function in (train_outputs, coefficients):
        outputs = lambda theta, function=function: function(decompose(theta), filter, y, f0_x)
        start, found = jax.jvp(outputs, (theta,), (change @ change.T,))
        at = [outputs(theta + step * change @ change.T) for step in (1e-5, 2e-5)]
        expected = (4 * at[0] - at[1] - 3 * start) / 2e-5
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(abs(expected).max()))


def test_trained_to_the_end_the_derivative_is_that_of_the_solve(x64):
    theta, _, y, _ = problem("two outputs")
    theta_tx = jnp.sin(jnp.arange(16.0)).reshape(2, 8)
    outputs = lambda theta: lib.test_outputs(decompose(theta), flow(jnp.inf), y, 0 * y, theta_tx, jnp.zeros((2, 2)))
    solved = lambda theta: theta_tx @ jnp.linalg.solve((theta + theta.T) / 2, y)
    np.testing.assert_allclose(jax.jacrev(outputs)(theta), jax.jacrev(solved)(theta), rtol=1e-7, atol=1e-9)
    # Inputs stay repeated, and the solve is that of each once.
    kernel = lambda s: jnp.asarray(PLAIN[:3, :3]) + s * jnp.asarray(PLAIN[3:6, 3:6])
    y = jnp.sin(jnp.arange(3.0))[:, None]
    again = lambda s: decompose(kernel(s)[np.ix_(AGAIN, AGAIN)])
    outputs = lambda s: coefficients(again(s), flow(jnp.inf), y[AGAIN], 0 * y[AGAIN])[0, 0]
    once = lambda s: jnp.linalg.solve(kernel(s), y)[0, 0]
    assert float(jax.grad(outputs)(0.0)) == pytest.approx(float(jax.grad(once)(0.0)), rel=1e-8)


def test_single_precision_has_the_same_derivative():
    theta, change, y, f0_x = (x.astype(jnp.float32) for x in problem("repeated inputs, two outputs"))
    outputs = lambda theta: train_outputs(decompose(theta), flow(2.0), y, f0_x)
    found = jax.jvp(outputs, (theta,), (change,))[1]
    double = [np.asarray(x, float) for x in (theta, change, f0_x - y)]
    expected = expm_frechet(-2 * double[0], -2 * double[1], compute_expm=False) @ double[2]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 * abs(expected).max())


def test_the_ensemble_has_the_derivative_of_the_matrix_exponential(x64):
    theta, change, y, _ = problem("a ring")
    kernel = lambda a: lib.Kernel(a, a)
    mean = lambda theta: ensemble(decompose(theta), flow(2.0), y, *[kernel(jnp.asarray(KERNELS["a ring"]))] * 3)[0]
    block = lambda a, b: np.block([[-np.asarray(a), b], [0 * b, 0 * b]])
    eye, zero = np.eye(8), np.zeros((8, 8))
    integral = expm_frechet(2 * block(theta, eye), 2 * block(change, zero), compute_expm=False)[:8, 8:]
    found = jax.jvp(mean, (theta,), (change,))[1]
    np.testing.assert_allclose(found, KERNELS["a ring"] @ integral @ y, atol=1e-11)


def test_times_and_rates_have_derivatives_beside_the_kernel(x64):
    """One number that moves both, in filters of ours and in one that closes over it; inside `jit` and `vmap` too."""
    theta, _, y, f0_x = problem("two outputs")

    def outputs(s):
        own = Filter(lambda lam: s / (s + lam), lambda lam: 1 / (s + lam))
        filter = then(flow(s), then(heavy_ball(0.1 * s, 0.5 * s, 7), own))
        return jnp.sin(train_outputs(decompose(s * theta), filter, y, f0_x)).sum()

    expected = (outputs(0.8 + 1e-5) - outputs(0.8 - 1e-5)) / 2e-5
    assert float(jax.grad(outputs)(0.8)) == pytest.approx(float(expected), rel=1e-7)
    both = jax.jit(jax.vmap(jax.grad(outputs)))(jnp.array([0.8, 0.9]))
    assert float(both[0]) == pytest.approx(float(expected), rel=1e-7)


def test_second_derivatives_are_right_or_missing(x64):
    theta, change, y, f0_x = problem("plain")
    outputs = lambda s: train_outputs(decompose(theta + s * change), flow(2.0), y, f0_x).sum()
    by_difference = (jax.grad(outputs)(1e-5) - jax.grad(outputs)(-1e-5)) / 2e-5
    assert float(jax.hessian(outputs)(0.0)) == pytest.approx(float(by_difference), rel=1e-6)
    theta, change, y, f0_x = problem("two outputs")
    assert np.isnan(jax.hessian(outputs)(0.0))


def test_eigenvalues_and_vectors_have_derivatives_but_at_ties(x64):
    theta, change, *_ = problem("plain")
    values = lambda s: decompose(theta + s * change).eigenvalues
    vectors = lambda s: abs(decompose(theta + s * change).eigenvectors)
    for function in (values, vectors):
        by_difference = (function(1e-6) - function(-1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jacfwd(function)(0.0), by_difference, rtol=1e-6, atol=1e-7)
    for name in ("repeated inputs, two outputs", "two outputs", "a ring"):
        theta, change, *_ = problem(name)
        changes = np.asarray(jax.jacfwd(values)(0.0))
        tied = np.isclose(np.diff(decompose(theta).eigenvalues), 0, atol=1e-12)
        assert np.array_equal(np.isnan(changes), np.append(tied, False) | np.append(False, tied))


def test_filters_pass_through_jit():
    traced = []

    @jax.jit
    def outputs(filter):
        traced.append(filter)
        return train_outputs(decompose(jnp.eye(2)), filter, jnp.ones((2, 1)), jnp.zeros((2, 1)))

    for t in (1.0, 2.0):
        np.testing.assert_allclose(outputs(flow(t)), 1 - np.exp(-t), **tolerance(jnp.ones(1)))
    assert len(traced) == 1


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_inputs_have_eigenvalues_of_zero(x64, n, dtype):
    """Each input twice: n/2 eigenvalues are rounding, and none of them may learn. The others all do, where they can."""
    x = np.random.default_rng(0).normal(size=(n // 2, 5)).astype(dtype)
    x = jnp.asarray(np.concatenate([x, x]))
    net = lib.fully_connected(8, 2, 1, lib.erf, W_std=1.5, b_std=0.1)
    for theta in (net.kernel(x).ntk, x @ x.T):
        eigenvalues = decompose(theta).eigenvalues
        assert int((eigenvalues == 0).sum()) >= n // 2
    if n == 20:
        assert int((decompose(net.kernel(x).ntk).eigenvalues == 0).sum()) == n // 2


def test_single_precision_learns_what_its_rounding_leaves(x64):
    """512 points of a line: a floor of n·eps·λ_max left .39 of the training error, where 14 modes can be learnt."""
    x = jnp.linspace(-1, 1, 512, dtype=jnp.float32)[:, None]
    theta, y = lib.fully_connected(8, 2, 1, lib.erf, W_std=1.5, b_std=1.0).kernel(x).ntk, jnp.sin(8 * x)
    f = train_outputs(decompose(theta), flow(jnp.inf), y, 0 * y)
    assert float(abs(f - y).max()) < 0.06


def test_an_asymmetric_kernel_is_refused():
    """A kernel of as many test inputs as training inputs; rounding of single precision is none."""
    theta = jnp.exp(-((jnp.arange(4.0)[:, None] - jnp.arange(4.0) - 0.3) ** 2))
    for function in (decompose, max_learning_rate, lib.critical_learning_rate):
        with pytest.raises(ValueError, match=r"`theta` must be symmetric, got a matrix that differs .* by 0.4"):
            function(theta)
        leaves = jax.tree.leaves(jax.jit(function)(theta))
        assert all(np.isnan(leaf).all() for leaf in leaves)
    nearly = jnp.eye(4).at[0, 1].set(1e-6)
    assert float(decompose(nearly).eigenvalues[0]) == pytest.approx(1, abs=1e-5)


def test_no_examples_have_no_modes():
    nothing = jnp.zeros((0, 2))
    spectrum = decompose(jnp.zeros((0, 0)))
    assert spectrum.eigenvalues.shape == (0,)
    assert train_outputs(spectrum, flow(jnp.ones(3)), nothing, nothing).shape == (3, 0, 2)


def test_errors_name_the_argument():
    theta, y = jnp.eye(3), jnp.ones((3, 1))
    with pytest.raises(ValueError, match=r"`theta` must have shape \(N, N\)"):
        decompose(theta[:2])
    with pytest.raises(TypeError, match=r"`theta` must be an array, got a Kernel; take its .ntk"):
        decompose(lib.Kernel(theta, theta))
    with pytest.raises(TypeError, match=r"`spectrum` must be that of .* from `decompose`, got"):
        train_outputs(theta, flow(1.0), y, y)
    with pytest.raises(TypeError, match=r"`filter` must be a Filter, such as .* got float"):
        train_outputs(decompose(theta), 1.0, y, y)
    with pytest.raises(ValueError, match="`f0_x` must have the shape of `y`"):
        train_outputs(decompose(theta), flow(1.0), y, 0.0)
    with pytest.raises(ValueError, match="`spectrum` has 3 modes, expected N = 2 or N·K = 2"):
        train_outputs(decompose(theta), flow(1.0), y[:2], y[:2])


def test_what_is_no_matrix_of_digits_is_refused():
    for function in (decompose, max_learning_rate, lib.critical_learning_rate):
        for dtype in (jnp.float16, jnp.bfloat16, bool):
            with pytest.raises(TypeError, match="`theta` must hold numbers of single or double precision, got"):
                function(jnp.eye(2, dtype=dtype))
        with pytest.raises(TypeError, match="`theta` must hold real numbers, got complex"):
            function(jnp.eye(2) + 0j)


def test_targets_of_integers_do_not_wrap_around():
    """Bytes of NumPy's, whose difference is taken below 0; of no more digits than the spectrum's."""
    spectrum = decompose(jnp.eye(2, dtype=jnp.float32))
    y, f0_x = np.array([[3], [200]], np.uint8), np.array([[5], [100]], np.uint8)
    for kind in (lambda a: a, lambda a: a.tolist(), jnp.asarray):
        for filtered, expected in ((coefficients, [[-2.0], [100.0]]), (train_outputs, [[3.0], [200.0]])):
            found = filtered(spectrum, flow(jnp.inf), kind(y), kind(f0_x))
            assert found.dtype == jnp.float32 and found.tolist() == expected
    true = np.array([[True], [False]])
    assert coefficients(spectrum, flow(jnp.inf), true, ~true).tolist() == [[1.0], [-1.0]]
    with pytest.raises(TypeError, match="`y` must hold real numbers, got complex"):
        coefficients(spectrum, flow(1.0), 1j * y, f0_x)
    with pytest.raises(TypeError, match="`f0_x` must be an array of numbers, got NoneType"):
        coefficients(spectrum, flow(1.0), y, None)


def test_a_kernel_without_positive_eigenvalues_bounds_no_learning_rate():
    for function in (max_learning_rate, lib.critical_learning_rate):
        for theta in (jnp.zeros((2, 2)), -jnp.eye(2), jnp.zeros((0, 0))):
            assert float(function(theta)) == np.inf
        assert np.isnan(function(jnp.full((2, 2), jnp.nan)))


def test_products_name_the_argument():
    with pytest.raises(TypeError, match="`theta` must be an array, got a Kernel"):
        lib.kernel_product(lib.Kernel(jnp.eye(2), jnp.eye(2)), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"`theta` must have shape \(M, N\)"):
        lib.kernel_product(jnp.ones(2), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"`a` must have shape \(..., N, K\)"):
        lib.kernel_product(jnp.eye(2), jnp.ones((3, 1)))
