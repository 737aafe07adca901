"""Posterior and ensembles against the reference, each other, and trained random features."""

import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves

import lib
from lib import Kernel, decompose, descent, ensemble, flow, posterior, readout_ensemble


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


def test_errors_name_the_argument():
    (xx, tx, tt), y = problem()
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        posterior(xx.nngp, tx.nngp, tt.nngp, y[:, 0])
    with pytest.raises(ValueError, match="the `tx` kernel must have shape"):
        posterior(xx.nngp, tx.nngp.T, tt.nngp, y)
    with pytest.raises(ValueError, match="the `xx` kernel must have shape"):
        ensemble(decompose(xx.ntk), flow(1.0), y[:3], xx, tx, tt)
