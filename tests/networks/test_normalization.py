"""Normalisation: of one example's features, and of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import images
from tolerances import tolerance

from lib.infinite.kernel import input_state
from lib.networks.activations import relu
from lib.networks.layers import Dense
from lib.networks.normalization import BatchNorm, LayerNorm
from lib.networks.sequential import Sequential


def test_features_have_mean_0_and_variance_1():
    x = jnp.asarray(images(3, 2, 2, 5, 0.0))
    for layer, axis in ((LayerNorm(), 3), (BatchNorm(epsilon=0), (0, 1, 2))):
        y = np.asarray(layer.apply(layer.init(jax.random.key(0), x), x))
        expected = (x - np.mean(x, axis, keepdims=True)) / np.std(x, axis, keepdims=True)
        np.testing.assert_allclose(y, expected, **tolerance(x, scale=10))


@pytest.mark.parametrize(("layer", "epsilon"), [(LayerNorm, 1e-12), (BatchNorm, 1e-5)])
def test_epsilon_is_added_to_the_variance(layer, epsilon):
    """Features whose variance is that of ε keep half of theirs: of the one left out, and of one that is given."""
    signs = jnp.asarray([[1.0, -1, -1, 1], [-1, 1, -1, 1], [1, -1, 1, -1], [-1, 1, 1, -1]])
    for own, value in ((layer(), epsilon), (layer(0.25), 0.25), (layer(epsilon=4), 4.0)):
        np.testing.assert_allclose(own(signs * value**0.5), signs / 2**0.5, **tolerance(signs))


def test_epsilon_is_added_to_the_covariance_of_each_input():
    """K_pq / √((K_pp + ε)(K_qq + ε)), with inputs whose variances differ, and so for Θ."""
    x1, x2 = waves(4, 3, 0.0), 2 * waves(2, 3, 0.4)
    for layer, scale in ((LayerNorm(), 1e-6), (LayerNorm(0.3), 1.0)):
        below = input_state(scale * x1, scale * x2, "vectors")
        state = layer.kernel_step(below.replace(ntk=below.nngp + 1))
        var1, var2 = (np.mean((scale * np.asarray(x)) ** 2, axis=1) for x in (x1, x2))
        norm = np.sqrt(np.outer(var1 + layer.epsilon, var2 + layer.epsilon))
        np.testing.assert_allclose(state.nngp, scale**2 * (x1 @ x2.T) / 3 / norm, **tolerance(x1))
        np.testing.assert_allclose(state.ntk * norm, below.nngp + 1, **tolerance(x1))
        np.testing.assert_allclose(state.variance1, var1 / (var1 + layer.epsilon), **tolerance(x1))
        np.testing.assert_allclose(state.variance2, var2 / (var2 + layer.epsilon), **tolerance(x1))


@pytest.mark.parametrize("layer", [LayerNorm(), BatchNorm()])
def test_features_may_be_too_large_to_be_squared(layer):
    """Values, and gradients, which are inversely proportional to the scale."""
    x = jnp.asarray(images(3, 2, 2, 5, 0.0), jnp.float32)
    loss = lambda x: jnp.sum(jnp.sin(jnp.arange(60.0, dtype=jnp.float32)) * layer(x).ravel())
    for scale in (2.0**10, 2.0**70):
        np.testing.assert_allclose(layer(scale * x), layer(2.0**5 * x), rtol=1e-4, atol=1e-4)
        slope, unit = jax.grad(loss)(scale * x) * scale, jax.grad(loss)(2.0**5 * x) * 2.0**5
        np.testing.assert_allclose(slope, unit, rtol=1e-3, atol=1e-3)


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
