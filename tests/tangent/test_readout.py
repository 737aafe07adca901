"""The readout's kernel: a share of the tangent kernel, and in the limit the infinite network's covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from tolerances import tolerance

from lib import (
    Dense,
    Flatten,
    Residual,
    Sequential,
    convolutional,
    empirical_nngp,
    empirical_ntk_by_layer,
    erf,
    fully_connected,
    relu,
)


def finite(net, x):
    return jax.jit(net.init)(jax.random.key(2), x)


@pytest.mark.parametrize("b_std", [None, 0.4])
def test_it_is_the_readouts_share_of_the_tangent_kernel(b_std):
    net = convolutional(4, 1, 3, erf, 1.5, b_std)
    x = waves(5, 4 * 4 * 2, 0.1).reshape(5, 4, 4, 2)
    params = finite(net, x)
    for x2 in (None, x[:2]):
        share = empirical_ntk_by_layer(net, params, x, x2)["layers_4"]
        expected = empirical_nngp(net, params, x, x2)[..., None, None] * jnp.eye(3)
        np.testing.assert_allclose(share, expected, **tolerance(x))


def test_parameterisations_have_the_same_covariance():
    ntk, standard = (fully_connected(6, 1, 2, erf, 1.5, 0.4, name) for name in ("ntk", "standard"))
    x = waves(4, 3, 0.1)
    params = finite(ntk, x)
    same = jax.tree.map(lambda p: p, params)
    for layer, fan_in in ((same["params"]["layers_1"], 3), (same["params"]["layers_3"], 6)):
        layer["omega"], layer["beta"] = layer["omega"] * 1.5 / fan_in**0.5, layer["beta"] * 0.4
    np.testing.assert_allclose(empirical_nngp(standard, same, x), empirical_nngp(ntk, params, x), **tolerance(x))


@pytest.mark.once
def test_it_approaches_the_infinite_kernel_as_one_over_the_root_of_the_width():
    x = waves(6, 3, 0.3)
    widths, errors = [64, 512, 4096], []
    for width in widths:
        net = fully_connected(width, 1, 1, relu, 1.4, 0.3)
        keys = jax.random.split(jax.random.key(width), 8)
        kernels = jax.vmap(lambda key, net=net: empirical_nngp(net, net.init(key, x), x))(keys)
        exact = net.kernel(x).nngp
        errors.append(float(jnp.linalg.norm(kernels - exact) / (8**0.5 * jnp.linalg.norm(exact))))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    # On the diagonal φ² of ReLU has a relative variance of 5, so that the error is √(5 / width) = 0.035 at the last.
    assert -0.7 < slope < -0.3 and errors[-1] < 0.05


def test_of_no_examples_it_is_empty():
    net, x = Sequential((Flatten(), Dense(4), erf, Dense(2))), jnp.ones((3, 2, 2, 1))
    params = finite(net, x)
    assert empirical_nngp(net, params, x[:0], x).shape == (0, 3) and empirical_nngp(net, params, x, x[:0]).shape == (
        3,
        0,
    )


def test_it_has_gradients_in_the_readouts_scales(x64):
    x = waves(4, 3, 0.1)
    build = lambda s: Sequential((Dense(4, W_std=s), erf, Dense(2, W_std=s, b_std=s / 2)))
    params = finite(build(1.0), x)
    value = lambda s: jnp.sum(jnp.sin(empirical_nngp(build(s), params, x)))
    step = 1e-5
    slope = (value(1.3 + step) - value(1.3 - step)) / (2 * step)
    assert float(jax.grad(value)(1.3)) == pytest.approx(float(slope), rel=1e-6)


def test_errors_name_the_argument():
    x = waves(4, 3, 0.0)
    with pytest.raises(TypeError, match="`net` must be a Sequential, whose readout can be told apart, got function"):
        empirical_nngp(lambda p, x: x, {}, x)
    for layers, last in (((Dense(2), erf), "Activation"), ((), "nothing"), ((Residual(Dense(3)),), "Residual")):
        with pytest.raises(ValueError, match=f"`net` must end in Dense, its readout, got {last}"):
            empirical_nngp(Sequential(layers), {"params": {}}, x)
    net = Sequential((Flatten(), Dense(2)))
    with pytest.raises(ValueError, match="`x2` must have the shape of `x1` after its first axis"):
        empirical_nngp(net, finite(net, x), x, x[:, :2])
