"""Filters made of filters, against the steps they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from tolerances import tolerance

from lib import averaged, decayed, decompose, descent, flow, heavy_ball, momentum_flow, nesterov, posterior, then
from lib.training.closed_form import test_outputs

MODES = np.array([0.0, 1e-14, 1e-3, 0.3, 1.0, 2.5])


def test_descent_after_descent_is_longer_descent():
    lam = jnp.array(MODES)
    twice, once = then(descent(0.5, 3), descent(0.5, jnp.array([4, 9]))), descent(0.5, jnp.array([7, 12]))
    for a, b in zip(twice, once, strict=True):
        np.testing.assert_allclose(a(lam), b(lam), **tolerance(lam))


@pytest.mark.parametrize("method", [heavy_ball, nesterov])
def test_momentum_restarts_between_filters(method):
    """So two runs of 10 steps are not one of 20: they are 20 steps whose velocity is set to 0 after 10."""
    h = v = np.zeros_like(MODES)
    for i in range(20):
        gradient = 1 - MODES * h
        v = 0.8 * (0 if i == 10 else v) + gradient
        h = h + 0.3 * (v if method is heavy_ball else gradient + 0.8 * v)
    lam = jnp.array(MODES)
    twice = then(method(0.3, 0.8, 10), method(0.3, 0.8, 10))
    np.testing.assert_allclose(twice.response(lam), h, **tolerance(lam, scale=10))
    np.testing.assert_allclose(twice.residual(lam), 1 - MODES * h, **tolerance(lam, scale=10))
    assert float(abs(twice.residual(lam) - method(0.3, 0.8, 20).residual(lam)).max()) > 1e-3


def test_an_average_is_of_the_iterates():
    lam, steps = jnp.array(MODES), np.arange(12)
    for method in (descent(0.3, steps), heavy_ball(0.3, 0.8, steps), nesterov(0.3, 0.8, steps)):
        weights = 0.7 ** np.arange(12)[::-1]
        for mean, share in ((averaged(method), np.ones(12)), (averaged(method, jnp.array(weights)), weights)):
            for ours, each in zip(mean, method, strict=True):
                expected = np.average(np.asarray(each(lam)), axis=0, weights=share)
                np.testing.assert_allclose(ours(lam), expected, **tolerance(lam))


def test_polyaks_average_leaves_h_over_its_time():
    lam = jnp.array(MODES)
    mean = averaged(descent(0.4, jnp.arange(25)))
    np.testing.assert_allclose(mean.residual(lam), descent(0.4, 25).response(lam) / (0.4 * 25), **tolerance(lam))


def test_averages_are_over_the_last_axis_of_the_steps():
    lam, steps = jnp.array(MODES), jnp.arange(6).reshape(2, 3)
    mean = averaged(descent(0.3, steps))
    assert mean.residual(lam).shape == (2, len(MODES))
    np.testing.assert_allclose(mean.response(lam)[1], averaged(descent(0.3, steps[1])).response(lam), **tolerance(lam))


@pytest.mark.parametrize("mu", [1e-12, 0.2, 3.0])
def test_decayed_flow_is_the_matrix_exponential(mu):
    """ḣ = 1 − (λ + µ)h, for (h, 1); and the two formulas of the docstring."""
    lam = jnp.array(MODES)
    for t in (0.0, 0.7, 40.0):
        h = np.array([expm(t * np.array([[-(x + mu), 1], [0, 0]]))[0, 1] for x in MODES])
        filtered = decayed(flow(t), mu)
        np.testing.assert_allclose(filtered.response(lam), h, **tolerance(lam))
        np.testing.assert_allclose(filtered.residual(lam), 1 - MODES * h, **tolerance(lam))
        stated = (mu + MODES * np.exp(-(MODES + mu) * t)) / (MODES + mu)
        np.testing.assert_allclose(filtered.residual(lam), stated, **tolerance(lam))


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_decay_of_a_step_is_toward_the_start(beta):
    h = v = np.zeros_like(MODES)
    for _ in range(30):
        v = beta * v + (1 - MODES * h) - 0.2 * h
        h = h + 0.3 * v
    lam = jnp.array(MODES)
    for filtered in (decayed(heavy_ball(0.3, beta, 30), 0.2), *([decayed(descent(0.3, 30), 0.2)] if not beta else [])):
        np.testing.assert_allclose(filtered.response(lam), h, **tolerance(lam, scale=10))
        np.testing.assert_allclose(filtered.residual(lam), 1 - MODES * h, **tolerance(lam, scale=10))


def test_no_decay_changes_nothing():
    lam = jnp.array([*MODES, -1.0])
    for method in (flow(3.0), momentum_flow(3.0, momentum=0.5, learning_rate=0.1)):
        for ours, plain in zip(decayed(method, 0.0), method, strict=True):
            np.testing.assert_allclose(ours(lam), plain(lam), **tolerance(lam))


def test_decay_is_noise(x64):
    """Trained to the end with decay µ from f₀ = 0, the linear model is the posterior mean with noise variance µ."""
    x, xt = np.linspace(0, 2, 6)[:, None], np.array([[0.3], [1.7]])
    gram = lambda a, b: jnp.exp(-((a[:, None] - b) ** 2).sum(-1))
    y = jnp.sin(3 * jnp.asarray(x))
    args = decayed(flow(jnp.inf), 0.1), y, jnp.zeros((6, 1)), gram(xt, x), jnp.zeros((2, 1))
    mean, _ = posterior(gram(x, x), gram(xt, x), gram(xt, xt), y, noise_variance=0.1)
    np.testing.assert_allclose(test_outputs(decompose(gram(x, x)), *args), mean, rtol=1e-10)


def test_weights_may_be_a_list_and_keep_the_eigenvalues_digits():
    lam = jnp.array(MODES)
    mean = averaged(descent(0.3, jnp.arange(3)), [0.1, 0.2, 0.7])
    np.testing.assert_allclose(mean.residual(lam) + lam * mean.response(lam), 1, **tolerance(lam, scale=1e-2))
    array = averaged(descent(0.3, jnp.arange(3)), jnp.array([0.1, 0.2, 0.7]))
    np.testing.assert_array_equal(mean.response(lam), array.response(lam))


def test_errors_name_the_argument():
    with pytest.raises(TypeError, match="`weights` must be an array of numbers, got str"):
        averaged(descent(0.1, jnp.arange(5)), "equal")
    with pytest.raises(ValueError, match="`filter` must be made with an array of steps"):
        averaged(descent(0.1, 5))
    with pytest.raises(ValueError, match=r"`weights` must have shape \(5,\)"):
        averaged(descent(0.1, jnp.arange(5)), jnp.ones(4))


def test_only_filters_are_composed():
    for make in (lambda f: then(f, flow(1.0)), lambda f: then(flow(1.0), f), averaged, lambda f: decayed(f, 0.1)):
        with pytest.raises(TypeError, match=r"must be a Filter, such as .* got NoneType"):
            make(None)
    with pytest.raises(ValueError, match="`filter` must be made with an array of steps"):
        averaged(descent(0.1, []))
