"""The tangent kernel layer by layer: equal to the dense Jacobian's, whole and in parts, or refused with the reason."""

import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import dense_ntk, waves

from lib import (
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    Residual,
    Sequential,
    empirical_ntk,
    empirical_ntk_by_layer,
    erf,
    explain_ntk,
    fully_connected,
    gelu,
    relu,
    wide_resnet,
)
from lib.networks import convolution
from lib.tangent.apply_fn import as_apply_fn
from lib.tangent.layerwise import _by_gradients, _by_positions, layer_factors, layer_ntk


def conv(features, window, strides=(1, 1), padding="SAME", b_std=0.3, parameterization="ntk"):
    return Conv(features, window, strides, padding, 1.4, b_std, parameterization)


NETWORKS = {
    "dense": fully_connected(6, 2, 3, erf, 1.5, 0.3),
    "dense, standard": fully_connected(6, 2, 10, erf, 1.5, 0.3, "standard"),
    "dense, standard, without biases": fully_connected(6, 1, 1, erf, 1.5, None, "standard"),
    "strides, paddings, pooling, normalisation": Sequential(
        (
            conv(4, (3, 2), (2, 1)),
            LayerNorm(),
            gelu,
            conv(5, (2, 3), (1, 2), "VALID", None),
            erf,
            conv(3, (3, 3), padding="CIRCULAR"),
            AveragePool((1, 2)),
            Flatten(),
            Dense(1, b_std=0.2),
        )
    ),
    "strides and paddings, standard": Sequential(
        (
            conv(3, (3, 3), (2, 2), "CIRCULAR", 0.0, "standard"),
            relu,
            conv(4, (2, 1), (1, 1), "SAME", None, "standard"),
            GlobalAveragePool(),
            Dense(2, parameterization="standard"),
        )
    ),
    "blocks with and without projection": wide_resnet(3, 1, 2, 1.4, 0.3, normalization=False),
}


def finite(net, n=4):
    """Parameters and images of 7 × 6 pixels, all from formulas."""
    x = waves(n, 7 * 6 * 2, 0.2).reshape(n, 7, 6, 2)
    return jax.jit(net.init)(jax.random.key(3), x), x


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_over_layers_is_the_contraction_of_the_dense_jacobian(x64, name):
    net = NETWORKS[name]
    params, x = finite(net)
    expected = dense_ntk(net.apply, params, x, x)
    bound = 1e-12 * float(abs(expected).max())
    shares = empirical_ntk_by_layer(net, params, x[:2], x[2:])
    np.testing.assert_allclose(sum(map(np.asarray, shares.values())), expected[:2, 2:], atol=bound)
    assert explain_ntk(net, params, x).name == "layers"
    np.testing.assert_allclose(empirical_ntk(net, params, x), expected, atol=bound)


def test_the_share_of_a_layer_is_the_kernel_of_its_own_parameters(x64):
    block = Residual(Sequential((erf, Dense(3, b_std=0.2), erf, Dense(3))), shortcut=Dense(3))
    net = Sequential((Flatten(), Dense(4), block, Dense(2)))
    params, x = finite(net)
    shares = empirical_ntk_by_layer(net, params, x)
    names = ["layers_1", "layers_2/inner/layers_1", "layers_2/inner/layers_3", "layers_2/shortcut/layers_0", "layers_3"]
    assert list(shares) == names
    for name in names:

        def only(own, x, name=name):
            tree = flax.traverse_util.flatten_dict(params, sep="/") | {f"params/{name}/{k}": v for k, v in own.items()}
            return net.apply(flax.traverse_util.unflatten_dict(tree, sep="/"), x)

        own = reduce(dict.__getitem__, name.split("/"), params["params"])
        np.testing.assert_allclose(shares[name], dense_ntk(only, own, x, x), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("same", [True, False])
def test_positions_and_gradients_in_any_memory_are_two_ways_to_one_convolution(x64, same):
    net = NETWORKS["strides, paddings, pooling, normalisation"]
    params, x = finite(net)
    one, other = (layer_factors(as_apply_fn(net), params, part)["layers_3"] for part in (x[:2], x[2:]))
    layer, two = net.layers[3], None if same else other
    flat = lambda factors: (factors[0], factors[1].reshape(*factors[1].shape[:2], -1, 5))
    positions = _by_positions(layer, flat(one), flat(one if same else two))
    for memory in (1, 2000, 2**30):
        gradients = _by_gradients(layer, flat(one), None if same else flat(two), memory)
        np.testing.assert_allclose(gradients, positions, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(layer_ntk(layer, one, two, memory) / layer_ntk(layer, one, two), 1, rtol=1e-10)


@pytest.mark.parametrize("some", [1, 2])
def test_gradients_of_some_images_at_a_time_are_those_of_all_at_once(x64, some, monkeypatch):
    net = NETWORKS["strides, paddings, pooling, normalisation"]
    params, x = finite(net, 5)
    images, delta, _ = layer_factors(as_apply_fn(net), params, x)["layers_3"]
    layer, factors = net.layers[3], (images, delta.reshape(1, 5, -1, 5))
    whole = _by_gradients(layer, factors, None, 2**30)
    windows = jax.eval_shape(layer.windows, images[0])
    monkeypatch.setattr(convolution, "BLOCK", some * windows.size * windows.dtype.itemsize)
    np.testing.assert_allclose(_by_gradients(layer, factors, None, 2**30), whole, rtol=1e-12, atol=1e-14)


class Custom(nn.Module):
    """A network written as Flax has it: `build` makes it from a Dense and the flattened inputs."""

    build: Callable
    dense: Any = Dense

    @nn.compact
    def __call__(self, x):
        return self.build(self.dense(3, b_std=0.1), x.reshape(len(x), -1))


shared_by_lanes = nn.vmap(Dense, variable_axes={"params": None}, split_rngs={"params": False}, in_axes=1, out_axes=1)
REFUSED = {
    "its examples act on each other, as by BatchNorm": Sequential((Flatten(), Dense(4), BatchNorm(), relu, Dense(2))),
    r"its parameters \['params'\]\['layers_3'\]\['bias'\] act elsewhere": Sequential(
        (Flatten(), Dense(4), relu, nn.Dense(2))
    ),
    r"its parameters \['params'\]\['Dense_0'\]\['omega'\] act elsewhere": Custom(
        lambda dense, x: jnp.tanh(dense(x)) @ dense.variables["params"]["omega"].T
    ),
    r"its parameters \['params'\]\['CheckpointDense_0'\]\['beta'\] act elsewhere": Custom(
        lambda dense, x: dense(x), nn.remat(Dense)
    ),
    r"one of its layers \['Dense_0'\] is used twice": Custom(lambda dense, x: dense(jnp.tanh(dense(x[:, :3])))),
    "its layer VmapDense_0 stands within a transformation": Custom(
        lambda dense, x: dense(x.reshape(len(x), 2, -1)).sum(1), shared_by_lanes
    ),
    "what its layer Dense_0 is given is not that of the examples": Custom(
        lambda dense, x: jnp.tanh(dense(x.reshape(2 * len(x), -1))).reshape(len(x), -1)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_come_apart_into_layers_says_why_and_is_taken_whole(x64, reason):
    net = REFUSED[reason]
    params, x = finite(net)
    with pytest.raises(ValueError, match=f"`net` has no kernel by layer, because .*{reason}"):
        empirical_ntk_by_layer(net, params, x)
    path = explain_ntk(net, params, x)
    assert path.name != "layers" and re.search(reason, path.reason)
    expected = dense_ntk(net.apply, params, x, x)
    np.testing.assert_allclose(empirical_ntk(net, params, x), expected, atol=1e-12 * float(abs(expected).max()))


def test_parts_without_parameters_may_be_of_any_make(x64):
    net = Sequential((Flatten(), Dense(4), nn.LayerNorm(use_bias=False, use_scale=False), Dense(2)))
    params, x = finite(net)
    expected = dense_ntk(net.apply, params, x, x)
    np.testing.assert_allclose(sum(empirical_ntk_by_layer(net, params, x).values()), expected, rtol=1e-10)


def test_a_single_layer_is_a_network_too(x64):
    net = Dense(2, b_std=0.3)
    x = waves(4, 3, 0.0)
    params = net.init(jax.random.key(0), x)
    ((name, theta),) = empirical_ntk_by_layer(net, params, x).items()
    assert name == "Dense"
    np.testing.assert_allclose(theta, dense_ntk(net.apply, params, x, x), rtol=1e-10, atol=1e-14)


def test_errors_name_the_argument():
    net = NETWORKS["dense"]
    params, x = finite(net)
    with pytest.raises(TypeError, match="`net` must be a Flax module, whose layers can be told apart, got function"):
        empirical_ntk_by_layer(lambda p, x: x, params, x)
    with pytest.raises(ValueError, match="`x2` must have the shape of `x1` after its first axis"):
        empirical_ntk_by_layer(net, params, x, x[:, 1:])


class Table(nn.Module):
    """x @ Dense(a table): a Dense of which the first axis is not that of the examples, though it may be as long."""

    @nn.compact
    def __call__(self, x):
        return x @ Dense(2, b_std=0.3)(jnp.cos(jnp.arange(x.shape[1] * 3.0, dtype=x.dtype)).reshape(-1, 3))


def test_a_table_of_as_many_rows_as_there_are_examples_is_no_batch(x64):
    net, x = Table(), waves(5, 5, 0.2)
    params = net.init(jax.random.key(1), x)
    for n in (5, 4):
        expected = dense_ntk(net.apply, params, x[:n], x[:3])
        np.testing.assert_allclose(empirical_ntk(net, params, x[:n], x[:3]), expected, atol=1e-12 * abs(expected).max())
    with pytest.raises(ValueError, match="the first axis of what its layer Dense_0 is given is not that of"):
        empirical_ntk_by_layer(net, params, x)
