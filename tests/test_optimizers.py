"""Training of the coefficients step by step, against the weights it stands for and against filters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import small_network
from problems import cross_entropy, half_square, random_problem

from lib import (
    coefficients,
    decompose,
    descend,
    descent,
    empirical_ntk,
    heavy_ball,
    kernel_product,
    linearize,
    nesterov,
    train,
    weight_change,
)

LINEAR = {
    "sgd": lambda eta: optax.sgd(eta),
    "momentum": lambda eta: optax.sgd(eta, momentum=0.9),
    "nesterov": lambda eta: optax.sgd(eta, momentum=0.8, nesterov=True),
    "schedule": lambda eta: optax.sgd(optax.cosine_decay_schedule(eta, 20), momentum=0.5),
    "averaged gradient": lambda eta: optax.chain(optax.ema(0.7), optax.scale(-eta)),
    "accumulated gradient": lambda eta: optax.MultiSteps(optax.sgd(eta), 3).gradient_transformation(),
}
REFUSED = {
    "must be linear": [
        optax.adam(0.1),
        optax.adagrad(0.1),
        optax.rmsprop(0.1),
        optax.lars(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.chain(optax.clip(1e4), optax.sgd(0.1)),
        optax.chain(optax.centralize(), optax.sgd(0.1)),
    ],
    "must leave weights alone where gradients are 0": [
        optax.chain(optax.add_decayed_weights(1e-6), optax.sgd(0.1)),
        optax.lion(0.1),
    ],
    "must need nothing but gradients": [optax.polyak_sgd()],
}


@pytest.mark.parametrize("name, outputs", [*((name, 3) for name in LINEAR), ("sgd", 1), ("nesterov", 1)])
def test_it_is_the_same_optimiser_on_the_weights(x64, name, outputs):
    """Training and test outputs and every weight of the linearised network, after each of 25 steps."""
    net, params, x = small_network(outputs=outputs)
    f_lin, x_test = linearize(net, params), x[:3] * 0.4 + 0.2
    y = jnp.abs(jnp.cos(jnp.arange(5.0 * outputs))).reshape(5, outputs)
    y, loss = (y / y.sum(axis=1, keepdims=True), cross_entropy) if outputs > 1 else (y, half_square)
    theta, steps = empirical_ntk(net, params, x), tuple(range(26))
    optimizer = LINEAR[name](0.8 / jnp.linalg.norm(theta).item())
    both = lambda p: (p, f_lin(p, x), f_lin(p, x_test))
    weights, f_x, f_test = train(f_lin, params, loss, optimizer, x, y, 25, at=steps, observe=both).observed
    a = descend(loss, theta, y, net(params, x), jnp.array(steps), optimizer)
    np.testing.assert_allclose(net(params, x) + kernel_product(theta, a), f_x, atol=1e-8)
    theta_tx = empirical_ntk(net, params, x_test, x)
    np.testing.assert_allclose(net(params, x_test) + kernel_product(theta_tx, a), f_test, atol=1e-8)
    moved = jax.tree.map(jnp.subtract, weights, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), weight_change(net, params, x, a), moved)
    assert float(abs(f_x[-1] - f_x[0]).max()) > 0.2  # it did train


def test_squared_loss_has_its_filters(x64):
    """With a singular kernel, whose null space a explores unseen."""
    theta, _, y, f0_x = random_problem(6, 3, full=True, rank=7)
    spectrum, steps = decompose(theta), jnp.array([[57, 0, 1], [2, 300, 57]])
    for optimizer, filtered in (
        (optax.sgd(0.2), descent(0.2, steps)),
        (optax.sgd(0.2, 0.9), heavy_ball(0.2, 0.9, steps)),
        (optax.sgd(0.2, 0.9, nesterov=True), nesterov(0.2, 0.9, steps)),
    ):
        a = descend(half_square, theta, y, f0_x, steps, optimizer)
        assert a.shape == (2, 3, *y.shape)
        np.testing.assert_allclose(a, coefficients(spectrum, filtered, y, f0_x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("message", REFUSED)
def test_optimisers_that_are_not_linear_are_refused(message):
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    for optimizer in REFUSED[message]:
        with pytest.raises(ValueError, match=f"`optimizer` {message}"):
            descend(half_square, theta, y, f0_x, 3, optimizer)


@pytest.mark.parametrize(
    "bend",
    [
        lambda u: u + 0.01 * jnp.abs(u),
        lambda u: u * (1 + 0.01 * jnp.tanh(1e-3 * jnp.linalg.norm(u))),
        lambda u: u * (1 + 0.01 * jnp.arange(u.size).reshape(u.shape)),
        lambda u: u + 0.01 * u**2,
    ],
)
def test_an_optimiser_that_is_one_percent_from_linear_is_refused(bend):
    """A kink at 0, a size that changes the direction not, rates that differ by weight, a square."""
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    nearly = optax.chain(optax.stateless(lambda updates, params: jax.tree.map(bend, updates)), optax.sgd(0.1))
    with pytest.raises(ValueError, match="`optimizer` must be linear"):
        descend(half_square, theta, y, f0_x, 3, nearly)


def test_a_learning_rate_may_be_mapped_over():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    rates = jnp.array([0.1, 0.2])
    swept = jax.vmap(lambda eta: descend(half_square, theta, y, f0_x, 5, optax.sgd(eta)))(rates)
    each = [descend(half_square, theta, y, f0_x, 5, optax.sgd(float(eta))) for eta in rates]
    np.testing.assert_allclose(swept, jnp.stack(each), rtol=1e-5)


def test_one_step_count_gives_one_array_in_the_dtype_of_the_outputs():
    theta, _, y, f0_x = (jnp.asarray(part, jnp.float32) for part in random_problem(4, 2, full=False))
    a = descend(half_square, theta, y, f0_x, 1, optax.sgd(0.5))
    assert a.shape == (4, 2) and a.dtype == jnp.float32
    np.testing.assert_allclose(a, -0.5 * (f0_x - y), rtol=1e-6)


def test_errors_name_the_argument():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="`loss` must return one number, got an array of shape"):
        descend(optax.softmax_cross_entropy, theta, y, f0_x, 1, sgd)
    with pytest.raises(ValueError, match=r"`theta_xx` must have shape \(4, 4\)"):
        descend(half_square, theta[:3], y, f0_x, 1, sgd)
    with pytest.raises(TypeError, match="`steps` must be an integer"):
        descend(half_square, theta, y, f0_x, 1.5, sgd)
    with pytest.raises(TypeError, match="`optimizer` must be an Optax optimiser"):
        descend(half_square, theta, y, f0_x, 1, "sgd")
