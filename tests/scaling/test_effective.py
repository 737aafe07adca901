"""Networks scaled by exponents against the same networks written in the weights w that the exponents speak of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lib import (
    ABC,
    at_one_rate,
    convolutional,
    empirical_ntk,
    empirical_ntk_by_layer,
    fully_connected,
    layer_rates,
    linearize,
    relu,
    scaled_init,
    scaled_sgd,
    tanh,
    train,
)

N, D, WIDTH = 6, 5, 32
X = jax.random.normal(jax.random.key(1), (N, D))
Y = jnp.sin(3 * X[:, :1])
KEY = jax.random.key(0)
SCALINGS = {
    "ntk": ABC.ntk(2),
    "standard": ABC.standard(2),
    "maximal update": ABC.maximal_update(2),
    "integrable": ABC.integrable(2),
    "none": ABC((0.25, 0.75, 1.0), (0.5, -0.25, 0.0), (0.0, 0.5, -0.5)),
}
half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)


def network(activation=tanh, depth=2, outputs=1, b_std=None, width=WIDTH):
    return fully_connected(width, depth, outputs, activation, 1.5, b_std, parameterization="standard")


def close(one, other, rtol=1e-5):
    tolerance = rtol if jnp.zeros(()).dtype == jnp.float32 else 1e-10
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
    jax.tree.map(same, one, other)


def by_hand(p, params, steps, learning_rate=0.05):
    """Descent in w = n^{a} W at the rates η n^{-c}."""
    scale = {name: WIDTH**-a for name, a in zip(params["params"], p.a, strict=True)}
    scale[min(scale)] /= D**0.5
    rate = {name: learning_rate * WIDTH**-c for name, c in zip(params["params"], p.c, strict=True)}
    of = lambda w: {"params": {name: {"omega": scale[name] * w[name]} for name in w}}
    w = {name: layer["omega"] / scale[name] for name, layer in params["params"].items()}
    loss = jax.jit(jax.grad(lambda w: half_square(network().apply(of(w), X), Y)))
    for _ in range(steps):
        w = jax.tree.map(lambda w, g, rate: w - rate * g, w, loss(w), rate)
    return of(w)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [0.0, -0.75])
def test_training_is_that_of_the_weights_behind_however_they_are_written(name, theta):
    p = SCALINGS[name].shift(theta)
    params = scaled_init(p, network(), KEY, X)
    run = train(network().apply, params, half_square, scaled_sgd(p, params, 0.05), X, Y, 4)
    close(run.params, by_hand(SCALINGS[name], params, 4))


@pytest.mark.parametrize("name", SCALINGS)
def test_weights_start_at_the_sizes_of_the_exponents(name):
    p, net = SCALINGS[name], network(width=256, b_std=0.3)
    params = scaled_init(p, net, KEY, X)["params"]
    for i, layer in enumerate(params.values()):
        expected = 1.5 * 256 ** -p.init[i] / (D**0.5 if i == 0 else 1)
        assert float(jnp.sqrt(jnp.mean(layer["omega"] ** 2))) == pytest.approx(expected, rel=0.2)
    same = net.init(KEY, X)["params"]
    for layer, drawn in zip(params.values(), same.values(), strict=True):
        np.testing.assert_array_equal(layer["beta"], drawn["beta"])


def test_the_standard_parameterisation_stays_as_it_is():
    close(scaled_init(ABC.standard(2), network(), KEY, X), network().init(KEY, X), rtol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_relu_networks_of_two_scalings_differ_by_a_power_of_the_width_exactly(depth):
    net = network(relu, depth)
    f = {make: net.apply(scaled_init(make(depth), net, KEY, X), X) for make in (ABC.ntk, ABC.integrable)}
    close(f[ABC.integrable] * WIDTH ** (depth / 2), f[ABC.ntk])


def test_weights_around_a_mean():
    net = network(width=400)
    centred, moved = (scaled_init(ABC.integrable(2), net, KEY, X, mean)["params"] for mean in (0.0, 1.0))
    first, *others = centred
    np.testing.assert_array_equal(centred[first]["omega"], moved[first]["omega"])
    for name in others:
        np.testing.assert_allclose(moved[name]["omega"] - centred[name]["omega"], 1 / 400, rtol=1e-3)


def test_biases_move_as_much_as_the_weights_beside_them():
    p = ABC.maximal_update(2)
    params = scaled_init(p, network(b_std=0.1), KEY, X)
    optimizer = scaled_sgd(p, params, 1.0)
    steps, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params))
    rates = [[-float(layer[kind].ravel()[0]) for kind in ("omega", "beta")] for layer in steps["params"].values()]
    np.testing.assert_allclose(rates, [[WIDTH / D, WIDTH], [1, WIDTH], [1 / WIDTH, 1]], rtol=1e-6)


def test_the_first_step_may_have_rates_of_its_own():
    p, first = ABC.integrable(2), ABC.integrable_first_step(2)
    params = scaled_init(p, network(), KEY, X)
    optimizer = scaled_sgd(p, params, 1.0, first)
    state, ones = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    for of in (first, p, p):
        steps, state = optimizer.update(ones, state)
        rates = [-float(layer["omega"][0, 0]) for layer in steps["params"].values()]
        np.testing.assert_allclose(rates, np.float64(WIDTH) ** -np.array(of.rates) / [D, 1, 1], rtol=1e-5)


def test_the_large_first_step_is_that_of_maximal_updates():
    """For ReLU at every width, but for the loss's slope at the outputs of the start: the identity of the authors."""
    net = network(relu, 3)
    changes = []
    for p, first in ((ABC.integrable(3), ABC.integrable_first_step(3)), (ABC.maximal_update(3), None)):
        params = scaled_init(p, net, KEY, X)
        slope_at_zero = lambda f, y: jnp.sum(f * -y)
        run = train(net.apply, params, slope_at_zero, scaled_sgd(p, params, 0.1, first), X, Y, 1)
        changes.append(jax.tree.map(jnp.subtract, run.params, params))
    scale = jax.tree.map(lambda leaf: float(jnp.max(jnp.abs(leaf))), changes[1])
    digits = 1e-4 if X.dtype == jnp.float32 else 1e-10
    jax.tree.map(lambda a, b, s: np.testing.assert_allclose(a, b, atol=digits * s, rtol=0), *changes, scale)


@pytest.mark.parametrize("b_std", [None, 0.2])
@pytest.mark.parametrize("name", ["ntk", "maximal update"])
def test_in_weights_of_one_rate_training_is_the_same_and_the_kernel_knows_the_rates(name, b_std):
    p, net = SCALINGS[name], network(b_std=b_std)
    params = scaled_init(p, net, KEY, X)
    f, u = at_one_rate(layer_rates(p, params), net.apply, params)
    close(f(u, X), net.apply(params, X))
    one = train(f, u, half_square, optax.sgd(0.02), X, Y, 3).params
    other = train(net.apply, params, half_square, scaled_sgd(p, params, 0.02), X, Y, 3).params
    close(f(one, X), net.apply(other, X))
    if b_std is None:
        layers = empirical_ntk_by_layer(net.apply, params, X)
        kappa = np.float64(WIDTH) ** -np.array(p.rates) / [D, 1, 1]
        weighed = sum(rate * kernel for rate, kernel in zip(kappa, jax.tree.leaves(layers), strict=True))
        close(empirical_ntk(f, u, X), weighed)


def test_the_linearised_network_trains_at_the_same_rates():
    p, net = ABC.ntk(2), network(width=512)
    params = scaled_init(p, net, KEY, X)
    optimizer = scaled_sgd(p, params, 0.02)
    ends = [
        train(f, params, half_square, optimizer, X, Y, 20).params for f in (net.apply, linearize(net.apply, params))
    ]
    gap = net.apply(ends[0], X) - linearize(net.apply, params)(ends[1], X)
    assert float(jnp.max(jnp.abs(gap))) < 0.05 * float(jnp.max(jnp.abs(net.apply(ends[0], X) - net.apply(params, X))))


@pytest.mark.parametrize("b_std", [None, 1.0])
def test_exponents_of_the_ntk_parameterisation_give_that_of_the_networks(b_std):
    ours = fully_connected(WIDTH, 2, 1, tanh, 1.0, b_std)
    net = fully_connected(WIDTH, 2, 1, tanh, 1.0, b_std, parameterization="standard")
    params, p = scaled_init(ABC.ntk(2), net, KEY, X), ABC.ntk(2)
    close(at_one_rate(layer_rates(p, params), net.apply, params)[1], ours.init(KEY, X))
    one = train(ours.apply, ours.init(KEY, X), half_square, optax.sgd(0.02), X, Y, 4).params
    other = train(net.apply, params, half_square, scaled_sgd(p, params, 0.02), X, Y, 4).params
    close(ours.apply(one, X), net.apply(other, X))


def test_other_networks_are_refused():
    ours = fully_connected(8, 2, 1, tanh, 1.0, None)
    with pytest.raises(ValueError, match='parameterization="standard"'):
        scaled_init(ABC.ntk(2), ours, KEY, X)
    with pytest.raises(ValueError, match="3 layers, but `p` has exponents of 2"):
        scaled_init(ABC.ntk(1), network(), KEY, X)
    conv = convolutional(4, 1, 1, tanh, 1.0, None, parameterization="standard")
    with pytest.raises(ValueError, match="dense layers alone"):
        scaled_init(ABC.ntk(1), conv, KEY, jnp.ones((1, 4, 4, 1)))
    uneven = {
        "params": {
            "a_0": {"omega": jnp.ones((2, 3))},
            "a_1": {"omega": jnp.ones((3, 4))},
            "a_2": {"omega": jnp.ones((4, 1))},
        }
    }
    with pytest.raises(ValueError, match=r"one width, got \[3, 4\]"):
        scaled_sgd(ABC.ntk(2), uneven, 0.1)
    with pytest.raises(ValueError, match="dense layers alone"):
        layer_rates(ABC.ntk(1), jnp.ones(3))
    # JAX sorts names, and so would put the readout before what it reads.
    unnumbered = {"params": {"top": {"omega": jnp.ones((3, 1))}, "bottom": {"omega": jnp.ones((2, 3))}}}
    with pytest.raises(ValueError, match=r"numbers in their names, .* got \['top', 'bottom'\]"):
        layer_rates(ABC.ntk(1), unnumbered)
    with pytest.raises(TypeError, match="`learning_rate`"):
        scaled_sgd(ABC.ntk(2), network().init(KEY, X), "0.1")
