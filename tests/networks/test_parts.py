"""A network taken apart comes back the same, and what is left of it tells networks apart that need other programs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lib import (
    Activation,
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
from lib.networks.parts import ARRAYS, NUMBERS, put_together, take_apart


@dataclass(slots=True)
class Slotted:
    array: np.ndarray
    number: float


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
    assert put_together(rest, taken) == NETWORKS[name]
    assert kinds is NUMBERS or rest == NETWORKS[name]


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
    layer, others = put_together(rest, taken)
    assert layer == Dense(2, W_std=1.5)
    assert others["a"] is relu and others["b"][1] == "text"
    assert hash(rest) == hash(take_apart([Dense(2, W_std=1.5), {"a": relu, "b": (np.zeros(2), "text")}])[0])


@pytest.mark.parametrize("kinds", [ARRAYS, NUMBERS])
def test_fields_need_no_dictionary(kinds):
    """Of an object of somebody else, with slots: its arrays are taken, and its numbers stay."""
    rest, taken = take_apart([Slotted(np.ones(2), 0.5)], kinds)
    assert [array.tolist() for array in taken] == [[1.0, 1.0]]
    assert put_together(rest, taken)[0].number == 0.5


@pytest.mark.parametrize("kinds", [ARRAYS, NUMBERS])
def test_a_class_among_the_fields_stays_whole(kinds):
    rest, taken = take_apart([Slotted, Dense, (1.5, "text")], kinds)
    assert taken == ([1.5] if kinds is NUMBERS else [])
    assert put_together(rest, taken) == [Slotted, Dense, (1.5, "text")]


def test_what_can_be_neither_taken_nor_hashed_is_named():
    with pytest.raises(TypeError, match=r"`net` must be hashable, or consist of .*, got bytearray"):
        take_apart((bytearray(2),))


class Halved(nn.Module):
    """A layer that looks at its number, when it is made and when it is used."""

    share: float = 0.5

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError("share")
        super().__post_init__()

    def __call__(self, x):
        return self.share**0.5 * x

    @nn.nowrap
    def needs(self, above):
        return above

    @nn.nowrap
    def kernel_step(self, state):
        return state if self.share == 1 else state.map(lambda k: self.share * k)


def test_layers_that_users_write_may_look_at_their_numbers():
    x = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    for share in (1.0, 0.25):
        inner = Sequential((Dense(1, 1.5), Halved(share)))
        np.testing.assert_allclose(inner.kernel(x).nngp, share * Dense(1, 1.5).W_std ** 2 * x @ x.T / 2, rtol=1e-6)
        both = Sequential((Dense(1, 1.5), Residual(Sequential((Halved(share), Dense(1, 1.0)))), Dense(1, 1.0)))
        assert bool(jnp.isfinite(both.kernel(x).ntk).all())


def test_so_may_the_duals_that_users_write():
    def dual(k11, k12, k22, slope):
        if slope > 0.5:
            return slope**2 * k12, slope**2 * jnp.ones_like(k12 + k11 + k22)
        return 0 * k12, 0 * (k12 + k11 + k22)

    x = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    for slope, expected in ((1.0, 1.0), (0.25, 0.0)):
        steep = Activation("steep", lambda x, a: a * x, dual, (slope,))
        kernel = Sequential((Dense(3), steep, Dense(1))).kernel(x)
        np.testing.assert_allclose(kernel.nngp, expected * x @ x.T / 2, rtol=1e-6)


def test_dtypes_are_those_of_the_inputs_whatever_is_traced(x64):
    """Parameters in double precision beside inputs in single."""
    x = jnp.ones((3, 4), jnp.float32)
    makes = {
        "slope": lambda w: (Dense(4), leaky_relu(w), Dense(1)),
        "coefficients": lambda w: (Dense(4), polynomial((w, w, 1)), Dense(1)),
        "epsilon": lambda w: (Dense(4), LayerNorm(w), relu, Dense(1)),
        "deviations": lambda w: (Dense(4, w, w), relu, Dense(1, w)),
    }
    for name, make in makes.items():
        kernel = jax.jit(lambda w, make=make: Sequential(make(w)).kernel(x))(jnp.float64(0.5))
        assert {k.dtype for k in kernel} == {jnp.dtype(jnp.float32)}, name
