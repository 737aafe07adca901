"""The empirical kernel against the dense Jacobian, the reference, and itself in blocks."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import deep_network, dense_ntk, reference_network, shifted, small_network, tanh_network, waves
from tolerances import tolerance

from lib import (
    BatchNorm,
    Dense,
    Flatten,
    Sequential,
    convolutional,
    empirical_ntk,
    empirical_ntk_by_layer,
    erf,
    explain_ntk,
    fully_connected,
    linearity,
    linearize,
    ntk_vector_product,
    weight_change,
)
from lib.tangent.apply_fn import as_apply_fn
from lib.tangent.jacobians import contract, jacobian, products
from lib.tangent.layerwise import layer_factors, sum_of_layers


def test_it_is_the_contraction_of_the_dense_jacobian():
    net, params, x = deep_network()
    x2 = x[:3] * 0.7
    expected = dense_ntk(net, params, x, x2)
    np.testing.assert_allclose(empirical_ntk(net, params, x, x2), expected, **tolerance(x, scale=10))


def least_memory(name, rows, *arguments):
    """The fewest bytes with which the path has this name and a block so many rows."""
    low, high = 0, 2**20
    while high - low > 1:
        middle = (low + high) // 2
        try:
            path = explain_ntk(*arguments, memory=middle)
            enough = path.name == name and path.rows >= rows
        except ValueError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["layers", "jacobian", "products"])
def test_blocks_of_any_size_give_the_same_kernel(name, symmetric, rows):
    net, params, x = deep_network()
    if name == "layers":
        net = fully_connected(4, 1, 2, erf, 1.5, 0.1)
        params = net.init(jax.random.key(0), x)
    if name == "products":
        net = many_outputs
    x2 = None if symmetric else x[:4]
    memory = least_memory(name, rows, net, params, x, x2)
    path = explain_ntk(net, params, x, x2, memory)
    assert (path.name, path.rows) == (name, rows)
    blocked = empirical_ntk(net, params, x, x2, memory)
    np.testing.assert_allclose(
        blocked, dense_ntk(as_apply_fn(net), params, x, x if symmetric else x2), **tolerance(x, scale=10)
    )


def many_outputs(params, x):
    """Forty outputs of a network with few parameters: Jacobians would be the dearer way."""
    return jnp.sin(tanh_network(params, x) @ jnp.ones((2, 1)) * jnp.linspace(0.1, 4, 40, dtype=x.dtype))


def test_symmetry_holds_in_examples_and_outputs_together():
    """Θ[i, j, a, b] = Θ[j, i, b, a]; swapping only one pair is a different array."""
    net, params, x = deep_network()
    theta = empirical_ntk(net, params, x)
    np.testing.assert_allclose(theta, theta.transpose(1, 0, 3, 2), **tolerance(x, scale=10))
    assert float(abs(theta - theta.transpose(1, 0, 2, 3)).max()) > 0.1


def test_it_is_positive_semidefinite():
    net, params, x = small_network()
    theta = empirical_ntk(net, params, x)
    matrix = theta.transpose(0, 2, 1, 3).reshape(10, 10)
    assert float(jnp.linalg.eigvalsh(matrix)[0]) > -1e-5 * float(jnp.trace(matrix))


def test_the_kernel_of_the_linearisation_is_frozen():
    """Θ̂ of f_lin at any θ is Θ̂ of f at θ₀, while Θ̂ of f has moved."""
    net, params, x = small_network()
    moved = shifted(params)
    theta = empirical_ntk(net, params, x)
    np.testing.assert_allclose(empirical_ntk(linearize(net, params), moved, x), theta, **tolerance(x, scale=10))
    assert float(abs(empirical_ntk(net, moved, x) - theta).max()) > 0.1


def test_reference_kernel_and_product(x64, reference):
    net, params, x, xt = reference_network()
    values = reference["empirical"]
    theta = empirical_ntk(net, params, xt, x)
    np.testing.assert_allclose(theta, values["ntk_tx_trace()"], rtol=1e-9)
    np.testing.assert_allclose(jnp.einsum("nmkk->nm", theta) / 2, values["ntk_tx_trace(-1,)"], rtol=1e-9)
    v = jnp.sin(jnp.arange(8.0)).reshape(4, 2)
    np.testing.assert_allclose(ntk_vector_product(net, params, xt, x, v), values["ntk_vp"], rtol=1e-9)


def test_product_equals_dense_kernel_times_vector():
    net, params, x = small_network()
    x1, v = x[:2] + 0.1, jnp.cos(jnp.arange(10, dtype=x.dtype)).reshape(5, 2)
    expected = jnp.einsum("nmkl,ml->nk", empirical_ntk(net, params, x1, x), v)
    np.testing.assert_allclose(ntk_vector_product(net, params, x1, x, v), expected, **tolerance(x, scale=10))


def test_it_traces_under_jit():
    net, params, x = small_network()
    traced = jax.jit(lambda p: empirical_ntk(net, p, x))(params)
    np.testing.assert_allclose(traced, empirical_ntk(net, params, x), **tolerance(x, scale=10))


def split(net):
    """The same network of inputs in a dictionary."""
    return lambda p, inputs: net(p, jnp.concatenate([inputs["a"], inputs["b"]], axis=1))


def in_parts(x):
    return {"a": x[:, :1], "b": x[:, 1:]}


@pytest.mark.parametrize("name", ["jacobian", "products"])
def test_inputs_may_be_any_pytree(name):
    net, params, x = deep_network()
    net = many_outputs if name == "products" else net
    f, inputs, x2 = split(net), in_parts(x), in_parts(x[:3])
    path = explain_ntk(f, params, inputs, x2)
    assert path.name == name
    theta = dense_ntk(net, params, x, x)
    close = lambda a, b: np.testing.assert_allclose(a, b, **tolerance(x, scale=10))
    close(empirical_ntk(f, params, inputs), theta)
    close(empirical_ntk(f, params, inputs, x2), theta[:, :3])
    memory = least_memory(name, 2, f, params, inputs, x2)
    close(empirical_ntk(f, params, inputs, x2, memory), theta[:, :3])


class Joined(nn.Module):
    """Layers of lib on inputs in a dictionary."""

    @nn.compact
    def __call__(self, inputs):
        return Dense(2)(erf(Dense(4, b_std=0.2)(jnp.concatenate([inputs["a"], inputs["b"]], axis=1))))


def test_layers_are_seen_below_inputs_of_several_arrays():
    x = small_network()[2]
    net, inputs = Joined(), in_parts(x)
    params = jax.jit(net.init)(jax.random.key(0), inputs)
    assert explain_ntk(net, params, inputs).name == "layers"
    expected = dense_ntk(lambda p, x: net.apply(p, in_parts(x)), params, x, x)
    np.testing.assert_allclose(empirical_ntk(net, params, inputs), expected, **tolerance(x, scale=10))


def test_products_take_outputs_leaf_by_leaf():
    net, params, x = small_network()
    two = lambda p, x: {"first": net(p, x)[:, :1], "second": net(p, x)[:, 1:]}
    v = jnp.cos(jnp.arange(10, dtype=x.dtype)).reshape(5, 2)
    product = ntk_vector_product(two, params, x, None, {"first": v[:, :1], "second": v[:, 1:]})
    expected = ntk_vector_product(net, params, x, x, v)
    np.testing.assert_allclose(jnp.concatenate(list(product.values()), axis=1), expected, **tolerance(x))


def test_of_no_examples_kernels_are_empty():
    net = fully_connected(4, 1, 2, erf, 1.5, 0.1)
    x = waves(3, 8, 0.2).reshape(3, 2, 2, 2)
    params = jax.jit(net.init)(jax.random.key(0), x)
    for f in (net, lambda p, x: net.apply(p, x)):
        for x1, x2, shape in ((x[:0], None, (0, 0)), (x[:0], x, (0, 3)), (x, x[:0], (3, 0))):
            assert empirical_ntk(f, params, x1, x2).shape == (*shape, 2, 2)
        assert ntk_vector_product(f, params, x[:0], x, jnp.ones((3, 2))).shape == (0, 2)
        assert ntk_vector_product(f, params, x, x[:0], jnp.ones((0, 2))).tolist() == [[0.0] * 2] * 3
        change = weight_change(f, params, x[:0], jnp.ones((4, 0, 2)))
        jax.tree.map(lambda w, p: np.testing.assert_array_equal(w, jnp.zeros((4, *p.shape))), change, params)
    shares = empirical_ntk_by_layer(net, params, x, x[:0])
    assert [theta.shape for theta in shares.values()] == [(3, 0, 2, 2)] * 2


@pytest.mark.parametrize("params", [{}, {"none": jnp.zeros((0, 2))}])
def test_without_parameters_the_kernel_is_zero(params):
    net, x = lambda p, x: jnp.sin(x), waves(3, 2, 0.1)
    for x2 in (None, x[:2]):
        np.testing.assert_array_equal(
            empirical_ntk(net, params, x, x2), jnp.zeros((3, len(x if x2 is None else x2), 2, 2))
        )
    assert ntk_vector_product(net, params, x, None, x).tolist() == [[0.0] * 2] * 3
    layers = Sequential((Flatten(), erf))
    np.testing.assert_array_equal(empirical_ntk(layers, layers.init(jax.random.key(0), x), x), jnp.zeros((3, 3, 2, 2)))


NORMALISED = Sequential((Flatten(), Dense(3, b_std=0.1), BatchNorm(), erf, Dense(4), BatchNorm(), erf, Dense(2)))


def normalised():
    x = waves(5, 3, 0.2)
    return NORMALISED, jax.jit(NORMALISED.init)(jax.random.key(1), x), x


def by_central_differences(apply_fn, params, x1, x2, step=1e-5):
    """J Jᵀ with each column of J a difference of two evaluations on the whole batch."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    change = lambda x: lambda e: (apply_fn(unravel(flat + e), x) - apply_fn(unravel(flat - e), x)) / (2 * step)
    steps = step * jnp.eye(len(flat))
    return jnp.einsum("pnk,pml->nmkl", jax.vmap(change(x1))(steps), jax.vmap(change(x2))(steps))


def test_batch_statistics_are_differentiated_too(x64):
    """Each batch whole, with its own statistics; one example at a time is another kernel."""
    net, params, x = normalised()
    theta, cross = empirical_ntk(net, params, x), empirical_ntk(net, params, x, x[:3])
    scale = float(abs(theta).max())
    np.testing.assert_allclose(theta, by_central_differences(net.apply, params, x, x), atol=1e-6 * scale)
    np.testing.assert_allclose(cross, by_central_differences(net.apply, params, x, x[:3]), atol=1e-6 * scale)
    assert float(abs(cross - theta[:, :3]).max()) > 0.01 * scale  # a part of the batch has other statistics
    path = explain_ntk(net, params, x)
    assert path.coupled and path.name == "jacobian" and "BatchNorm" in path.reason
    one_by_one = jacobian(as_apply_fn(net), False, 5, params, x, 0)
    assert float(abs(contract(one_by_one, one_by_one) - theta).max()) > 0.01 * scale


@pytest.mark.parametrize("name", ["jacobian", "products"])
def test_batch_statistics_in_blocks_of_rows_and_by_products(x64, name):
    net, params, x = normalised()
    memory = least_memory("jacobian", 2, net, params, x)
    if name == "products":
        memory = least_memory("jacobian", 1, net, params, x) - 1
    path = explain_ntk(net, params, x, None, memory)
    assert path.coupled and (path.name, path.rows) == (name, {"jacobian": 2, "products": 5}[name])
    theta = dense_ntk(net.apply, params, x, x)
    close = lambda other, part: np.testing.assert_allclose(other, part, atol=1e-12 * float(abs(theta).max()))
    close(empirical_ntk(net, params, x, None, memory), theta)
    close(products(as_apply_fn(net), True, params, x, x[:3]), dense_ntk(net.apply, params, x, x[:3]))


def test_the_report_on_linearity_takes_batch_statistics(x64):
    net, params, x = normalised()
    report = linearity(net, params, shifted(params), x)
    before, after = (dense_ntk(net.apply, p, x, x) for p in (params, shifted(params)))
    assert float(report.kernel_change) == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))


def test_the_cheaper_way_is_taken():
    net, params, x = deep_network()
    path = lambda *arguments: explain_ntk(*arguments)
    assert path(net, params, x).name == "jacobian"
    assert path(many_outputs, params, x).name == "products"
    assert re.search("products take .* operations and Jacobians", path(many_outputs, params, x).reason)
    tight = path(net, params, x, None, least_memory("jacobian", 1, net, params, x) - 1)
    assert tight.name == "products" and "more than `memory`" in tight.reason
    assert "the layers of a bare function cannot be seen" in tight.reason


@pytest.mark.parametrize("memory", [2**19, 2**21])
def test_blocks_keep_to_the_memory(memory):
    """By what the compiler says of its own programs: of one block, and of two of them together."""
    x = waves(64, 64, 0.2).reshape(64, 8, 8, 1)
    net = convolutional(8, 2, 3, erf, 1.4, 0.1, pooling=Flatten())
    params = jax.jit(net.init)(jax.random.key(0), x)
    path = explain_ntk(net, params, x, None, memory)
    block = x[: path.rows]
    factors = layer_factors.lower(as_apply_fn(net), params, block).compile().memory_analysis()
    shapes = jax.eval_shape(partial(layer_factors, as_apply_fn(net)), params, block)
    both = sum_of_layers.lower(path.layers, memory // 2, shapes, shapes).compile().memory_analysis()
    assert factors.output_size_in_bytes + factors.temp_size_in_bytes <= memory
    assert memory / 20 < both.argument_size_in_bytes + both.output_size_in_bytes + both.temp_size_in_bytes <= memory


OVER_DEVICES = """
import jax, numpy as np
from jax.sharding import Mesh
from lib import BatchNorm, Dense, Sequential, empirical_ntk, erf
x = np.cos(np.arange(21, dtype=np.float32)).reshape(7, 3)
mesh = Mesh(np.asarray(jax.devices()), ("blocks",))
for middle in (erf, BatchNorm()):
    net = Sequential((Dense(8), middle, Dense(2)))
    params = net.init(jax.random.key(0), x)
    for x2 in (None, x[:5] + 0):
        expected = empirical_ntk(net, params, x, x2)
        np.testing.assert_allclose(empirical_ntk(net, params, x, x2, 3000, mesh), expected, rtol=1e-4, atol=1e-5)
print("equal on", mesh.size)
"""


@pytest.mark.once
def test_blocks_over_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run([sys.executable, "-c", OVER_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal on 3\n", done.stderr


def test_errors_name_the_argument():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`x2` must have the shape of `x1` after its first axis"):
        empirical_ntk(net, params, x, x[:, :2])
    with pytest.raises(ValueError, match="`net` must return outputs of shape"):
        empirical_ntk(lambda p, x: net(p, x).sum(1), params, x)
    with pytest.raises(ValueError, match=r"`memory` must hold the derivatives of one example, \d+ bytes, got 10"):
        empirical_ntk(net, params, x, memory=10)
    net = fully_connected(4, 1, 2, erf, 1.5, 0.1)
    layers = net.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"`memory` must hold two passes .* of one example, \d+ bytes, got 10"):
        empirical_ntk(net, layers, x, memory=10)
    with pytest.raises(ValueError, match="`memory` must be an integer of at least 1"):
        empirical_ntk(net, layers, x, memory=0)
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`v` must have the shape"):
        ntk_vector_product(net, params, x, x, jnp.ones(5))
    with pytest.raises(ValueError, match=r"`net` must return outputs of shape .* of several arrays take one"):
        empirical_ntk(lambda p, x: (net(p, x), x), params, x)
    with pytest.raises(ValueError, match=r"`net` must return outputs of shape .* of several arrays take one"):
        weight_change(lambda p, x: (net(p, x), x), params, x, x)
    with pytest.raises(ValueError, match="`x1` must hold arrays with examples along their first axis, as many in each"):
        empirical_ntk(split(net), params, {"a": x[:4, :1], "b": x[:, 1:]})
    with pytest.raises(ValueError, match="`x1` must hold arrays with examples along their first axis"):
        empirical_ntk(net, params, x.tolist())
