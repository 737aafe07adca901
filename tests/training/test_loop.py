"""The training loop against Optax written out by hand, and its promises about minibatches and observations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import shifted, small_network
from tolerances import tolerance

from lib import linearize, train


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def problem():
    net, params, x = small_network()
    return net, params, x, jnp.cos(jnp.arange(10, dtype=x.dtype)).reshape(5, 2)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.01), optax.sgd(0.01, momentum=0.9), optax.adam(0.01)])
def test_the_loop_is_the_optimizer_step_by_step(optimizer):
    net, params, x, y = problem()
    run = train(net, params, half_square, optimizer, x, y, 6)
    theta, state = params, optimizer.init(params)
    for _ in range(6):
        gradient = jax.grad(lambda p: half_square(net(p, x), y))(theta)
        updates, state = optimizer.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance(x, scale=100)), run.params, theta)
    assert half_square(net(run.params, x), y) < 0.9 * half_square(net(params, x), y)


def test_observations_are_of_the_parameters_at_those_steps():
    net, params, x, y = problem()
    run = train(net, params, half_square, optax.sgd(0.01), x, y, 5, at=(0, 2, 5))
    assert run.steps.tolist() == [0, 2, 5]
    for step, outputs in zip((0, 2, 5), run.observed, strict=True):
        alone = train(net, params, half_square, optax.sgd(0.01), x, y, step).params
        np.testing.assert_allclose(outputs, net(alone, x), **tolerance(x, scale=100))


def test_observe_may_return_any_pytree():
    net, params, x, y = problem()
    see = lambda p: {"weight": p["W1"][0, 0], "loss": half_square(net(p, x), y)}
    run = train(net, params, half_square, optax.sgd(0.01), x, y, 3, at=(0, 3), observe=see)
    assert run.observed["weight"].shape == (2,)
    assert float(run.observed["weight"][1]) == pytest.approx(float(run.params["W1"][0, 0]))
    assert run.observed["loss"][1] < run.observed["loss"][0]


def rows_seen(steps, n=4, batch=2):
    """How often each row has been seen after each step: the weights of a model whose gradient counts it."""
    net = lambda params, x: x @ params
    count = lambda f, y: -jnp.sum(f)
    arguments = (
        jnp.zeros((n, 1)),
        count,
        optax.sgd(1.0),
        jnp.eye(n),
        jnp.zeros((n, 1)),
        steps,
        batch,
        jax.random.key(0),
    )
    run = train(net, *arguments, at=range(steps + 1), observe=lambda p: p[:, 0])
    return np.asarray(run.observed)


def test_minibatches_partition_each_epoch():
    seen = rows_seen(4)
    assert seen[1].sum() == 2 and seen[1].max() == 1
    assert seen[2].tolist() == [1] * 4 and seen[4].tolist() == [2] * 4
    assert seen[3].max() == 2


def test_each_epoch_has_an_order_of_its_own():
    """Of eight epochs of sixteen rows, no two begin with the same four."""
    firsts = np.diff(rows_seen(32, n=16, batch=4), axis=0)[::4]
    assert len({tuple(first) for first in firsts}) == 8


def test_what_does_not_fill_a_minibatch_waits_for_another_epoch():
    """Five rows in twos: each epoch leaves one out, and over many all are seen."""
    seen = rows_seen(40, n=5)
    assert seen[2].tolist().count(0) == 1 and seen[40].min() > 10


def test_the_linearisation_sees_the_same_minibatches():
    """For a network that is linear already the two runs are one; with other minibatches they are not."""
    net = lambda params, x: x @ params
    _, _, x, y = problem()
    params, arguments = jnp.zeros((3, 2)), (half_square, optax.sgd(0.05, momentum=0.9), x, y, 9, 2)
    run = train(net, params, *arguments, jax.random.key(3))
    linear = train(linearize(net, params), params, *arguments, jax.random.key(3))
    other = train(net, params, *arguments, jax.random.key(4))
    np.testing.assert_allclose(run.params, linear.params, **tolerance(x, scale=100))
    assert float(abs(run.params - other.params).max()) > 1e-3


def test_single_precision_stays_near_double_over_many_steps(x64):
    """Ten thousand small steps on minibatches, whose order is the same in both precisions."""
    net, params, x, y = problem()
    to = lambda dtype: [jax.tree.map(lambda leaf: leaf.astype(dtype), part) for part in (params, x, y)]
    outputs = []
    for dtype in (jnp.float32, jnp.float64):
        start, inputs, targets = to(dtype)
        run = train(net, start, half_square, optax.sgd(1e-3, 0.9), inputs, targets, 10**4, 2, jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype(dtype)}
        outputs.append(net(run.params, inputs))
    np.testing.assert_allclose(*outputs, atol=1e-4)
    assert half_square(outputs[1], y) < 0.1 * half_square(net(params, x), y)


def test_an_ensemble_is_a_vmap():
    net, params, x, y = problem()
    many = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, -p]), params)
    fit = lambda p: train(net, p, half_square, optax.sgd(0.01), x, y, 4, at=(4,))
    together = jax.vmap(fit)(many)
    for i in range(3):
        alone = fit(jax.tree.map(lambda p: p[i], many))  # noqa: B023
        np.testing.assert_allclose(together.observed[i], alone.observed, **tolerance(x, scale=100))


def test_a_linearisation_of_a_linearisation_trains_the_same():
    net, params, x, y = problem()
    f_lin = linearize(net, params)
    fit = lambda f: train(f, params, half_square, optax.sgd(0.01), x, y, 4, at=(4,)).observed
    np.testing.assert_allclose(fit(linearize(f_lin, shifted(params))), fit(f_lin), **tolerance(x, scale=100))


def test_inputs_and_outputs_may_be_pytrees():
    """Minibatches take the same rows of every array."""
    net, params, x, y = problem()
    split = lambda p, inputs: dict(
        zip("ab", jnp.split(net(p, jnp.concatenate(inputs, axis=1)), 2, axis=1), strict=True)
    )
    loss = lambda f, y: half_square(f["a"], y["a"]) + half_square(f["b"], y["b"])
    tail = (optax.sgd(0.01), x, y, 7)
    for batch in (dict(), dict(batch=2, key=jax.random.key(0))):
        plain = train(net, params, half_square, *tail, **batch, at=(7,))
        tree = (optax.sgd(0.01), (x[:, :1], x[:, 1:]), {"a": y[:, :1], "b": y[:, 1:]}, 7)
        run = train(split, params, loss, *tree, **batch, at=(7,))
        joined = jnp.concatenate([run.observed["a"], run.observed["b"]], axis=2)
        np.testing.assert_allclose(joined, plain.observed, **tolerance(x, scale=100))


def test_an_optimiser_made_anew_needs_no_program_of_its_own():
    _, params, x, y = problem()
    traces = []

    def net(p, x):
        traces.append(1)
        return small_network()[0](p, x)

    def traced(make, *numbers):
        before = len(traces)
        train(net, params, half_square, make(*numbers), x, y, 3)
        return len(traces) - before

    eager = 1  # to know the outputs' shape
    for make in (optax.sgd, optax.adam, lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate, momentum=0.9))):
        assert traced(make, 0.1) > eager and traced(make, 0.1) == eager
        assert traced(make, 0.2) > eager


def test_integers_of_numpy_are_integers():
    net, params, x, y = problem()
    numbers = dict(steps=np.int64(3), batch=np.int32(2), key=jax.random.key(0), at=np.array([0, 3]))
    run = train(net, params, half_square, optax.sgd(0.01), x, y, **numbers)
    assert run.steps.tolist() == [0, 3] and run.observed.shape == (2, 5, 2)


def test_errors_name_the_argument():
    net, params, x, y = problem()
    good = dict(net=net, params=params, loss=half_square, optimizer=optax.sgd(0.1), x=x, y=y, steps=3)
    cases = [
        (TypeError, "`optimizer` must be an Optax optimiser", dict(optimizer=0.1)),
        (TypeError, "`steps` must be an integer", dict(steps=3.0)),
        (ValueError, "`steps` must be an integer of at least 0", dict(steps=-1)),
        (ValueError, r"`y` must have the shape \(N, K\)", dict(y=y[:, 0])),
        (ValueError, "`loss` must return one number", dict(loss=lambda f, y: (f - y) ** 2)),
        (ValueError, "`optimizer` must need nothing but gradients; Optax says", dict(optimizer=optax.lbfgs())),
        (
            ValueError,
            "`optimizer` must need nothing but gradients",
            dict(optimizer=optax.lookahead(optax.sgd(0.1), 2, 0.5)),
        ),
        (TypeError, r"got MultiSteps; take its .gradient_transf", dict(optimizer=optax.MultiSteps(optax.sgd(0.1), 2))),
        (TypeError, "`observe` must be a function of the parameters, got int", dict(observe=3)),
        (TypeError, r"`key` must be a PRNG key such as jax\.random\.key\(0\), got 0", dict(batch=2, key=0)),
        (ValueError, "`batch` must be between 1 and N = 5", dict(batch=6, key=jax.random.key(0))),
        (ValueError, "`batch` must be an integer of at least 1, got 0", dict(batch=0, key=jax.random.key(0))),
        (TypeError, "`batch` must be an integer of at least 1, got 1.0", dict(batch=1.0, key=jax.random.key(0))),
        (TypeError, "`batch` must be an integer of at least 1, got True", dict(batch=True, key=jax.random.key(0))),
        (TypeError, r"`at\[0\]` must be an integer of at least 0, got 0.9", dict(at=(0.9, 2.7))),
        (ValueError, "`x` must hold at least one example to train on", dict(x=x[:0], y=y[:0])),
        (ValueError, r"`y` must have the shape \(N, K\)", dict(y={"a": y})),
        (ValueError, "`key` must be given with `batch`", dict(batch=2)),
        (ValueError, "`at` must ascend within 0", dict(at=(2, 1))),
        (ValueError, "`at` must ascend within 0", dict(at=(0, 4))),
    ]
    for error, message, change in cases:
        with pytest.raises(error, match=message):
            train(**{**good, **change})
