"""The likelihood against scipy's density, draws against the moments they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from tolerances import tolerance

from lib import Kernel, log_marginal_likelihood, posterior, sample


def gram(n=5, noise=0.0):
    x = jnp.linspace(0, 2, n)
    return jnp.exp(-((x[:, None] - x) ** 2)) + noise * jnp.eye(n)


def test_likelihood_is_the_density_of_the_targets(x64):
    y = jnp.sin(jnp.arange(10.0)).reshape(5, 2)
    for noise in (0.0, 0.3):
        law = multivariate_normal(cov=np.asarray(gram(noise=noise)))
        expected = law.logpdf(y[:, 0]) + law.logpdf(y[:, 1])
        assert float(log_marginal_likelihood(gram(), y, noise)) == pytest.approx(expected, rel=1e-9)


def test_likelihood_is_a_chain_of_posteriors(x64):
    """p(y₁, y₂) = p(y₁) p(y₂ | y₁)."""
    k, y, noise = gram(), jnp.cos(jnp.arange(5.0))[:, None], 0.1
    mean, cov = posterior(k[:3, :3], k[3:, :3], k[3:, 3:], y[:3], noise)
    rest = multivariate_normal(mean[:, 0], np.asarray(cov) + noise * np.eye(2)).logpdf(y[3:, 0])
    first = log_marginal_likelihood(k[:3, :3], y[:3], noise)
    assert float(log_marginal_likelihood(k, y, noise)) == pytest.approx(float(first) + rest, rel=1e-9)


def test_likelihood_has_a_slope_in_the_noise(x64):
    y = jnp.cos(jnp.arange(5.0))[:, None]
    f = lambda noise: log_marginal_likelihood(gram(), y, noise)
    assert float(jax.grad(f)(0.2)) == pytest.approx(float(f(0.2 + 1e-5) - f(0.2 - 1e-5)) / 2e-5, rel=1e-6)


def test_the_noise_decides_no_dtype():
    """Single precision stays, whatever sort of number the noise is: the density of the same targets."""
    k, y = gram().astype(jnp.float32), jnp.cos(jnp.arange(5.0, dtype=jnp.float32))[:, None]
    expected = multivariate_normal(cov=np.asarray(k, float) + 0.3 * np.eye(5)).logpdf(np.asarray(y[:, 0], float))
    for noise in (0.3, np.float64(0.3), np.asarray(0.3), jnp.asarray(0.3)):
        value = log_marginal_likelihood(k, y, noise)
        assert value.dtype == jnp.float32 == jax.jit(log_marginal_likelihood)(k, y, noise).dtype
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_certain_of_no_targets():
    """An empty product, and one draw of no numbers."""
    none = jnp.zeros((0, 0))
    assert float(log_marginal_likelihood(none, jnp.zeros((0, 2)), 0.1)) == 0
    assert sample(jax.random.key(0), jnp.zeros((0, 2)), none, (3,)).shape == (3, 0, 2)


def test_draws_have_the_mean_and_covariance_asked_for():
    mean, cov = jnp.arange(10.0).reshape(5, 2), gram()
    f = np.asarray(sample(jax.random.key(0), mean, cov, shape=(100, 200)))
    assert f.shape == (100, 200, 5, 2)
    f = f.reshape(-1, 10) - np.asarray(mean).ravel()
    np.testing.assert_allclose(f.mean(0), 0, atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(f.T), np.kron(cov, np.eye(2)), atol=4 * np.sqrt(2 / 20_000))


def test_draws_from_a_singular_covariance_obey_it():
    """Two inputs that are the same, and one that is known: rounding below 0 gives no NaN."""
    cov = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, -1e-9]])
    f = sample(jax.random.key(1), jnp.zeros((3, 1)), cov, shape=(50,))
    np.testing.assert_allclose(f[:, 0], f[:, 1], atol=1e-3 if f.dtype == jnp.float32 else 1e-7)
    np.testing.assert_allclose(f[:, 2], 0, **tolerance(f, scale=10))
    assert float(f[:, 0].std()) > 0.5


def test_draws_at_several_times():
    mean, cov = jnp.zeros((2, 5, 1)), jnp.stack([gram(), 100 * gram()])
    f = sample(jax.random.key(2), mean, cov, shape=(400,))
    assert f.shape == (400, 2, 5, 1)
    assert float(f[:, 1].std() / f[:, 0].std()) == pytest.approx(10, rel=0.2)


def test_errors_name_the_argument():
    y = jnp.ones((5, 1))
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        log_marginal_likelihood(gram(), y[:, 0])
    with pytest.raises(ValueError, match=r"`k_xx` must have shape \(5, 5\)"):
        log_marginal_likelihood(gram(4), y)
    with pytest.raises(ValueError, match="`cov` must have shape"):
        sample(jax.random.key(0), y, gram(4))
    with pytest.raises(TypeError, match="`k_xx` must be an array, got a Kernel"):
        log_marginal_likelihood(Kernel(gram(), gram()), y)
    with pytest.raises(TypeError, match="`k_xx` must hold floating-point numbers, got int"):
        log_marginal_likelihood(jnp.eye(5, dtype=int), y)
    with pytest.raises(ValueError, match="`k_xx` must be symmetric"):
        log_marginal_likelihood(gram().at[0, 1].add(1.0), y)
    with pytest.raises(ValueError, match="`noise_variance` must be a number of at least 0"):
        log_marginal_likelihood(gram(), y, -0.1)
    with pytest.raises(TypeError, match="`noise_variance` must be a real number"):
        log_marginal_likelihood(gram(), y, jnp.ones(5))
    with pytest.raises(TypeError, match="`mean` must hold floating-point numbers, got int"):
        sample(jax.random.key(0), jnp.ones((5, 1), int), gram())
    with pytest.raises(ValueError, match="`cov` must be symmetric"):
        sample(jax.random.key(0), jnp.zeros((2, 5, 1)), jnp.stack([gram(), gram().at[0, 1].add(1.0)]))


def test_what_is_no_covariance_has_no_draws():
    """A posterior's, which is 0 but for rounding, has."""
    for cov in (-jnp.eye(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])):
        assert np.isnan(sample(jax.random.key(0), jnp.zeros((2, 1)), cov)).all()
    certain = posterior(gram(), gram(), gram(), jnp.ones((5, 1)))
    assert np.isfinite(sample(jax.random.key(0), *certain)).all()


def test_half_precision_is_refused():
    half = gram().astype(jnp.float16)
    with pytest.raises(TypeError, match="`k_xx` must hold numbers of single or double precision, got float16"):
        log_marginal_likelihood(half, jnp.ones((5, 1)))
    with pytest.raises(TypeError, match="`cov` must hold numbers of single or double precision, got float16"):
        sample(jax.random.key(0), jnp.ones((5, 1)), half)
