"""Layers: what they compute, what they initialise, and how their kernels follow from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import images
from tolerances import tolerance

from lib.networks.activations import erf, identity, relu
from lib.networks.layers import Dense, Flatten
from lib.networks.sequential import Sequential

KEY = jax.random.key(0)
both_parameterizations = pytest.mark.parametrize("parameterization", ["ntk", "standard"])


def shapes(params):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_dense_in_the_ntk_parameterisation_is_equation_1():
    x = waves(4, 3, 0.0)
    layer = Dense(5, W_std=1.5, b_std=0.2)
    params = layer.init(KEY, x)
    omega, beta = params["params"]["omega"], params["params"]["beta"]
    expected = np.asarray(x) @ (1.5 / np.sqrt(3) * np.asarray(omega)) + 0.2 * np.asarray(beta)
    np.testing.assert_allclose(layer.apply(params, x), expected, **tolerance(x))


def test_dense_in_the_standard_parameterisation_trains_the_weights_themselves():
    x = waves(4, 3, 0.0)
    layer = Dense(5, W_std=1.5, b_std=0.2, parameterization="standard")
    params = layer.init(KEY, x)
    expected = np.asarray(x) @ np.asarray(params["params"]["omega"]) + np.asarray(params["params"]["beta"])
    np.testing.assert_allclose(layer.apply(params, x), expected, **tolerance(x))


@pytest.mark.parametrize(
    ("parameterization", "omega_std", "beta_std"), [("ntk", 1.0, 1.0), ("standard", 1.5 / np.sqrt(300), 0.2)]
)
def test_weights_are_gaussians_of_the_stated_deviation(parameterization, omega_std, beta_std):
    layer = Dense(3000, W_std=1.5, b_std=0.2, parameterization=parameterization)
    params = layer.init(KEY, jnp.ones((1, 300)))["params"]
    # Of n draws the mean is within 5/√n deviations, and the deviation within 5/√2n of itself, once in 10⁶.
    for name, std in (("omega", omega_std), ("beta", beta_std)):
        n = params[name].size
        assert abs(params[name].mean()) < 5 * std / np.sqrt(n)
        assert abs(params[name].std() / std - 1) < 5 / np.sqrt(2 * n)


@both_parameterizations
def test_init_gives_params_and_nothing_else(parameterization):
    net = Sequential((Flatten(), Dense(4, b_std=0.1, parameterization=parameterization), relu, Dense(2)))
    params = net.init(KEY, jnp.asarray(images(3, 2, 2, 1, 0.0)))
    assert shapes(params) == {
        "['params']['layers_1']['beta']": (4,),
        "['params']['layers_1']['omega']": (4, 4),
        "['params']['layers_3']['omega']": (4, 2),
    }


def test_the_two_parameterisations_are_one_function_of_scaled_parameters():
    x = waves(4, 3, 0.0)
    make = lambda p: Sequential((Dense(5, 1.5, 0.2, p), erf, Dense(2, 0.7, 0.3, p)))
    params = make("ntk").init(KEY, x)
    scale = {"layers_0": (1.5 / 3**0.5, 0.2), "layers_2": (0.7 / 5**0.5, 0.3)}
    scaled = {
        name: {"omega": scale[name][0] * layer["omega"], "beta": scale[name][1] * layer["beta"]}
        for name, layer in params["params"].items()
    }
    np.testing.assert_allclose(
        make("ntk").apply(params, x), make("standard").apply({"params": scaled}, x), **tolerance(x)
    )


def test_a_bias_of_zero_is_a_bias():
    x = jnp.ones((1, 3))
    assert "beta" in Dense(2, b_std=0).init(KEY, x)["params"]
    assert "beta" not in Dense(2, b_std=None).init(KEY, x)["params"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("W_std", [np.sqrt(2.0), np.asarray(1.5), 2])
def test_dtype_follows_the_inputs_whatever_the_constants_are(dtype, W_std, x64):
    net = Sequential((Dense(4, W_std, W_std), erf, Dense(2, jnp.float64(0.3), b_std=0.1)))
    x = waves(4, 3, 0.0).astype(dtype)
    params = net.init(KEY, x)
    kernel = net.kernel(x, x[:2])
    assert {leaf.dtype for leaf in jax.tree.leaves((params, net.apply(params, x), kernel))} == {jnp.dtype(dtype)}


def test_flatten_orders_an_image_as_numpy_does():
    x = images(3, 2, 4, 2, 0.0)
    np.testing.assert_array_equal(Flatten()(jnp.asarray(x)), jnp.asarray(x.reshape(3, -1)))


def test_one_layer_by_hand():
    """K = σ_w² x·x′/n + σ_b²; Θ the same, and in the standard parameterisation x·x′ + 1."""
    x = waves(4, 3, 0.0)
    gram = np.asarray(x) @ np.asarray(x).T
    ntk = Sequential((Dense(7, 1.5, 0.2),)).kernel(x)
    standard = Sequential((Dense(7, 1.5, 0.2, "standard"),)).kernel(x)
    no_bias = Sequential((Dense(7, 1.5, parameterization="standard"),)).kernel(x)
    np.testing.assert_allclose(ntk.nngp, 2.25 * gram / 3 + 0.04, **tolerance(x))
    np.testing.assert_allclose(ntk.ntk, ntk.nngp, **tolerance(x))
    np.testing.assert_allclose(standard.nngp, ntk.nngp, **tolerance(x))
    np.testing.assert_allclose(standard.ntk, gram + 1, **tolerance(x, scale=3))
    np.testing.assert_allclose(no_bias.ntk, gram, **tolerance(x, scale=3))


def test_a_standard_bias_of_zero_is_trained():
    x = waves(4, 3, 0.0)
    make = lambda b_std: Sequential((Dense(7, 1.5, b_std, "standard"), relu, Dense(1, 1.5, None, "standard")))
    with_bias, without = make(0).kernel(x), make(None).kernel(x)
    np.testing.assert_allclose(with_bias.nngp, without.nngp, **tolerance(x))
    # The gradient 1 of the first bias arrives through σ_w² E[φ′φ′], which is σ_w²/2 on the diagonal.
    np.testing.assert_allclose(jnp.diag(with_bias.ntk - without.ntk), 2.25 / 2, **tolerance(x, scale=100))


def test_parameterisations_agree_where_their_weights_do():
    """With σ_w² = fan-in and σ_b = 1 both train W = ω and b = β: the same Θ, wherever the factors stand."""
    x = waves(4, 3, 0.0)
    make = lambda p: Sequential((Dense(5, 3**0.5, 1, p), erf, Dense(6, 5**0.5, 1, p), relu, Dense(2, 6**0.5, 1, p)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance(x, scale=10)),
        make("ntk").kernel(x, x[:3]),
        make("standard").kernel(x, x[:3]),
    )


def test_a_linear_network_has_the_kernel_of_its_depth():
    """With φ = identity, σ_w = 1 and no bias, K stays x·x′/d and each layer adds it once to Θ: Θ = (L + 1) K."""
    x = waves(4, 3, 0.0)
    k = Sequential((Dense(5), identity, Dense(5), identity, Dense(1))).kernel(x)
    np.testing.assert_allclose(k.nngp, np.asarray(x) @ np.asarray(x).T / 3, **tolerance(x))
    np.testing.assert_allclose(k.ntk, 3 * k.nngp, **tolerance(x))


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_inputs_that_do_not_fit_are_named(compile):
    net = Sequential((Dense(5), relu, Dense(2)))
    x = waves(4, 3, 0.0)
    params = net.init(KEY, x)
    image = jnp.ones((2, 2, 2, 1))
    with pytest.raises(ValueError, match=r"`x2` must have the shape of `x1` after its first axis"):
        compile(net.kernel)(x, x[:, :2])
    with pytest.raises(ValueError, match=r"`x1` must have shape \(N, d\), got \(2, 2, 2, 1\); put Flatten\(\) before"):
        compile(net.kernel)(image)
    with pytest.raises(TypeError, match="`x1` must hold floating-point numbers, got int32"):
        compile(net.kernel)(jnp.ones((4, 3), jnp.int32))
    with pytest.raises(TypeError, match="`x` must hold floating-point numbers, got int32"):
        compile(net.apply)(params, jnp.ones((4, 3), jnp.int32))
    with pytest.raises(
        ValueError, match=r"Dense needs `x` of shape \(N, n\), got \(2, 2, 2, 1\); images need Flatten\(\)"
    ):
        compile(net.apply)(params, image)
    with pytest.raises(
        ValueError, match=r"`params` of layers_0 hold omega of shape \(3, 5\), but `x` of shape \(4, 2\)"
    ):
        compile(net.apply)(params, x[:, :2])


def test_fields_that_are_wrong_are_named():
    for features, error in ((0, ValueError), (2.5, TypeError), (True, TypeError), ("64", TypeError)):
        with pytest.raises(error, match="`features` must be an integer of at least 1"):
            Dense(features)
    with pytest.raises(TypeError, match=r"`W_std` must be a real number, got '1\.5'"):
        Dense(3, W_std="1.5")
    with pytest.raises(TypeError, match="`W_std` must be a real number, got True"):
        Dense(3, W_std=True)
    with pytest.raises(TypeError, match="`W_std` must be a real number, got None"):
        Dense(3, W_std=None)
    with pytest.raises(TypeError, match="`b_std` must be a real number"):
        Dense(3, b_std=jnp.ones(2))
    with pytest.raises(TypeError, match="`b_std` must be a real number, got 1j"):
        Dense(3, b_std=1j)
    with pytest.raises(ValueError, match='`parameterization` must be "ntk" or "standard", got \'NTK\''):
        Dense(3, parameterization="NTK")
