"""Networks: the reference, a slow recursion, another library, and finite networks of large width."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import fully_connected_kernel, images
from skntk import NeuralTangentKernel
from tolerances import tolerance

from lib.networks.activations import (
    activation,
    cos,
    erf,
    gaussian,
    gelu,
    leaky_relu,
    polynomial,
    relu,
    sigmoid_like,
    sin,
    tanh,
)
from lib.networks.architectures import convolutional, fully_connected, wide_resnet
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.normalization import BatchNorm
from lib.networks.pooling import AveragePool, GlobalAveragePool
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential
from lib.tangent.ntk import empirical_ntk

ACTIVATIONS = {"relu": relu, "erf": erf, "tanh": tanh}
DEEP = {"width": 64, "depth": 3, "outputs": 1, "W_std": 1.5, "b_std": 0.1}
every_activation = pytest.mark.parametrize("phi", ACTIVATIONS.values(), ids=ACTIVATIONS)


def assert_kernels_equal(a, b, **tolerances):
    for name, one, other in zip(("nngp", "ntk"), a, b, strict=True):
        np.testing.assert_allclose(one, other, **{"err_msg": name, **tolerances})


# Identities -----------------------------------------------------------------------------------------------------------


def test_it_is_the_layers_written_by_hand():
    for chosen in ("ntk", "standard"):
        dense = lambda features: Dense(features, 1.5, 0.1, chosen)  # noqa: B023
        by_hand = Sequential((Flatten(), dense(64), relu, dense(64), relu, dense(2)))
        assert fully_connected(64, 2, 2, relu, 1.5, 0.1, chosen) == by_hand
    assert fully_connected(64, 0, 2, relu, 1.5, None) == Sequential((Flatten(), Dense(2, 1.5, None, "ntk")))


@every_activation
def test_kernels_are_symmetric_and_positive_semidefinite(phi):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 5)))
    for k in fully_connected(activation=phi, **DEEP).kernel(x):
        np.testing.assert_allclose(k, k.T, **tolerance(x))
        assert jnp.linalg.eigvalsh(k)[0] > -float(jnp.finfo(x.dtype).eps) * 100 * jnp.trace(k)
        assert jnp.linalg.eigvalsh(k)[-1] > 0.1 * jnp.trace(k)


@every_activation
def test_leaving_x2_out_means_x1(phi, x64):
    """The same numbers; on the diagonal, where two equal inputs are met by rounding, to half the digits only."""
    x = waves(4, 3, 0.0)
    net = fully_connected(activation=phi, **DEEP)
    alone, with_itself = net.kernel(x), net.kernel(x, x)
    assert_kernels_equal(alone, with_itself, rtol=1e-7)
    off_diagonal = ~np.eye(4, dtype=bool)
    for one, other in zip(alone, with_itself, strict=True):
        np.testing.assert_allclose(one[off_diagonal], other[off_diagonal], rtol=1e-12)


@every_activation
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_a_block_of_a_kernel_is_the_kernel_of_a_block(phi, parameterization):
    x = waves(6, 3, 0.0)
    net = fully_connected(activation=phi, parameterization=parameterization, **DEEP)
    whole = net.kernel(x)
    block = net.kernel(x[:2], x[2:])
    assert_kernels_equal((whole.nngp[:2, 2:], whole.ntk[:2, 2:]), block, **tolerance(x, scale=3))


def test_images_are_flattened():
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    net = fully_connected(activation=relu, **DEEP)
    assert_kernels_equal(net.kernel(x), net.kernel(x.reshape(3, -1)), **tolerance(x))


# Oracles --------------------------------------------------------------------------------------------------------------


REFERENCE = {
    "erf_d1": erf,
    "sin_d1": sin,
    "cos_d1": cos,
    "gelu_d1": gelu,
    "gaussian_d1": gaussian,
    "sigmoid_like_d1": sigmoid_like,
    "gabor_d1": activation(lambda u: jnp.exp(-(u**2)) * jnp.sin(u)),
    "rbf1_d1": activation(lambda u: jnp.sqrt(2) * jnp.sin(jnp.sqrt(2) * u + jnp.pi / 4)),
    "monomial3_d1": polynomial((0, 0, 0, 1)),
    "polynomial_1_0_m.5_.2_d1": polynomial((1, 0, -0.5, 0.2)),
    "tanh_numerical_deg100_d1": tanh,
    "erf_d3": erf,
    "relu_d1": relu,
    "relu_d2": relu,
    "relu_d3": relu,
    "leakyrelu0.1_d1": leaky_relu(0.1),
}


def test_reference(reference, x64):
    """Every fully connected block of the reference, in one program."""
    x, xt = waves(4, 3, 0.0), waves(2, 3, 0.4)
    blocks = reference["fc"]
    networks = {
        block: fully_connected(
            64, values["depth_hidden"], 1, REFERENCE[block.partition("_W")[0]], values["W_std"], values["b_std"]
        )
        for block, values in blocks.items()
    }
    kernels = jax.jit(lambda x, xt: {block: (net.kernel(x), net.kernel(xt, x)) for block, net in networks.items()})
    for block, (k_xx, k_tx) in kernels(x, xt).items():
        values = blocks[block]
        # The reference's tanh is a quadrature of degree 100, 4e-8 off; ours is held to more digits below.
        rtol = 1e-7 if "tanh" in block else 1e-9
        assert_kernels_equal(k_xx, (values["nngp_xx"], values["ntk_xx"]), rtol=rtol, err_msg=block)
        assert_kernels_equal(k_tx, (values["nngp_tx"], values["ntk_tx"]), rtol=rtol, err_msg=block)


def test_reference_in_the_standard_parameterisation(reference, x64):
    values = reference["fc_standard_relu_d2_W1.4142_b0.1_width64"]
    net = fully_connected(64, 2, 1, relu, np.sqrt(2.0), 0.1, "standard")
    assert_kernels_equal(net.kernel(waves(4, 3, 0.0)), (values["nngp_xx"], values["ntk_xx"]), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "parameterization", "b_std"),
    [("relu", "ntk", 0.1), ("erf", "standard", 0.1), ("tanh", "standard", None), ("tanh", "ntk", 0.1)],
)
def test_slow_recursion(name, parameterization, b_std, x64):
    x1, x2 = waves(3, 3, 0.0), waves(2, 3, 0.4)
    net = fully_connected(32, 2, 1, ACTIVATIONS[name], 1.5, b_std, parameterization)
    slow = fully_connected_kernel(x1, x2, name, 2, 1.5, b_std, parameterization, width=32)
    assert_kernels_equal(net.kernel(x1, x2), slow, rtol=1e-9)
    slow = fully_connected_kernel(x1, x1, name, 2, 1.5, b_std, parameterization, width=32)
    assert_kernels_equal(net.kernel(x1), slow, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_another_library(depth, x64):
    """scikit-ntk leaves out σ_w² = 2 and 1/d, and averages over layers."""
    x1, x2 = waves(4, 3, 0.0), waves(2, 3, 0.4)
    net = fully_connected(8, depth, 1, relu, 2**0.5, None)
    theirs = NeuralTangentKernel(depth=depth, bias=0)(np.asarray(x1), np.asarray(x2))
    np.testing.assert_allclose(net.kernel(x1, x2).ntk, 2 / 3 * (depth + 1) * theirs, rtol=1e-12)


def unit_inputs(correlation):
    """Two inputs of |x|²/n₀ = 1 and the given correlation."""
    return jnp.sqrt(2.0) * jnp.asarray([[1.0, 0.0], [correlation, np.sqrt(1 - correlation**2)]])


def test_relu_after_five_layers():
    """K⁶ = 2.6 and Θ⁶ = 14.1 on the diagonal at σ_w² = 2, σ_b² = 0.1, and Θ⁶ between inputs as they come closer."""
    net = fully_connected(8, 5, 1, relu, 2**0.5, 0.1**0.5)
    for correlation, theta in {0.0: 4.97, 0.25: 5.58, 0.5: 6.53, 0.75: 8.17}.items():
        k = net.kernel(unit_inputs(correlation))
        np.testing.assert_allclose(jnp.diag(k.nngp), 2.6, rtol=1e-5)
        np.testing.assert_allclose(jnp.diag(k.ntk), 14.1, rtol=1e-5)
        np.testing.assert_allclose(k.ntk[0, 1], theta, atol=0.005)


def test_tanh_layer_by_layer():
    """The diagonal at σ_w² = 1.5 and σ_b = 0, of one layer to four."""
    expected = {0: (1.5, 1.5), 1: (0.7024, 1.591), 2: (0.4967, 1.759), 3: (0.4089, 1.975)}
    for depth, (nngp, ntk) in expected.items():
        k = fully_connected(8, depth, 1, tanh, 1.5**0.5, 0).kernel(unit_inputs(0.5))
        np.testing.assert_allclose(k.nngp[0, 0], nngp, atol=5e-5)
        np.testing.assert_allclose(k.ntk[0, 0], ntk, atol=5e-4)


# Finite networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phi", "parameterization"), [(relu, "ntk"), (erf, "standard"), (tanh, "ntk")])
def test_wide_networks_have_these_kernels(phi, parameterization):
    """Means over M = 10 networks of width n = 512: four times a law of 2/√(n M) is 0.11 in relative Frobenius norm."""
    x = waves(3, 3, 0.0)
    outputs = 64
    net = fully_connected(512, 2, outputs, phi, 1.4, 0.3, parameterization)
    one = fully_connected(512, 2, 1, phi, 1.4, 0.3, parameterization)
    nngp, ntk = np.zeros((2, 3, 3))
    for key in jax.random.split(jax.random.key(1), 10):
        f = net.apply(net.init(key, x), x)
        nngp += np.asarray(f @ f.T) / outputs / 10
        ntk += np.asarray(empirical_ntk(one, one.init(key, x), x)[..., 0, 0]) / 10
    k = net.kernel(x)
    for name, measured, expected in (("nngp", nngp, k.nngp), ("ntk", ntk, k.ntk)):
        error = np.linalg.norm(measured - expected) / np.linalg.norm(expected)
        assert error < 0.11, (name, error)


# Gradients ------------------------------------------------------------------------------------------------------------


@every_activation
@pytest.mark.parametrize("n2", [None, 2])
def test_gradients_to_inputs(phi, n2, x64):
    """Automatic and central differences agree to 1e-6, of K and Θ, off the diagonal and on it."""
    x1, x2 = waves(3, 3, 0.0), None if n2 is None else waves(n2, 3, 0.4)
    net = fully_connected(8, 2, 1, phi, 1.4, 0.1)
    weigh = lambda k: jnp.sum(jnp.cos(jnp.arange(k.size)) * k.ravel())
    total = jax.jit(lambda x: sum(weigh(k) for k in net.kernel(x, x2)))
    gradient = jax.grad(total)(x1)
    for index in np.ndindex(3, 3):
        step = jnp.zeros_like(x1).at[index].set(1e-5)
        difference = (total(x1 + step) - total(x1 - step)) / 2e-5
        np.testing.assert_allclose(gradient[index], difference, rtol=1e-6, atol=1e-8)


@every_activation
@pytest.mark.parametrize(("b_std", "dtype"), [(0.1, jnp.float32), (None, jnp.float32), (None, jnp.float64)])
def test_values_and_gradients_are_finite_at_singular_points(phi, b_std, dtype, x64):
    """Duplicates, opposites, multiples, near-duplicates and zero vectors, within one batch and between two."""
    x = waves(3, 3, 0.0).astype(dtype)
    x = jnp.concatenate([x, x[:1], -x[:1], 3 * x[:1], x[1:2] * (1 + 1e-7), jnp.zeros((2, 3), dtype)])
    net = fully_connected(8, 2, 1, phi, 1.4, b_std)

    @jax.jit
    def everything(x1, x2):
        kernels = lambda x1, x2: (*net.kernel(x1), *net.kernel(x1, x2))
        values, pull_back = jax.vjp(kernels, x1, x2)
        return values, pull_back(jax.tree.map(jnp.ones_like, values))

    for leaf in jax.tree.leaves(everything(x, x)):
        assert np.isfinite(leaf).all()


def test_duplicates_have_the_kernel_of_one(x64):
    x = waves(3, 3, 0.0)
    k = fully_connected(8, 3, 1, relu, 1.4, 0.1).kernel(jnp.concatenate([x, x]))
    for matrix in k:
        np.testing.assert_allclose(matrix[:3, 3:], matrix[:3, :3], rtol=1e-7)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors_name_the_argument():
    for depth, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)):
        with pytest.raises(error, match="`depth` must be an integer of at least 0"):
            fully_connected(8, depth, 1, relu, 1.4, 0.1)
    with pytest.raises(TypeError, match=r"`activation` must be an activation such as lib\.relu, got 'relu'"):
        fully_connected(8, 2, 1, "relu", 1.4, 0.1)
    with pytest.raises(
        TypeError, match=r"`activation` must be .*; lib.activation\(phi\) makes one of a scalar function"
    ):
        fully_connected(8, 2, 1, jnp.tanh, 1.4, 0.1)
    with pytest.raises(ValueError, match="`width` must be an integer of at least 1, got 0"):
        fully_connected(0, 2, 1, relu, 1.4, 0.1)
    with pytest.raises(TypeError, match=r"`outputs` must be an integer of at least 1, got 2\.0"):
        fully_connected(8, 2, 2.0, relu, 1.4, 0.1)


# Networks of images ---------------------------------------------------------------------------------------------------


def test_convolutional_is_the_layers_written_by_hand():
    conv = Conv(8, (3, 3), (1, 1), "VALID", 1.5, 0.1, "standard")
    for pooling in (GlobalAveragePool(), Flatten(), AveragePool((2, 2))):
        by_hand = Sequential((conv, relu, conv, relu, pooling, Flatten(), Dense(2, 1.5, 0.1, "standard")))
        assert convolutional(8, 2, 2, relu, 1.5, 0.1, pooling, "VALID", "standard") == by_hand
    conv, readout = Conv(8, (3, 3), (1, 1), "SAME", 1.5, 0.1, "ntk"), Dense(2, 1.5, 0.1, "ntk")
    assert convolutional(8, 1, 2, relu, 1.5, 0.1) == Sequential((conv, relu, GlobalAveragePool(), Flatten(), readout))


def table_s1(blocks, normalisation, conv, readout):
    """Table S1 from top to bottom; `conv(size, stride)`. It does not show projections where shapes change."""

    def block(stride):
        inner = Sequential((*normalisation, relu, conv(3, stride), *normalisation, relu, conv(3, 1)))
        return Residual(inner, None if stride == 1 else conv(1, stride))

    more = [block(1)] * (blocks - 1)
    conv1, conv2, conv3, conv4 = (conv(3, 1),), (block(1), *more), (block(2), *more), (block(2), *more)
    return Sequential((*conv1, *conv2, *conv3, *conv4, *normalisation, relu, GlobalAveragePool(), readout))


@pytest.mark.parametrize(("W_std", "b_std"), [(1.5, 0.1), (2, 0), (0.5, None)])
def test_wide_resnet_is_the_layers_written_by_hand(W_std, b_std):
    """Every layer has the σ_w, σ_b and parameterisation asked for, with normalisation and without."""
    for blocks, normalised, chosen in ((1, True, "standard"), (2, False, "standard"), (3, True, "ntk")):
        conv = lambda size, stride: Conv(8, (size, size), (stride, stride), "SAME", W_std, b_std, chosen)  # noqa: B023
        by_hand = table_s1(blocks, [BatchNorm()] * normalised, conv, Dense(3, W_std, b_std, chosen))
        assert wide_resnet(8, blocks, 3, W_std, b_std, normalised, chosen) == by_hand
    conv = lambda size, stride: Conv(8, (size, size), (stride, stride), "SAME", 1.0, None, "ntk")
    assert wide_resnet(8) == table_s1(1, [BatchNorm(1e-5)], conv, Dense(10, 1.0, None, "ntk"))


@pytest.mark.parametrize("b_std", [None, 0.1])
@pytest.mark.parametrize("blocks", [1, 2])
def test_wide_resnet_is_table_s1(blocks, b_std):
    """Its rows, with the numbers of their parameters; the sizes of their outputs are 32, 16 and 8 pixels."""
    net = wide_resnet(16, blocks, 10, b_std=b_std)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    count = lambda layers: sum(leaf.size for leaf in jax.tree.leaves([params["params"][f"layers_{i}"] for i in layers]))
    bias, group = 0 if b_std is None else 1, lambda i: range(1 + i * blocks, 1 + (i + 1) * blocks)
    assert set(params) == {"params"}
    assert count([0]) == 9 * 3 * 16 + 16 * bias  # conv1
    assert count(group(0)) == 2 * blocks * (9 * 16**2 + 16 * bias)  # conv2
    projected = 2 * blocks * (9 * 16**2 + 16 * bias) + 16**2 + 16 * bias
    assert (count(group(1)), count(group(2))) == (projected, projected)  # conv3, conv4
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) - count(range(1 + 3 * blocks)) == 16 * 10 + 10 * bias
    assert jax.eval_shape(net.apply, params, x).shape == (2, 10)
    sizes = []
    with flax.linen.intercept_methods(lambda f, args, kwargs, context: recorded(sizes, context, f(*args, **kwargs))):
        jax.eval_shape(net.apply, params, x)
    assert sizes == [32] * (1 + 2 * blocks) + [16] * (1 + 2 * blocks) + [8] * (1 + 2 * blocks)


def recorded(sizes, context, output):
    if isinstance(context.module, Conv) and context.method_name == "__call__":
        sizes.append(output.shape[1])
    return output


def test_wide_resnet_with_normalisation_has_no_kernel_and_without_has_one():
    x = jnp.asarray(images(2, 4, 4, 3, 0.0))
    with pytest.raises(ValueError, match=r"BatchNorm has no infinite face: .* Use the empirical kernel"):
        wide_resnet(4).kernel(x)
    net = wide_resnet(4, W_std=2**0.5, normalization=False)
    k = jax.jit(net.kernel)(x)
    assert np.isfinite(k.ntk).all()
    # Height 4 → 2 → 1: with zeros at the edges a bound on what He's σ_w² = 2 would keep, doubled by each block.
    assert 0 < k.nngp[0, 0] < 2 * 2**3 * float(jnp.mean(x[0] ** 2))


def test_errors_of_networks_of_images_name_the_argument():
    with pytest.raises(TypeError, match=r"`activation` must be an activation such as lib\.relu, got 'relu'"):
        convolutional(8, 2, 1, "relu", 1.4, 0.1)
    with pytest.raises(ValueError, match="`channels` must be an integer of at least 1, got 0"):
        convolutional(0, 2, 1, relu, 1.4, 0.1)
    with pytest.raises(ValueError, match="`depth` must be an integer of at least 0, got -1"):
        convolutional(8, -1, 1, relu, 1.4, 0.1)
    with pytest.raises(TypeError, match=r"`layers\[2\]` must be a layer or an activation, got 'flatten'"):
        convolutional(8, 1, 1, relu, 1.4, 0.1, pooling="flatten")
    with pytest.raises(ValueError, match="`blocks` must be an integer of at least 1, got 0"):
        wide_resnet(8, 0)
    with pytest.raises(TypeError, match="`normalization` must be True or False, got 'batch'"):
        wide_resnet(8, normalization="batch")
