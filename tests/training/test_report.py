"""The report: zero for a linear model, its definitions for a network, larger for a narrower one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import shifted, small_network
from tolerances import tolerance

import lib
from lib import linearity, linearize


def test_a_linear_model_has_nothing_to_report():
    net, params, x = small_network()
    report = linearity(linearize(net, params), params, shifted(params), x)
    assert float(report.kernel_change) < 1e-5 and float(report.rmse) < 1e-5 < float(report.moved)
    assert float(report.lambda_max) == pytest.approx(float(report.lambda_max0), rel=1e-5)


def test_numbers_are_as_defined(x64):
    net, params, x = small_network()
    moved = shifted(params)
    report = linearity(net, params, moved, x)
    matrix = lambda p: lib.empirical_ntk(net, p, x).transpose(0, 2, 1, 3).reshape(10, 10)
    before, after = matrix(params), matrix(moved)
    assert float(report.kernel_change) == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert float(report.lambda_max0) == pytest.approx(np.linalg.eigvalsh(before)[-1])
    assert float(report.lambda_max) == pytest.approx(np.linalg.eigvalsh(after)[-1])
    gap = net(moved, x) - linearize(net, params)(moved, x)
    assert float(report.rmse) == pytest.approx(float(jnp.sqrt(jnp.mean(gap**2))))
    change = net(moved, x) - net(params, x)
    assert float(report.moved) == pytest.approx(float(jnp.sqrt(jnp.mean(change**2))))
    assert float(report.rmse) > 0.1 * float(report.moved)  # far from linear, so that f and f_lin are told apart


def test_a_network_that_nothing_moves_is_linear():
    report = linearity(lambda params, x: x, {}, {}, jnp.ones((3, 2)))
    assert [float(number) for number in report] == [0.0] * 5


def test_inputs_may_be_any_pytree():
    net, params, x = small_network()
    split = lambda p, inputs: net(p, jnp.concatenate([inputs["a"], inputs["b"]], axis=1))
    report = linearity(split, params, shifted(params), {"a": x[:, :1], "b": x[:, 1:]})
    np.testing.assert_allclose(report, linearity(net, params, shifted(params), x), **tolerance(x, scale=10))


def test_no_examples_are_too_few():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`x` must hold at least one example to compare on, got none"):
        linearity(net, params, params, x[:0])


@pytest.mark.once
def test_wider_networks_are_more_linear():
    x, y = jnp.eye(6), jnp.cos(2 * jnp.arange(6.0))[:, None]
    half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)

    def report(width):
        net = lib.fully_connected(width, 2, 1, lib.erf, W_std=1.5, b_std=0.1)
        params = net.init(jax.random.key(0), x)
        run = lib.train(net, params, half_square, optax.sgd(0.1), x, y, 50)
        return linearity(net, params, run.params, x)

    narrow, wide = report(8), report(512)
    assert wide.rmse < narrow.rmse / 4 and wide.kernel_change < narrow.kernel_change / 4
    assert wide.moved > 0.3


def test_half_precision_has_a_report_too():
    line = lambda params, x: x @ params
    half = jnp.zeros((2, 1), jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16), jnp.eye(2, dtype=jnp.bfloat16)
    assert linearity(line, *half).lambda_max == 1
