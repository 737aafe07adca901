"""What any network is to functions of finite width: one pytree, and the same answer or refusal at every door."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from networks import dense_ntk, shifted, small_network, waves
from tolerances import tolerance

from lib import (
    Dense,
    Sequential,
    empirical_ntk,
    empirical_ntk_by_layer,
    erf,
    explain_ntk,
    linearity,
    linearize,
    ntk_solve,
    ntk_vector_product,
    taylor_expand,
    train,
    weight_change,
)
from lib.tangent.apply_fn import as_apply_fn, is_module


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


FEW = optax.sgd(0.01)
DOORS = {
    "empirical_ntk": lambda net, p, x, y: empirical_ntk(net, p, x),
    "explain_ntk": lambda net, p, x, y: explain_ntk(net, p, x),
    "ntk_vector_product": lambda net, p, x, y: ntk_vector_product(net, p, x, None, y),
    "ntk_solve": lambda net, p, x, y: ntk_solve(net, p, x, y, steps=1),
    "linearize": lambda net, p, x, y: linearize(net, p)(p, x),
    "taylor_expand": lambda net, p, x, y: taylor_expand(net, p, 1)(p, x),
    "linearity": lambda net, p, x, y: linearity(net, p, p, x),
    "weight_change": lambda net, p, x, y: weight_change(net, p, x, y),
    "train": lambda net, p, x, y: train(net, p, half_square, FEW, x, y, 1),
}


class Normalised(nn.Module):
    """A stock network with a collection that is not of weights."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(nn.tanh(nn.Dense(3)(x))))


def normalised():
    x = waves(4, 3, 0.2)
    net = Normalised()
    return net, jax.jit(net.init)(jax.random.key(0), x), x


@pytest.mark.parametrize("door", DOORS)
def test_statistics_of_batches_are_no_weights(door):
    net, variables, x = normalised()
    y = jnp.ones((4, 2))
    for given in (net, net.apply):
        with pytest.raises(ValueError, match=r"`params` of a Flax .* got \['batch_stats'\]: .* Bind them as arrays"):
            DOORS[door](given, variables, x, y)


def test_what_the_refusal_says_gives_the_kernel_of_the_weights_alone():
    net, variables, x = normalised()
    rest = {"batch_stats": variables["batch_stats"]}
    apply_fn = lambda params, x: net.apply({"params": params, **rest}, x)
    theta = empirical_ntk(apply_fn, variables["params"], x)
    whole = dense_ntk(net.apply, variables, x, x)
    statistics = dense_ntk(lambda s, x: net.apply({**variables, "batch_stats": s}, x), rest["batch_stats"], x, x)
    assert abs(statistics).max() > 0.01 * abs(whole).max()  # which were a part of the kernel, once
    np.testing.assert_allclose(theta, whole - statistics, **tolerance(jnp.float32(0), scale=10))  # as Flax makes them


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("leaf", ["step", "key", "words"])
def test_parameters_that_are_no_numbers_with_derivatives_are_refused(door, leaf):
    net, params, x = small_network()
    other = {"step": jnp.array(3), "key": jax.random.key(0), "words": True}[leaf]
    with pytest.raises(TypeError, match=rf"`params0?`\['{leaf}'\] must hold (real )?floating-point numbers, got"):
        DOORS[door](net, {**params, leaf: other}, x, jnp.ones((5, 2)))


@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("linearize", "taylor_expand")])
def test_complex_parameters_are_refused_where_a_conjugate_would_be_missing(door):
    net, params, x = small_network()
    complexes = {**params, "W1": params["W1"] * (1 + 1j)}
    real = lambda p, x: jnp.real(net(p, x))
    with pytest.raises(TypeError, match=r"`params0?`\['W1'\] must hold real floating-point numbers, got complex"):
        DOORS[door](real, complexes, x, jnp.ones((5, 2)))


@pytest.mark.parametrize("door", ["empirical_ntk", "explain_ntk", "ntk_vector_product", "linearity", "weight_change"])
def test_complex_outputs_are_refused(door):
    net, params, x = small_network()
    with pytest.raises(TypeError, match="`net` must return real floating-point numbers, got complex"):
        DOORS[door](lambda p, x: net(p, x) * 1j, params, x, jnp.ones((5, 2)))


@pytest.mark.parametrize("door", DOORS)
def test_python_numbers_are_parameters(door):
    net, params, x = small_network()
    scaled = lambda p, x: p["scale"] * net(p, x)
    y = jnp.ones((5, 2), x.dtype)
    plain, array = (DOORS[door](scaled, {**params, "scale": scale}, x, y) for scale in (1.5, jnp.asarray(1.5, x.dtype)))
    close = lambda a, b: isinstance(a, str) or np.testing.assert_allclose(a, b, **tolerance(x, scale=10))
    jax.tree.map(close, plain, array)


def stock(container):
    return nn.Sequential(container([nn.Dense(3), nn.tanh, nn.Dense(2)]))


@pytest.mark.parametrize("door", DOORS)
def test_a_stock_network_of_a_list_is_one_of_a_tuple(door):
    x, y = waves(4, 3, 0.2), jnp.ones((4, 2))
    params = jax.jit(stock(tuple).init)(jax.random.key(0), x)
    with pytest.raises(TypeError, match="unhashable"):
        hash(stock(list))
    one, other = (DOORS[door](stock(container), params, x, y) for container in (list, tuple))
    jax.tree.map(lambda a, b: isinstance(a, str) or np.testing.assert_array_equal(a, b), one, other)


def trained_network(W_std):
    return Sequential((Dense(4, W_std=W_std, b_std=W_std / 2), erf, Dense(2, W_std=W_std)))


OF_THE_SCALE = {
    "empirical_ntk": lambda net, p, x: jnp.sum(jnp.sin(empirical_ntk(net, p, x))),
    "in blocks": lambda net, p, x: jnp.sum(jnp.sin(empirical_ntk(net, p, x, memory=2000))),
    "empirical_ntk_by_layer": lambda net, p, x: jnp.sum(empirical_ntk_by_layer(net, p, x)["layers_0"] ** 2),
    "linearity": lambda net, p, x: linearity(net, p, shifted(p), x).rmse,
    "train": lambda net, p, x: train(net, p, half_square, FEW, x, jnp.ones((4, 2)), 2, at=(2,)).observed.sum(),
}


@pytest.mark.parametrize("name", OF_THE_SCALE)
def test_scales_of_weights_have_gradients_through_what_takes_a_network(x64, name):
    x = waves(4, 3, 0.2)
    params = jax.jit(trained_network(1.0).init)(jax.random.key(0), x)
    value = lambda W_std: OF_THE_SCALE[name](trained_network(W_std), params, x)
    slope, step = jax.grad(value)(1.3), 1e-5
    assert float(slope) == pytest.approx(float(value(1.3 + step) - value(1.3 - step)) / (2 * step), rel=1e-6)
    assert abs(slope) > 1e-3


def test_equal_networks_are_one_function():
    a, b = (as_apply_fn(trained_network(1.5)) for _ in range(2))
    assert jax.tree.structure(a) == jax.tree.structure(b) and hash(a.func) == hash(b.func)
    assert jax.tree.structure(a) != jax.tree.structure(as_apply_fn(trained_network(1.4)))
    assert as_apply_fn(a) is a
    one, other = (as_apply_fn(stock(list)) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert [is_module(net) for net in (a, one, stock(list), stock(list).apply, linearize(a, {}), half_square)] == [
        *(True, True, True, True, False, False)
    ]


class Held(nn.Module):
    """A module with arrays among its fields, in containers of several kinds."""

    offsets: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + self.offsets["first"][0] - self.offsets["name"][1]


def test_arrays_among_the_fields_of_a_module_are_leaves():
    x, traces = waves(4, 3, 0.2), []
    build = lambda s: Held({"first": [s * jnp.ones(2)], "name": ("x", np.float32(0.5))})
    params = jax.jit(build(1.0).init)(jax.random.key(0), x)

    @jax.jit
    def f(apply_fn, x):
        traces.append(1)
        return apply_fn(params, x)

    for s in (1.0, 2.0, 3.0):
        expected = build(s).apply(params, x)
        np.testing.assert_allclose(f(as_apply_fn(build(s)), x), expected, **tolerance(x))
    assert len(traces) == 1 and len(jax.tree.leaves(as_apply_fn(build(1.0)))) == 1


def test_what_cannot_be_told_apart_is_refused():
    class Odd:
        __hash__ = None

        def __call__(self, params, x):
            return x

    with pytest.raises(
        TypeError, match="`net` must be hashable, or consist of containers, arrays and what is, got Odd"
    ):
        as_apply_fn(Odd())
    with pytest.raises(TypeError, match="`net` must be a Flax module or a function"):
        as_apply_fn("relu")


def test_a_model_that_holds_its_parameters_is_no_function_of_them():
    for model in (eqx.nn.Linear(2, 1, key=jax.random.key(0)), nnx.Linear(2, 1, rngs=nnx.Rngs(0))):
        with pytest.raises(TypeError, match=r"`net` must be .*, got Linear; for other .* 'Bring your own model'"):
            as_apply_fn(model)


def test_what_a_partial_binds_is_read_at_each_call():
    scaled = lambda s: jax.tree_util.Partial(SCALED, s)
    x, params = jnp.ones((2, 3)), jnp.ones((3, 1))
    one, three = (empirical_ntk(scaled(jnp.asarray(s)), params, x) for s in (1.0, 3.0))
    np.testing.assert_allclose(three, 9 * one)


def SCALED(s, params, x):
    return s * (x @ params)
