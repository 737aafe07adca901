"""The empirical kernel against the dense Jacobian, the reference, and itself in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from networks import deep_network, dense_ntk, reference_network, shifted, small_network

from lib import empirical_ntk, linearize, ntk_vector_product


def test_it_is_the_contraction_of_the_dense_jacobian():
    net, params, x = deep_network()
    x2 = x[:3] * 0.7
    expected = dense_ntk(net, params, x, x2)
    np.testing.assert_allclose(empirical_ntk(net, params, x, x2), expected, **tolerance(x, scale=10))


@pytest.mark.parametrize("per_block", [1, 2, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_any_size_give_the_same_kernel(per_block, symmetric):
    net, params, x = deep_network()
    bytes_each = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) * 2
    x2 = None if symmetric else x[:4]
    blocked = empirical_ntk(net, params, x, x2, memory=2 * per_block * bytes_each)
    np.testing.assert_allclose(blocked, empirical_ntk(net, params, x, x2), **tolerance(x, scale=10))


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


def test_errors_name_the_argument():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`x2` must have the shape of `x1` after its first axis"):
        empirical_ntk(net, params, x, x[:, :2])
    with pytest.raises(ValueError, match="`net` must return outputs of shape"):
        empirical_ntk(lambda p, x: net(p, x).sum(1), params, x)
    with pytest.raises(ValueError, match="`v` must have the shape"):
        ntk_vector_product(net, params, x, x, jnp.ones(5))
