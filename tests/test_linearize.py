"""Taylor expansions: agreement at θ₀, the order of what is left out, and the reference's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from networks import reference_network, shifted, small_network

from lib import linearize, taylor_expand


def test_the_expansion_touches_the_network_at_its_base_point():
    net, params, x = small_network()
    np.testing.assert_allclose(linearize(net, params)(params, x), net(params, x), **tolerance(x))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_left_out_is_of_the_next_order(x64, degree):
    """Halving the step divides the error by 2^(degree + 1)."""
    net, params, x = small_network()
    f_d = taylor_expand(net, params, degree)

    def error(s):
        moved = jax.tree.map(lambda p: p + s * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
        return float(jnp.linalg.norm(f_d(moved, x) - net(moved, x)))

    assert np.log2(error(2e-2) / error(1e-2)) == pytest.approx(degree + 1, abs=0.1)


def test_degree_one_is_the_linearisation():
    net, params, x = small_network()
    moved = shifted(params)
    np.testing.assert_allclose(
        taylor_expand(net, params, 1)(moved, x), linearize(net, params)(moved, x), **tolerance(x)
    )


def test_the_linearisation_is_affine_in_the_parameters():
    net, params, x = small_network()
    f_lin = linearize(net, params)
    far, further = shifted(params), shifted(shifted(params))
    midpoint = jax.tree.map(lambda a, b: (a + b) / 2, far, further)
    np.testing.assert_allclose(f_lin(midpoint, x), (f_lin(far, x) + f_lin(further, x)) / 2, **tolerance(x, scale=10))


def test_reference_expansions(x64, reference):
    net, params, x, _ = reference_network()
    moved, values = shifted(params), reference["empirical"]
    for degree in range(4):
        np.testing.assert_allclose(
            taylor_expand(net, params, degree)(moved, x), values[f"taylor{degree}_at_p1"], rtol=1e-9
        )
    np.testing.assert_allclose(linearize(net, params)(moved, x), values["linearize_at_p1"], rtol=1e-9)


def test_other_parameters_are_refused_by_name():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`params` must have the structure of `params0`"):
        linearize(net, params)({"other": params["W1"]}, x)
    with pytest.raises(ValueError, match=r"`params`\['W1'\] must have shape"):
        jax.jit(linearize(net, params))({**params, "W1": jnp.ones((9, 9))}, x)


@pytest.mark.parametrize("degree", [-1, 1.0, True])
def test_degree_must_be_a_count(degree):
    with pytest.raises(ValueError, match="`degree` must be an integer"):
        taylor_expand(*small_network()[:2], degree)


def test_a_network_must_be_a_module_or_a_function():
    with pytest.raises(TypeError, match="`net` must be a Flax module or a function"):
        linearize("relu", {})
