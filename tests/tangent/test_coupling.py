"""Whether examples act on each other, of any function, against the whole batch's Jacobian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import dense_ntk, small_network, tanh_network, waves
from tolerances import tolerance

from lib import (
    BatchNorm,
    Dense,
    Flatten,
    Sequential,
    empirical_ntk,
    empirical_ntk_by_layer,
    erf,
    explain_ntk,
    linearize,
)
from lib.tangent.coupling import acts_on_batch


class Centred(nn.Module):
    """A stock module that lets examples act on each other, without parameters."""

    @nn.compact
    def __call__(self, x):
        return x - x.mean(0)


class Statistics(nn.Module):
    """Flax's own normalisation by statistics of the batch."""

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(4, param_dtype=float)(x))
        mean, variance = h.mean(0), h.var(0)
        return nn.Dense(2, param_dtype=float)((h - mean) / jnp.sqrt(variance + 1e-5))


def attend(params, x):
    """Every example looks at all others."""
    h = jnp.tanh(x @ params["W1"])
    return jax.nn.softmax(h @ h.T) @ h @ params["W2"]


TOGETHER = {
    "a mean in a network of lib": Sequential((Dense(4), Centred(), erf, Dense(2))),
    "batch normalisation of lib": Sequential((Dense(4), BatchNorm(), erf, Dense(2))),
    "statistics of a stock module": Statistics(),
    "attention over the batch": attend,
    "a readout of zeros under a mean": lambda p, x: (tanh_network(p, x) - tanh_network(p, x).mean(0)) * p["b"][0, 0],
    "neighbours": lambda p, x: tanh_network(p, x) + 0.1 * jnp.roll(tanh_network(p, x), 1, axis=0),
    "the place in the batch": lambda p, x: tanh_network(p, x) * jnp.arange(1, 1 + len(x))[:, None],
    "the number of examples": lambda p, x: tanh_network(p, x) / len(x),
}
ALONE = {
    "a bare function": tanh_network,
    "a network of lib": Sequential((Flatten(), Dense(4), erf, Dense(2))),
    "a stock module": nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.tanh, nn.Dense(2)]),
    "a sort within an example": lambda p, x: tanh_network(p, jnp.sort(x, axis=1)),
    "parameters that explode": lambda p, x: jnp.cosh(20 * tanh_network(p, x)),
}


def finite(net):
    _, params, x = small_network()
    return (jax.jit(net.init)(jax.random.key(1), x) if isinstance(net, nn.Module) else params), x


@pytest.mark.parametrize("name", TOGETHER)
def test_a_batch_whose_examples_act_on_each_other_is_taken_whole(x64, name):
    net = TOGETHER[name]
    params, x = finite(net)
    if name == "a readout of zeros under a mean":
        params = {**params, "b": 0 * params["b"]}
    apply_fn = getattr(net, "apply", net)
    assert acts_on_batch(net, params, x)
    path = explain_ntk(net, params, x)
    assert path.coupled and "act on each other" in path.reason
    for x2 in (x, x[:3]):
        expected = dense_ntk(apply_fn, params, x, x2)
        np.testing.assert_allclose(empirical_ntk(net, params, x, x2), expected, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("name", ALONE)
def test_examples_apart_are_taken_one_at_a_time(name):
    net = ALONE[name]
    params, x = finite(net)
    assert not acts_on_batch(net, params, x)
    assert not explain_ntk(net, params, x).coupled


def test_it_is_known_inside_jit_and_under_other_transformations(x64):
    net = TOGETHER["statistics of a stock module"]
    params, x = finite(net)
    expected = dense_ntk(net.apply, params, x, x)
    close = partial(np.testing.assert_allclose, desired=expected, atol=1e-10 * abs(expected).max())
    close(jax.jit(partial(empirical_ntk, net))(params, x))
    close(jax.vmap(lambda p: empirical_ntk(net, p, x))(jax.tree.map(lambda p: p[None], params))[0])
    close(jax.jit(lambda p, x: empirical_ntk(linearize(net, p), p, x))(params, x))


@pytest.mark.parametrize("inside", [jax.jit, jax.vmap, jax.grad])
def test_a_function_of_traced_values_is_differentiated_whole_and_right(x64, inside):
    net, params, x = small_network()
    value = lambda s: jnp.sum(empirical_ntk(lambda p, x: s * net(p, x), params, x))
    expected = 4.0 * dense_ntk(net, params, x, x).sum()
    result = inside(value)(jnp.array([2.0]) if inside is jax.vmap else 2.0)
    np.testing.assert_allclose(np.ravel(result)[0], expected, rtol=1e-10)  # d s² / ds = s² at 2


def test_what_cannot_be_told_counts_as_dependent():
    net, params, x = small_network()
    assert acts_on_batch(lambda p, x: 0 * net(p, x), params, x)
    assert acts_on_batch(lambda p, x: net(p, jnp.log(-jnp.abs(x))), params, x)


def own(p, z):
    return jnp.tanh(z @ p["W1"] + 0.1) @ p["W2"]


GRAPH = jnp.cos(jnp.arange(36.0)).reshape(6, 6)
ON_THESE = {
    # Functions of which random numbers tell nothing, and the batch at hand does.
    "a softmax over near examples": lambda p, x: jax.nn.softmax(-((x[:, None] - x) ** 2).sum(-1)) @ own(p, x),
    "a mean over bright pixels": lambda p, x: own(p, x / 255) * (1 + jnp.where(x > 127, x / 255, 0.0).mean()),
    "the largest of all pixels": lambda p, x: own(p, x / 255) * (x / 255).max(),
    "a clipped norm": lambda p, x: own(p, x) * jnp.minimum(1, 3 / jnp.linalg.norm(own(p, x))),
    "from four examples on": lambda p, x: own(p, x) - (own(p, x).mean(0) if len(x) > 3 else 0),
    "those after the third": lambda p, x: own(p, x).at[3:].add(own(p, x)[:1]),
    # Functions of six examples and no other number.
    "a graph": lambda p, x: GRAPH.astype(p["W1"].dtype) @ own(p, x),
    "pairs": lambda p, x: jnp.repeat(own(p, x)[::2] - own(p, x)[1::2], 2, 0),
}


@pytest.mark.parametrize("name", ON_THESE)
def test_it_is_seen_in_the_batch_at_hand(x64, name):
    params = {"W1": waves(8, 5, 0.2), "W2": waves(5, 2, 0.4)}
    x = 0.1 * waves(6, 8, 0.3)
    if "pixel" in name:
        x = jnp.asarray(255 * jnp.abs(waves(6, 8, 0.3)), jnp.uint8)
    if name == "a clipped norm":
        x = 30 * x
    assert acts_on_batch(ON_THESE[name], params, x)
    expected = dense_ntk(ON_THESE[name], params, x, x)
    theta = empirical_ntk(ON_THESE[name], params, x)
    np.testing.assert_allclose(theta, expected, atol=1e-10 * abs(expected).max())


def test_half_precision_is_seen_through():
    half = lambda tree: jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)
    params, x = half({"W1": waves(8, 5, 0.2), "W2": waves(5, 2, 0.4)}), half(waves(6, 8, 0.3))
    assert not acts_on_batch(own, params, x)
    assert acts_on_batch(lambda p, x: own(p, x) + 0.08 * own(p, x).mean(0), params, x)


def test_words_are_inputs_too():
    embed = lambda p, words: p["table"][words].sum(1)
    params = {"table": waves(7, 2, 0.1)}
    words = jnp.array([[1, 2, 6], [3, 0, 5]])
    assert not acts_on_batch(embed, params, words)
    assert acts_on_batch(lambda p, words: embed(p, words) - embed(p, words).mean(0), params, words)
    np.testing.assert_allclose(
        empirical_ntk(embed, params, words)[0, 1], jnp.zeros((2, 2)), **tolerance(params["table"])
    )


def test_the_test_runs_once_for_a_function_and_its_shapes():
    _, params, x = small_network()
    traces = []

    def net(p, x):
        traces.append(x.shape)
        return tanh_network(p, x)

    for c in (1, 2, 3):
        acts_on_batch(net, params, c * x)
    assert len(traces) == 2  # of all examples together, and of one


def test_there_is_no_kernel_by_layer_where_examples_act_on_each_other():
    net = TOGETHER["a mean in a network of lib"]
    params, x = finite(net)
    with pytest.raises(ValueError, match="`net` has no kernel by layer, because its examples act on each other"):
        empirical_ntk_by_layer(net, params, x)
