"""Training of the coefficients step by step, against the weights it stands for and against filters."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import small_network
from problems import cross_entropy, half_square, random_problem

import lib.programs
from lib import (
    Kernel,
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
        optax.chain(optax.clip(1e12), optax.sgd(0.1)),
        optax.chain(optax.centralize(), optax.sgd(0.1)),
        optax.chain(
            optax.masked(optax.scale(2.0), lambda w: jax.tree.map(lambda leaf: leaf.ndim > 1, w)), optax.sgd(0.1)
        ),
    ],
    "must leave weights alone where gradients are 0": [
        optax.chain(optax.add_decayed_weights(1e-6), optax.sgd(0.1)),
        optax.lion(0.1),
    ],
    "must need nothing but gradients": [
        optax.polyak_sgd(),
        optax.multi_transform(
            {"fast": optax.sgd(1.0), "slow": optax.sgd(0.1)}, {"layers_1": "fast", "layers_3": "slow"}
        ),
    ],
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


def test_single_precision_stays_near_double_over_many_steps(x64):
    """Ten thousand small steps, by a schedule too: what is rounded at each does not add up, nor is a step left out."""
    theta, _, y, f0_x = random_problem(6, 2, full=True)
    single = [part.astype(jnp.float32) for part in (theta, y, f0_x)]
    for optimizer in (optax.sgd(2e-3, momentum=0.9), optax.sgd(optax.cosine_decay_schedule(1e-2, 10**4))):
        a, exact = (descend(half_square, *given, 10**4, optimizer) for given in (single, (theta, y, f0_x)))
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(kernel_product(theta, a), kernel_product(theta, exact), atol=1e-4)
        assert float(abs(kernel_product(theta, exact)).max()) > 1  # it did train


def test_a_learning_rate_may_be_mapped_over():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    rates = jnp.array([0.1, 0.2])
    swept = jax.vmap(lambda eta: descend(half_square, theta, y, f0_x, 5, optax.sgd(eta)))(rates)
    each = [descend(half_square, theta, y, f0_x, 5, optax.sgd(float(eta))) for eta in rates]
    np.testing.assert_allclose(swept, jnp.stack(each), rtol=1e-5)


TRACED = {
    "must be linear": [
        lambda eta: optax.adam(eta),
        lambda eta: optax.inject_hyperparams(optax.adam)(learning_rate=eta),
        lambda eta: optax.adam(optax.cosine_decay_schedule(eta, 20)),
        lambda eta: optax.chain(optax.clip(eta), optax.sgd(0.1)),
        lambda eta: optax.chain(optax.clip_by_global_norm(eta), optax.sgd(0.1)),
    ],
    "must leave weights alone where gradients are 0": [
        lambda eta: optax.adamw(eta),
        lambda eta: optax.chain(optax.add_decayed_weights(eta), optax.sgd(0.1)),
    ],
}


@pytest.mark.parametrize("message", TRACED)
def test_the_same_are_refused_where_their_rate_is_traced(message):
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    for transformation in (jax.jit, jax.vmap, jax.grad):
        for make in TRACED[message]:
            argument = jnp.array([0.1, 0.2]) if transformation is jax.vmap else 0.1
            with pytest.raises(ValueError, match=f"`optimizer` {message}"):
                transformation(lambda eta, make=make: descend(half_square, theta, y, f0_x, 3, make(eta)).sum())(
                    argument
                )


def test_what_is_linear_is_so_at_every_rate():
    """Traced by jit, vmap and grad, whatever it is in: rate, momentum, a schedule's length, or a state of Optax."""
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    rates = {
        "momentum": lambda eta: optax.sgd(eta, momentum=eta),
        "injected": lambda eta: optax.inject_hyperparams(optax.sgd)(learning_rate=eta, momentum=0.9),
        "schedule": lambda eta: optax.sgd(lambda count: jnp.where(count < 35 * eta, eta, 0.5 * eta), nesterov=True),
    }
    for make in rates.values():
        run = lambda eta, make=make: descend(half_square, theta, y, f0_x, 5, make(eta))
        expected, slope = run(0.1), (run(0.1 + 1e-3) - run(0.1 - 1e-3)) / 2e-3
        np.testing.assert_allclose(jax.jit(jax.vmap(run))(jnp.array([0.1, 0.2]))[0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.jacobian(run)(0.1), slope, rtol=5e-3, atol=5e-3)


def test_a_number_of_steps_may_be_traced_too_if_the_optimiser_counts_them():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    late = lambda after: optax.sgd(lambda count: jnp.where(count < after, 0.1, 0.2))
    run = lambda after: descend(half_square, theta, y, f0_x, 5, late(after))
    np.testing.assert_allclose(jax.jit(run)(2), run(2), rtol=1e-5)


def test_nothing_of_a_loss_or_an_optimiser_is_kept():
    """Neither the program, nor the arrays that they close over."""
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    seen = []
    for _ in range(4):
        weights, rate = jnp.linspace(1, 2, 4)[:, None], jnp.asarray(0.1)
        descend(lambda f, y, w=weights: 0.5 * jnp.sum(w * (f - y) ** 2), theta, y, f0_x, 3, optax.sgd(rate))
        gc.collect()
        seen.append((len(jax.live_arrays()), len(lib.programs._KEPT)))
    assert seen[1] == seen[3]


def test_an_optimiser_that_is_kept_is_compiled_once():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    traces = []
    sgd = optax.sgd(lambda count: traces.append(0) or 0.1)
    descend(half_square, theta, y, f0_x, [3, 5], sgd)
    first = len(traces)
    descend(half_square, 2 * theta, y, f0_x, np.array([5, 1]), sgd)
    assert len(traces) == first > 0


def test_steps_come_in_any_integers():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    sgd = optax.sgd(0.1)
    run = lambda steps: descend(half_square, theta, y, f0_x, steps, sgd)
    for steps in (3, np.int64(3), np.uint8(3), jnp.asarray(3)):
        np.testing.assert_array_equal(run(steps), run([3, 0])[0])
    assert run([]).shape == (0, 4, 2) and run(np.zeros((2, 0), int)).shape == (2, 0, 4, 2)
    np.testing.assert_array_equal(run([0]), 0 * y[None])


def test_no_examples_have_no_coefficients():
    empty = jnp.zeros((0, 2))
    assert descend(half_square, jnp.zeros((0, 0)), empty, empty, [1, 2], optax.sgd(0.1)).shape == (2, 0, 2)


def test_a_kernel_in_double_precision_takes_the_outputs_along(x64):
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    a = descend(half_square, theta, y, f0_x.astype(jnp.float32), 3, optax.sgd(0.1, momentum=0.9))
    assert a.dtype == jnp.float64


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
    with pytest.raises(TypeError, match="`steps` must be known before compilation"):
        jax.jit(lambda f: descend(half_square, theta, y, f, jnp.array([1, 2]), sgd))(f0_x)
    with pytest.raises(ValueError, match="`steps` must be 0 or more, got -1"):
        descend(half_square, theta, y, f0_x, [2, -1], sgd)
    with pytest.raises(ValueError, match=r"`y` must have shape \(N, K\)"):
        descend(half_square, theta, y[:, 0], f0_x, 1, sgd)
    with pytest.raises(TypeError, match="`y` must be an array of numbers, got str"):
        descend(half_square, theta, "y", f0_x, 1, sgd)
    with pytest.raises(TypeError, match="`theta_xx` must be an array, got a Kernel"):
        descend(half_square, Kernel(theta, theta), y, f0_x, 1, sgd)
    with pytest.raises(TypeError, match="`f0_x` must hold floating-point numbers, got int"):
        descend(half_square, theta, y, jnp.zeros(y.shape, int), 1, sgd)
    with pytest.raises(TypeError, match="`loss` must be a function"):
        descend("half square", theta, y, f0_x, 1, sgd)
    with pytest.raises(TypeError, match="`loss` must return a floating-point number, got int32"):
        descend(lambda f, y: jnp.int32(0), theta, y, f0_x, 1, sgd)
    with pytest.raises(ValueError, match="`loss` must return one number, got a tuple"):
        descend(lambda f, y: (half_square(f, y), 0.0), theta, y, f0_x, 1, sgd)


def test_an_optimiser_that_bends_late_or_at_small_gradients_is_refused():
    """A clip from the 20th step on, which 16 steps do not see; and updates that vanish below a threshold."""
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    late = optax.conditionally_transform(optax.clip(1e-3), lambda step, **_: step >= 20)
    dead = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.where(abs(u) < 1e-9, 0, u), updates))
    for bend in (late, dead):
        with pytest.raises(ValueError, match="`optimizer` must be linear"):
            descend(half_square, theta, y, f0_x, 30, optax.chain(bend, optax.sgd(0.1)))


def test_a_linear_optimiser_may_diverge_or_vanish_in_a_long_run():
    theta, _, y, f0_x = random_problem(4, 2, full=False)
    fading = lambda step: 0.1 * 0.5**step
    for optimizer in (optax.sgd(1e-3, momentum=1.3), optax.sgd(fading, momentum=0.9), optax.sgd(1e-3)):
        assert descend(half_square, theta, y, f0_x, [1, 600], optimizer).shape == (2, 4, 2)
