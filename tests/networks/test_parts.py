"""A network taken apart comes back the same, and what is left of it tells networks apart that need other programs."""

import jax.numpy as jnp
import numpy as np
import pytest

from lib import (
    Conv,
    Dense,
    Flatten,
    LayerNorm,
    Residual,
    Sequential,
    activation,
    convolutional,
    erf,
    fully_connected,
    leaky_relu,
    polynomial,
    relu,
    wide_resnet,
)
from lib.networks.parts import ARRAYS, NUMBERS, take_apart

NETWORKS = {
    "dense": fully_connected(6, 2, 3, erf, 1.5, 0.3),
    "without biases": fully_connected(6, 2, 3, erf, 1.5, None),
    "standard": fully_connected(6, 2, 3, erf, 1.5, 0.3, parameterization="standard"),
    "deeper": fully_connected(6, 3, 3, erf, 1.5, 0.3),
    "another activation": fully_connected(6, 2, 3, relu, 1.5, 0.3),
    "a function of one's own": fully_connected(6, 2, 3, activation(jnp.sin), 1.5, 0.3),
    "with a slope": fully_connected(6, 2, 3, leaky_relu(0.1), 1.5, 0.3),
    "with coefficients": fully_connected(6, 2, 3, polynomial((0.0, 1.0, 2.0)), 1.5, 0.3),
    "images": convolutional(6, 2, 3, erf, 1.5, 0.3),
    "blocks": wide_resnet(4, normalization=False),
    "by hand": Sequential((Residual(Sequential((Dense(4), relu, Dense(4)))), LayerNorm(epsilon=1e-3), Flatten())),
}


@pytest.mark.parametrize("kinds", [ARRAYS, NUMBERS])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_taken_apart_comes_back(name, kinds):
    rest, taken = take_apart(NETWORKS[name], kinds)
    assert (rest.restored(iter(taken)) if kinds is NUMBERS else rest) == NETWORKS[name]


def test_what_is_left_is_another_for_another_program():
    left = {name: take_apart(network, NUMBERS)[0] for name, network in NETWORKS.items()}
    assert len(set(left.values())) == len(NETWORKS)
    assert left["dense"] == take_apart(fully_connected(6, 2, 3, erf, 0.7, 0.0), NUMBERS)[0]
    assert left["with a slope"] == take_apart(fully_connected(6, 2, 3, leaky_relu(-1.0), 1.5, 0.3), NUMBERS)[0]
    assert left["with coefficients"] != take_apart(fully_connected(6, 2, 3, polynomial((1.0, 2)), 1.5, 0.3), NUMBERS)[0]


def test_numbers_come_in_the_order_of_the_layers():
    network = Sequential((Dense(2, W_std=1.25, b_std=0.5), leaky_relu(0.125), Conv(3, (2, 2), W_std=np.float64(2.5))))
    assert take_apart(network, NUMBERS)[1] == [1.25, 0.5, 0.125, 2.5]


def test_arrays_are_taken_from_what_cannot_be_hashed():
    """Of containers of any kind; what can be hashed stays whole."""
    rest, taken = take_apart([Dense(2, W_std=1.5), {"a": relu, "b": (np.ones(2), "text")}])
    assert [array.tolist() for array in taken] == [[1.0, 1.0]]
    layer, others = rest.restored(iter(taken))
    assert layer == Dense(2, W_std=1.5)
    assert others["a"] is relu and others["b"][1] == "text"
    assert hash(rest) == hash(take_apart([Dense(2, W_std=1.5), {"a": relu, "b": (np.zeros(2), "text")}])[0])


def test_what_can_be_neither_taken_nor_hashed_is_named():
    with pytest.raises(TypeError, match=r"`net` must be hashable, or consist of .*, got bytearray"):
        take_apart((bytearray(2),))
