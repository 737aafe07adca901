"""Normalisation: of one example's features, and of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from networks import waves
from oracles import images

from lib.activations import relu
from lib.layers import Dense, Sequential
from lib.normalization import BatchNorm, LayerNorm


def test_features_have_mean_0_and_variance_1():
    x = jnp.asarray(images(3, 2, 2, 5, 0.0))
    for layer, axis in ((LayerNorm(), 3), (BatchNorm(epsilon=0), (0, 1, 2))):
        y = np.asarray(layer.apply(layer.init(jax.random.key(0), x), x))
        expected = (x - np.mean(x, axis, keepdims=True)) / np.std(x, axis, keepdims=True)
        np.testing.assert_allclose(y, expected, **tolerance(x, scale=10))


def test_statistics_are_those_of_the_batch_at_hand():
    x = waves(4, 3, 0.0)
    assert BatchNorm().init(jax.random.key(0), x) == {}
    assert not np.allclose(BatchNorm()(x)[:2], BatchNorm()(x[:2]), atol=1e-2)
    np.testing.assert_allclose(LayerNorm()(x)[:2], LayerNorm()(x[:2]), **tolerance(x))


def test_reference(reference, x64):
    net = Sequential((Dense(64, 1.5, 0.05), LayerNorm(), relu, Dense(1, 1.5, 0.05)))
    values = reference["layernorm_fc_relu"]
    for k, name in zip(net.kernel(waves(4, 3, 0.0)), ("nngp_xx", "ntk_xx"), strict=True):
        np.testing.assert_allclose(k, values[name], rtol=1e-9)


def test_a_normalised_network_does_not_see_the_scale_of_its_input(x64):
    x = waves(4, 3, 0.0)
    net = Sequential((Dense(8, 1.5), LayerNorm(), relu, Dense(1)))
    for k, scaled in zip(net.kernel(x), net.kernel(7 * x), strict=True):
        np.testing.assert_allclose(scaled, k, rtol=1e-10)


def test_errors_say_what_to_do():
    x = waves(4, 3, 0.0)
    net = Sequential((Dense(8), BatchNorm(), relu, Dense(1)))
    assert net.apply(net.init(jax.random.key(0), x), x).shape == (4, 1)
    for kernel in (net.kernel, jax.jit(net.kernel)):
        with pytest.raises(ValueError, match=r"BatchNorm has no infinite face: .* Use the empirical kernel"):
            kernel(x)
    for layers in ((LayerNorm(), Dense(1)), (Dense(8), relu, LayerNorm(), Dense(1))):
        with pytest.raises(ValueError, match=r"\(LayerNorm\) has no infinite face, because its input is not Gaussian"):
            Sequential(layers).kernel(x)
    for layer in (LayerNorm, BatchNorm):
        with pytest.raises(TypeError, match="`epsilon` must be a real number, got None"):
            layer(epsilon=None)
        with pytest.raises(TypeError, match="`x` must hold floating-point numbers, got int32"):
            layer()(jnp.ones((2, 3), jnp.int32))
