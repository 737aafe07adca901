"""Taylor expansions: agreement at θ₀, the order of what is left out, and the reference's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import reference_network, shifted, small_network
from tolerances import tolerance

from lib import empirical_ntk, fully_connected, linearize, ntk_vector_product, relu, taylor_expand, train


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


def outputs_as_a_tree(params, x):
    f = small_network()[0](params, x)
    return f[:, :1], {"other": [jnp.sin(f), jnp.sum(f)]}


def test_outputs_may_be_any_pytree():
    """Leaf by leaf the expansion of that leaf."""
    _, params, x = small_network()
    moved = shifted(params)
    for expand in (linearize, lambda net, p: taylor_expand(net, p, 2)):
        whole = expand(outputs_as_a_tree, params)(moved, x)
        assert jax.tree.structure(whole) == jax.tree.structure(outputs_as_a_tree(params, x))
        for i, leaf in enumerate(jax.tree.leaves(whole)):
            alone = expand(lambda p, x, i=i: jax.tree.leaves(outputs_as_a_tree(p, x))[i], params)(moved, x)
            np.testing.assert_allclose(leaf, alone, **tolerance(x))


def test_inputs_may_be_any_pytree():
    net, params, x = small_network()
    split = lambda p, inputs: net(p, jnp.concatenate([inputs["first"], inputs["rest"]], axis=1))
    f_lin = linearize(split, params)(shifted(params), {"first": x[:, :1], "rest": x[:, 1:]})
    np.testing.assert_allclose(f_lin, linearize(net, params)(shifted(params), x), **tolerance(x))


def test_complex_parameters_have_a_linearisation():
    square = lambda params, x: params**2 * x
    f_lin = linearize(square, jnp.array(1 + 1j))
    np.testing.assert_allclose(f_lin(jnp.array(2 + 1j), jnp.ones((1, 1))), [[2j + 2 * (1 + 1j)]], rtol=1e-6)


def test_parameters_of_another_precision_are_compared_in_the_better_one(x64):
    net, params, x = small_network()
    single = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    back = jax.tree.map(lambda p: p.astype(jnp.float64), single)
    np.testing.assert_array_equal(linearize(net, single)(params, x), linearize(net, back)(params, x))


def use(f_lin, params, x, y, loss):
    """All that takes a network, once."""
    empirical_ntk(f_lin, params, x)
    empirical_ntk(f_lin, params, x, x, memory=20000)
    ntk_vector_product(f_lin, params, x, None, y)
    return train(linearize(f_lin, params), params, loss, optax.sgd(0.01), x, y, 3, at=(3,))


def test_five_seeds_are_one_program_and_leave_nothing_behind():
    """θ₀ is an argument of what is compiled: for another one nothing is traced anew, and no θ₀ stays alive."""
    traces, (_, params, x) = [], small_network()
    loss = lambda f, y: jnp.sum((f - y) ** 2)

    def net(p, x):
        traces.append(1)
        return jnp.tanh(x @ p["W1"] + p["b"]) @ p["W2"]

    alive = []
    compiled = jax.jit(lambda f, p, x: f(p, x))
    for seed in range(5):
        params0 = jax.tree.map(lambda p, seed=seed: p + 0.1 * seed, params)
        for f in (linearize(net, params0), taylor_expand(net, params0, 2)):
            compiled(f, params0, x)
        use(linearize(net, params0), params0, x, jnp.ones((5, 2), x.dtype), loss)
        del params0, f
        alive.append(sum(array.nbytes for array in jax.live_arrays()))
        traces.append("seed")
    counts = np.diff([-1, *(i for i, mark in enumerate(traces) if mark == "seed")]) - 1
    eager = 4  # two of the product and one each of the checks of both, which ask for the outputs' shapes
    assert counts[0] > 20 and max(counts[1:]) <= eager, counts
    assert alive[1:] == alive[1:2] * 4


def test_programs_do_not_grow_with_the_parameters():
    compiled = jax.jit(lambda f, p, x: f(p, x))
    x, sizes = jnp.ones((2, 3)), []
    for width in (8, 512):
        net = fully_connected(width, 2, 1, relu, 1.4, 0.1)
        params = jax.jit(net.init)(jax.random.key(0), x)
        sizes.append(len(compiled.lower(linearize(linearize(net, params), params), params, x).as_text()))
    assert sizes[1] < 1.05 * sizes[0]


def test_other_parameters_are_refused_by_name():
    net, params, x = small_network()
    with pytest.raises(ValueError, match="`params` must have the structure of `params0`"):
        linearize(net, params)({"other": params["W1"]}, x)
    with pytest.raises(ValueError, match=r"`params`\['W1'\] must have shape"):
        jax.jit(linearize(net, params))({**params, "W1": jnp.ones((9, 9))}, x)
    with pytest.raises(TypeError, match=r"`params0`\['W1'\] must hold floating-point numbers, got int"):
        linearize(net, {**params, "W1": jnp.ones((3, 7), int)})


@pytest.mark.parametrize("degree", [-1, 1.0, True])
def test_degree_must_be_a_count(degree):
    with pytest.raises(ValueError, match="`degree` must be an integer"):
        taylor_expand(*small_network()[:2], degree)


def test_a_network_must_be_a_module_or_a_function():
    with pytest.raises(TypeError, match="`net` must be a Flax module or a function"):
        linearize("relu", {})


def test_factorials_of_high_degrees_are_numbers():
    """Beyond 12! they are no integers of 32 bits, beyond 20! none of 64."""
    for degree in (13, 21):
        f_d = taylor_expand(lambda params, x: params**2 * x, jnp.array(3.0), degree)
        assert float(f_d(jnp.array(4.0), jnp.ones((1, 1)))[0, 0]) == 16
