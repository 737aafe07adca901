"""Posterior and ensembles against the reference, each other, and trained random features."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import small_network, waves
from problems import half_square
from scipy.linalg import expm

import lib
from lib import (
    Kernel,
    decompose,
    descend,
    descent,
    empirical_ntk,
    ensemble,
    flow,
    heavy_ball,
    kernel_product,
    ntk_vector_product,
    posterior,
    readout_ensemble,
    sample,
)


def problem():
    """The reference's network, inputs and targets: kernels (xx, tx, tt) and y."""
    net = lib.fully_connected(8, 1, 1, lib.erf, W_std=1.5, b_std=0.05)
    x, xt, i = waves(4, 3, 0.0), waves(2, 3, 0.4), jnp.arange(4.0)
    return (net.kernel(x), net.kernel(xt, x), net.kernel(xt)), jnp.stack([jnp.sin(i), jnp.cos(i)], axis=1)


def test_reference_ensembles_over_time(x64, reference):
    """Mean loss over N·K = 8 entries: time is ηt/8. Readout training has its own kernel, and S23's factor 2."""
    values, (kernels, y) = reference["gradient_descent_mse_ensemble"], problem()
    times = flow(values["eta"] * jnp.asarray(values["t"]) / 8)
    for key, function in (("ntk", ensemble), ("nngp", readout_ensemble)):
        spectrum = decompose(getattr(kernels[0], key))
        mean, cov = function(spectrum, times, y, *kernels)
        np.testing.assert_allclose(mean, values[key]["mean"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(cov, values[key]["cov"], rtol=1e-8)
        mean, cov = function(spectrum, flow(jnp.inf), y, *kernels)
        np.testing.assert_allclose(mean, values[key]["mean_inf"], rtol=1e-8)
        np.testing.assert_allclose(cov, values[key]["cov_inf"], rtol=1e-7)


def test_reference_posteriors(x64, reference):
    values, ((xx, tx, tt), y) = reference["gp_inference_abs_reg_1e-3"], problem()
    for key, field in (("nngp", "nngp"), ("ntkgp", "ntk")):
        mean, cov = posterior(*(getattr(k, field) for k in (xx, tx, tt)), y, noise_variance=1e-3)
        np.testing.assert_allclose(mean, values[key]["mean"], rtol=1e-9)
        np.testing.assert_allclose(cov, values[key]["cov"], rtol=1e-8)


@pytest.mark.parametrize("t", [0.3, 2.0])
def test_readout_covariance_decays_at_twice_the_rate(x64, t):
    """Eqs S22-S23 by matrix exponentials. The print's e^{−𝒦t} in S23 is off by far more than rounding."""
    (xx, tx, tt), y = problem()
    k, inverse = np.asarray(xx.nngp), np.linalg.inv(xx.nngp)
    mean, cov = readout_ensemble(decompose(xx.nngp), flow(t), y, xx, tx, tt)
    np.testing.assert_allclose(mean, tx.nngp @ inverse @ (np.eye(4) - expm(-t * k)) @ y, rtol=1e-9)
    variance = lambda factor: tt.nngp - tx.nngp @ inverse @ (np.eye(4) - expm(-factor * t * k)) @ tx.nngp.T
    np.testing.assert_allclose(cov, variance(2), rtol=1e-9)
    assert float(abs(cov - variance(1)).max()) > 1e-3


def test_momentum_ensemble_is_what_trained_linear_models_are(x64):
    """300 draws of the network's prior at training and test inputs together, each trained by its own heavy ball."""
    (xx, tx, tt), y = problem()
    joint = jnp.block([[xx.nngp, tx.nngp.T], [tx.nngp, tt.nngp]])
    f0 = sample(jax.random.key(0), jnp.zeros((6, 2)), joint, shape=(300,))
    eta, steps = 0.1, jnp.array([3, 12])
    mean, cov = ensemble(decompose(xx.ntk), heavy_ball(eta, 0.8, steps), y, xx, tx, tt)
    train_one = lambda f: descend(half_square, xx.ntk, y, f[:4], steps, optax.sgd(eta, 0.8))
    f = f0[:, None, 4:] + kernel_product(tx.ntk, jax.vmap(train_one)(f0))  # (300, steps, test, K)
    error = jnp.sqrt(jnp.diagonal(cov, axis1=1, axis2=2) / 300)[..., None]
    assert np.all(abs(f.mean(0) - mean) < 4 * error)
    assert np.any(abs(mean) > 20 * error)  # an untrained ensemble would fail
    centred = f - mean
    spread = jnp.einsum("btmk,btnk->tmn", centred, centred) / 600
    noise = jnp.sqrt((cov**2 + jnp.einsum("tm,tn->tmn", *[jnp.diagonal(cov, axis1=1, axis2=2)] * 2)) / 600)
    assert np.all(abs(spread - cov) < 4 * noise)
    assert float(cov[1, 0, 0] / tt.nngp[0, 0]) < 0.5  # training has narrowed it by more than that noise


def test_kernels_of_other_libraries_will_do(x64):
    kernels, y = problem()
    others = [SimpleNamespace(nngp=k.nngp, ntk=k.ntk) for k in kernels]
    for function, theta in ((ensemble, kernels[0].ntk), (readout_ensemble, kernels[0].nngp)):
        for ours, theirs in zip(
            *(function(decompose(theta), flow(2.0), y, *k) for k in (kernels, others)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_the_posterior_can_be_differentiated(x64):
    """By central differences in the noise, with equal eigenvalues, where eigenvectors have no derivative."""
    k_xx, k_tx, k_tt, y = jnp.eye(3), 0.1 * jnp.ones((1, 3)), jnp.eye(1), jnp.arange(3.0)[:, None]
    f = lambda noise: posterior(k_xx, k_tx, k_tt, y, noise)[0][0, 0]
    assert float(jax.grad(f)(0.5)) == pytest.approx(float(f(0.5 + 1e-5) - f(0.5 - 1e-5)) / 2e-5, rel=1e-6)


def test_conjugate_gradients_need_only_products(x64):
    """The docstring's way when the kernel does not fit: here with Θ̂ products of a network."""
    net, params, x = small_network(outputs=1)
    y, x_test = jnp.sin(jnp.arange(5.0))[:, None], 0.4 * x[:2]
    product = lambda a: ntk_vector_product(net, params, x, x, a) + 0.1 * a
    a, _ = jax.scipy.sparse.linalg.cg(product, y, tol=1e-12)
    xx, tx, tt = (empirical_ntk(net, params, *pair)[..., 0, 0] for pair in ((x, x), (x_test, x), (x_test, x_test)))
    mean, _ = posterior(xx, tx, tt, y, noise_variance=0.1)
    np.testing.assert_allclose(ntk_vector_product(net, params, x_test, x, a), mean, rtol=1e-8)


def test_each_kernel_must_have_its_own_shape():
    one = jnp.ones((2, 2))
    for name, shapes in (
        ("xx", [(3, 2), (2, 2), (2, 2)]),
        ("tx", [(2, 2), (2, 3), (2, 2)]),
        ("tt", [(2, 2)] * 2 + [(2, 3)]),
    ):
        with pytest.raises(ValueError, match=rf"the `{name}` kernel must have shape \(2, 2\)"):
            posterior(*map(jnp.ones, shapes), one)


def test_training_the_readout_to_the_end_is_the_posterior(x64):
    """Sample, then optimise: eq S23 at t → ∞ is eq 13."""
    (xx, tx, tt), y = problem()
    exact = posterior(xx.nngp, tx.nngp, tt.nngp, y)
    trained = readout_ensemble(decompose(xx.nngp), flow(jnp.inf), y, xx, tx, tt)
    np.testing.assert_allclose(trained[0], exact[0], rtol=1e-8)
    np.testing.assert_allclose(trained[1], exact[1], atol=1e-10)


def test_an_untrained_ensemble_is_the_prior(x64):
    kernels, y = problem()
    mean, cov = ensemble(decompose(kernels[0].ntk), descent(0.1, 0), y, *kernels)
    np.testing.assert_allclose(mean, 0)
    np.testing.assert_allclose(cov, kernels[2].nngp)


def test_the_posterior_passes_through_the_data_and_is_certain_there(x64):
    (xx, *_), y = problem()
    mean, cov = posterior(xx.nngp, xx.nngp, xx.nngp, y)
    np.testing.assert_allclose(mean, y, atol=1e-9)
    np.testing.assert_allclose(cov, 0, atol=1e-9)


def test_a_repeated_input_counts_once(x64):
    (xx, tx, tt), y = problem()
    again = jnp.array([0, 1, 2, 3, 3])
    mean, cov = posterior(xx.nngp[again][:, again], tx.nngp[:, again], tt.nngp, y[again])
    once = posterior(xx.nngp, tx.nngp, tt.nngp, y)
    np.testing.assert_allclose(mean, once[0], rtol=1e-6)
    np.testing.assert_allclose(cov, once[1], atol=1e-8)


def test_the_ensemble_is_what_trained_linear_models_are(x64):
    """40,000 linear models with random features of the kernel's law, each trained by its own descent."""
    rng = np.random.default_rng(0)
    x, xt, y = rng.normal(size=(5, 7)), rng.normal(size=(3, 7)), rng.normal(size=(5, 1))
    scales = np.linspace(0.3, 1.2, 7)  # prior 𝒦 = x S² x′ differs from Θ = x x′
    prior = lambda a, b: jnp.asarray(a * scales**2 @ b.T)
    kernels = [Kernel(prior(a, b), jnp.asarray(a @ b.T)) for a, b in ((x, x), (xt, x), (xt, xt))]
    mean, cov = ensemble(decompose(kernels[0].ntk), descent(0.05, 20), jnp.asarray(y), *kernels)
    w = rng.normal(size=(40_000, 7)) * scales
    for _ in range(20):
        w -= 0.05 * (w @ x.T - y[:, 0]) @ x
    f = w @ xt.T
    error = np.sqrt(np.diag(cov) / len(w))
    assert np.all(abs(f.mean(0) - mean[:, 0]) < 4 * error)
    np.testing.assert_allclose(np.cov(f.T), cov, atol=0.03 * np.max(cov))
    assert np.all(abs(mean[:, 0]) > 10 * error)  # an untrained ensemble would fail


def test_little_noise_loses_no_mode(x64):
    """In single precision, below the noise of N·eps·k at which eigenvalues used to be cut off: the mean was .18 off."""
    x = np.linspace(-1, 1, 1000)[:, None]
    net = lib.fully_connected(8, 2, 1, lib.erf, W_std=1.5, b_std=1.0)

    def means(noise):
        for dtype, solve in ((jnp.float32, posterior), (jnp.float64, exact)):
            train, test = jnp.asarray(x, dtype), jnp.asarray(0.97 * x[::50], dtype)
            args = net.kernel(train).nngp, net.kernel(test, train).nngp, net.kernel(test).nngp, jnp.sin(8 * train)
            yield np.asarray(solve(*args, noise)[0])

    def exact(k_xx, k_tx, k_tt, y, noise):
        return (k_tx @ jnp.linalg.solve(k_xx + noise * jnp.eye(1000), y),)

    top = float(net.kernel(jnp.asarray(x[:1])).nngp[0, 0])
    for share, bound in ((10, 0.02), (0.8, 0.02), (0.1, 0.1)):
        single, double = means(share * 1000 * 1.19e-7 * top)
        assert abs(single - double).max() < bound


def test_the_posterior_of_repeated_inputs_can_be_differentiated(x64):
    """Where the Cholesky factor does not exist: by eigenvectors, which have no derivative, yet their function has."""
    angles, again = np.arange(6) * np.pi / 3, np.repeat(np.arange(6), 2)  # a ring, whose eigenvalues come in pairs
    ring, y = jnp.exp(jnp.cos(angles[:, None] - angles)), jnp.sin(jnp.arange(6.0) ** 2)[:, None]

    def weigh(s, rows):
        k = ring + s * jnp.diag(jnp.cos(jnp.arange(6.0)))
        mean, cov = posterior(k[rows][:, rows], ring[:2, rows], ring[:2, :2], y[rows])
        return mean.sum() + jnp.sin(cov).sum()

    once, twice = (jax.grad(weigh)(0.0, rows) for rows in (np.arange(6), again))
    assert float(twice) == pytest.approx(float(once), rel=1e-6)


def test_without_examples_the_posterior_is_the_prior():
    prior, nothing = jnp.eye(3) + 1, jnp.zeros((0, 2))
    for noise in (0.0, 0.1):
        mean, cov = posterior(jnp.zeros((0, 0)), jnp.zeros((3, 0)), prior, nothing, noise)
        assert mean.tolist() == [[0.0, 0.0]] * 3 and cov.tolist() == prior.tolist()
    empty, across, whole = (Kernel(k, k) for k in (jnp.zeros((0, 0)), jnp.zeros((3, 0)), prior))
    mean, cov = ensemble(decompose(empty.ntk), flow(1.0), nothing, empty, across, whole)
    assert mean.tolist() == [[0.0, 0.0]] * 3 and cov.tolist() == prior.tolist()


def test_errors_name_the_argument():
    (xx, tx, tt), y = problem()
    with pytest.raises(TypeError, match=r"`k_xx` must be an array, got a Kernel; take its .ntk or its .nngp"):
        posterior(xx, tx, tt, y)
    with pytest.raises(ValueError, match="`k_xx` must be symmetric"):
        posterior(xx.nngp.at[0, 1].add(0.5), tx.nngp, tt.nngp, y)
    with pytest.raises(ValueError, match="the `tt` kernel must have shape"):
        posterior(xx.nngp, tx.nngp, tt.nngp[0], y)
    with pytest.raises(ValueError, match="`spectrum` has 3 modes, expected N = 4"):
        ensemble(decompose(xx.ntk[:3, :3]), flow(1.0), y, xx, tx, tt)
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        posterior(xx.nngp, tx.nngp, tt.nngp, y[:, 0])
    with pytest.raises(ValueError, match="the `tx` kernel must have shape"):
        posterior(xx.nngp, tx.nngp.T, tt.nngp, y)
    with pytest.raises(ValueError, match="the `xx` kernel must have shape"):
        ensemble(decompose(xx.ntk), flow(1.0), y[:3], xx, tx, tt)


def test_what_is_no_covariance_has_no_posterior():
    """NaN in the place of a mean that looks like one; rounding of single precision is none, whatever the dtype."""
    one = jnp.ones((1, 1))
    for k in (jnp.diag(jnp.array([1.0, -1.0])), jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.full((2, 2), jnp.nan), -one):
        mean, cov = posterior(k, jnp.ones((1, len(k))), one, jnp.ones((len(k), 1)))
        assert np.isnan(mean).all() and np.isnan(cov).all()
    rounded = jnp.diag(jnp.array([1.0, -1e-7]))
    assert posterior(rounded, jnp.ones((1, 2)), one, jnp.ones((2, 1)))[0].item() == pytest.approx(1)
    assert np.isnan(posterior(jnp.nan * one, one, one, one)[0]).all()


def test_the_posterior_names_what_it_refuses():
    one, kernel = jnp.ones((1, 1)), Kernel(jnp.eye(1), jnp.eye(1))
    for wrong in (None, True, jnp.ones(2)):
        with pytest.raises(TypeError, match="`noise_variance` must be a real number"):
            posterior(one, one, one, one, wrong)
    for wrong in (-1.0, jnp.nan):
        with pytest.raises(ValueError, match="`noise_variance` must be a number of at least 0"):
            posterior(one, one, one, one, wrong)
    with pytest.raises(TypeError, match="`k_xx` must hold numbers of single or double precision, got float16"):
        posterior(one.astype(jnp.float16), one, one, one)
    with pytest.raises(TypeError, match="`k_tx` must hold real numbers, got complex"):
        posterior(one, 1j * one, one, one)
    for function in (ensemble, readout_ensemble):
        with pytest.raises(TypeError, match="`kernel_tx` must have fields nngp and ntk"):
            function(decompose(one), flow(1.0), one, kernel, one, kernel)
    assert posterior(one.astype(int), one, one, np.uint8(2 * one))[0].item() == 2
