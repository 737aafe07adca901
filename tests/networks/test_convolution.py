"""Convolutions and networks of images: layers by hand, the reference, a slow recursion, wide networks, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import equations
from oracles import convolved, convolved_image, image_kernel, images
from tolerances import tolerance

from lib.infinite.kernel import input_state
from lib.networks import convolution
from lib.networks.activations import erf, relu
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.normalization import LayerNorm
from lib.networks.pooling import AveragePool, GlobalAveragePool
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential
from lib.tangent.ntk import empirical_ntk

KEY = jax.random.key(0)
# σ_w, σ_b of every layer here: those of the reference.
STDS = (1.4, 0.1)


def conv(size, stride, padding, W_std=STDS[0], b_std=STDS[1], parameterization="ntk", channels=4):
    return Conv(channels, pair(size), pair(stride), padding, W_std, b_std, parameterization)


def pair(size):
    """3 for (3, 3)."""
    return size if isinstance(size, tuple) else (size, size)


# Stacks of layers as the slow recursion takes them, for images of 4 × 5. Together they have every padding, strides,
# windows that are not square, a pooling below a nonlinearity, and blocks with and without a projection.
ONE = (1, 1)
BLOCK = (
    "residual",
    ["relu", ("conv", (3, 2), (2, 1), "SAME"), "erf", ("conv", (1, 3), ONE, "SAME")],
    [("conv", ONE, (2, 1), "SAME")],
)
STACKS = {
    "strides": [("conv", (3, 2), (2, 1), "SAME"), "relu", ("conv", (1, 2), (1, 2), "VALID"), "erf", "flatten"],
    "blocks": [
        ("conv", (2, 3), ONE, "SAME"),
        ("residual", ["relu", ("conv", (2, 1), (1, 2), "CIRCULAR")], [("conv", ONE, (1, 2), "VALID")]),
        *("normalize", "relu", "flatten"),
    ],
    "pooling": [
        *(("conv", (3, 2), ONE, "CIRCULAR"), "relu", ("pool", (2, 3), (1, 2))),
        *(("conv", (2, 1), ONE, "VALID"), "relu", "global"),
    ],
    "means of Gaussians": [
        *(
            ("conv", (2, 3), ONE, "VALID"),
            ("pool", (2, 1), ONE),
            "erf",
            ("conv", ONE, (1, 2), "SAME"),
            "global",
            "relu",
        ),
    ],
    "pool, flatten": [("conv", (3, 2), ONE, "VALID"), "relu", ("pool", (1, 2), (1, 2)), "flatten"],
    "everything": [
        *(("conv", (3, 3), ONE, "SAME"), BLOCK, ("residual", ["relu", ("conv", (1, 3), ONE, "SAME")], []), "normalize"),
        *("relu", ("pool", (2, 1), ONE), ("conv", ONE, ONE, "SAME"), "erf", "global"),
    ],
}


def network(stack, W_std=STDS[0], b_std=STDS[1], parameterization="ntk", channels=4, outputs=1):
    """The network of a stack."""
    fixed = {"flatten": Flatten(), "global": GlobalAveragePool(), "normalize": LayerNorm(), "relu": relu, "erf": erf}

    def layer(entry):
        if isinstance(entry, str):
            return fixed[entry]
        if entry[0] == "conv":
            return conv(*entry[1:], W_std, b_std, parameterization, channels)
        if entry[0] == "pool":
            return AveragePool(pair(entry[1]), pair(entry[2]))
        return Residual(*(Sequential([layer(e) for e in branch]) for branch in entry[1:]))

    return Sequential([*map(layer, stack), Dense(outputs, W_std, b_std, parameterization)])


def kernels(networks, *arguments):
    """Kernels of several networks, from one compiled program."""
    return jax.jit(lambda *x: {name: net.kernel(*x) for name, net in networks.items()})(*arguments)


def assert_kernels_equal(a, b, name, **tolerances):
    for part, one, other in zip(("nngp", "ntk"), a, b, strict=True):
        np.testing.assert_allclose(one, other, err_msg=f"{part} of {name}", **tolerances)


# Windows and strides of which no two agree in both directions, in images that are not square either.
MOVES = [((3, 2), (2, 1)), ((2, 3), (1, 2)), ((1, 2), (2, 3))]
WIDE = ((7, 13), (1, 2))  # larger than the images, and at "CIRCULAR" more than once around them


# Finite face ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_it_is_a_sum_over_a_window(padding, parameterization):
    x = jnp.asarray(images(2, 5, 6, 3, 0.0))
    for window, strides in [*MOVES, *([] if padding == "VALID" else [WIDE])]:
        layer = Conv(4, window, strides, padding, 1.5, 0.2, parameterization)
        params = layer.init(KEY, x)
        W, b = (np.asarray(params["params"][name]) for name in ("omega", "beta"))
        if parameterization == "ntk":
            W, b = 1.5 / np.sqrt(3 * window[0] * window[1]) * W, 0.2 * b
        expected = [convolved_image(image, W, strides, padding) + b for image in np.asarray(x)]
        np.testing.assert_allclose(layer.apply(params, x), expected, **tolerance(x), err_msg=f"{window} {strides}")


@pytest.mark.parametrize("block", ["one image", "two of five", "all at once"])
@pytest.mark.parametrize(("window", "strides"), [((3, 3), (1, 1)), ((3, 2), (2, 1)), ((1, 1), (2, 3))])
def test_products_and_convolutions_are_the_same(window, strides, block, monkeypatch):
    """On a CPU the layer multiplies matrices, in blocks; elsewhere it calls XLA's convolution."""
    padded, layer = jnp.asarray(images(5, 6, 7, 3, 0.0)), Conv(4, window, strides, "VALID")
    windows = jax.eval_shape(layer.windows, padded[0])
    assert windows.shape[2] == 3 * window[0] * window[1]
    each = windows.size * windows.dtype.itemsize
    monkeypatch.setattr(convolution, "BLOCK", {"one image": 1, "two of five": 2 * each}.get(block, 5 * each))
    omega = jax.random.normal(KEY, (*window, 3, 4), padded.dtype)

    def everything(convolve):
        """Values, derivatives forwards, and the derivative backwards of one forwards, as linearised networks need."""
        both = lambda padded, omega: jax.jvp(partial(convolve, layer), (padded, omega), (jnp.sin(padded), omega**2))
        values, pull_back = jax.vjp(both, padded, omega)
        return values, pull_back(jax.tree.map(jnp.cos, values))

    outputs = [jax.jit(everything, static_argnums=0)(f) for f in (convolution._convolve, convolution._convolve_on_cpu)]
    for one, other in zip(*map(jax.tree.leaves, outputs), strict=True):
        np.testing.assert_allclose(one, other, **tolerance(padded, 10))


@pytest.mark.parametrize(("parameterization", "omega_std"), [("ntk", 1.0), ("standard", 1.5 / np.sqrt(9 * 30))])
def test_weights_are_gaussians_of_the_stated_deviation(parameterization, omega_std):
    layer = Conv(100, (3, 3), W_std=1.5, b_std=0.2, parameterization=parameterization)
    omega = layer.init(KEY, jnp.ones((1, 4, 4, 30)))["params"]["omega"]
    assert abs(omega.mean()) < 5 * omega_std / np.sqrt(omega.size)
    assert abs(omega.std() / omega_std - 1) < 5 / np.sqrt(2 * omega.size)


# Infinite face --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_windows_move_over_covariances_as_over_images(padding):
    """Of all pairs of positions, against loops, and of equal ones; and both are the Gram matrix of what windows see."""
    x = jnp.asarray(images(2, 4, 5, 3, 0.0))
    moves = [*MOVES, *([] if padding == "VALID" else [WIDE])]
    layers = {(window, strides): Conv(4, window, strides, padding, 1.5, 0.2) for window, strides in moves}

    @jax.jit
    def steps(x):
        states = {need: input_state(x, x[:1], need) for need in ("diagonal", "full")}
        return {
            move: ({need: jax.tree.leaves(layer.kernel_step(state)) for need, state in states.items()}, layer.padded(x))
            for move, layer in layers.items()
        }

    for (window, strides), (found, padded) in steps(x).items():
        close = partial(np.testing.assert_allclose, **tolerance(x), err_msg=f"{window} {strides}")
        gram = np.einsum("ahwc,ijc->hwija", x, x[0]) / 3
        expected = np.stack([1.5**2 * convolved(gram[..., i], window, strides, padding) + 0.2**2 for i in (0, 1)], -1)
        full, diagonal = found["full"], found["diagonal"]
        close(full[0][..., 0], expected)
        close(diagonal[0][..., 0], np.einsum("hwhwa->hwa", expected))
        seen = np.stack([layers[window, strides].windows(image) for image in padded])
        close(full[0][..., 0], 1.5**2 * np.einsum("ahwn,ijn->hwija", seen, seen[0]) / seen.shape[3] + 0.2**2)
        for one, other, of_all in zip(
            full[1:], diagonal[1:], ("hwhwab->hwab", "hwhwa->hwa", "hwhwa->hwa"), strict=True
        ):
            close(np.einsum(of_all, one), other)
        close(full[2][..., :1], full[0][..., :1, 0])  # an input's covariance with itself
        close(full[3], full[2][..., :1])


def test_only_equal_positions_are_known_where_flatten_lies_above():
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    flat, pool = network(STACKS["blocks"]), network(STACKS["everything"])
    assert (flat.needs("vectors"), pool.needs("vectors")) == ("diagonal", "full")
    assert input_state(x, x[:2], "diagonal").nngp.shape == (4, 5, 3, 2)
    assert input_state(x, x[:2], "full").nngp.shape == (4, 5, 4, 5, 3, 2)
    program = jax.make_jaxpr(flat.kernel)(x)
    largest = max(np.prod(v.aval.shape) for equation in equations(program.jaxpr) for v in equation.outvars)
    assert largest < 6 * 7 * 9  # a padded (H, W, N, N), not the (H W)² N² = 3600 of all pairs of positions


def test_equal_positions_are_those_of_all_pairs(x64):
    """The two ways to the same number: a mean over positions of what only Flatten needs, and of what pooling needs."""
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    net = network([("conv", 3, 1, "SAME"), "relu", ("conv", 3, 2, "CIRCULAR"), "erf", "flatten"])
    states = jax.jit(
        lambda: [jax.tree.leaves(net.kernel_step(input_state(x, None, need))) for need in ("diagonal", "full")]
    )()
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_window_of_one_pixel_on_images_of_one_pixel_is_dense(x64):
    x = jnp.asarray(images(4, 1, 1, 3, 0.0))
    convolution = network([("conv", 1, 1, "VALID"), "relu", ("conv", 1, 1, "SAME"), "erf", "global"]).kernel(x)
    dense = [Dense(4, *STDS), relu, Dense(4, *STDS), erf, Dense(1, *STDS)]
    assert_kernels_equal(convolution, Sequential(dense).kernel(x[:, 0, 0]), "both", rtol=1e-12)


def test_circular_networks_do_not_see_shifts(x64):
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    net = network([("conv", 3, 1, "CIRCULAR"), "relu", ("conv", 3, 1, "CIRCULAR"), "relu", "global"])
    shifted = jnp.roll(x, (1, 2), axis=(1, 2))
    assert_kernels_equal(net.kernel(x, shifted), net.kernel(x, x), "shifted", rtol=1e-7)


def test_reference(reference, x64):
    x1, x2 = jnp.asarray(images(3, 4, 5, 2, 0.0)), jnp.asarray(images(2, 4, 5, 2, 0.3))
    blocks = {
        "conv3x3SAME_relu_flatten_dense": [("conv", 3, 1, "SAME"), "relu", "flatten"],
        "conv3x3SAME_relu_gap_dense": [("conv", 3, 1, "SAME"), "relu", "global"],
        "conv3x3CIRCULAR_erf_conv3x3CIRCULAR_erf_gap_dense": [("conv", 3, 1, "CIRCULAR"), "erf"] * 2 + ["global"],
        "conv3x3VALID_relu_avgpool2x2s1_flatten_dense": [("conv", 3, 1, "VALID"), "relu", ("pool", 2, 1), "flatten"],
    }
    assert set(blocks) == set(reference["conv"])
    networks = {name: network(stack) for name, stack in blocks.items()}
    k_xx, k_tx = kernels(networks, x1), kernels(networks, x2, x1)
    for name, values in reference["conv"].items():
        # Diagonals of the reference's ReLU carry the square root of an eps.
        assert_kernels_equal(k_xx[name], (values["nngp_xx"], values["ntk_xx"]), name, rtol=1e-8)
        assert_kernels_equal(k_tx[name], (values["nngp_tx"], values["ntk_tx"]), name, rtol=1e-9)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_slow_recursion(parameterization, x64):
    """Two batches, and one with itself that holds the same image twice."""
    x1, x2 = jnp.asarray(images(2, 4, 5, 2, 0.0)), jnp.asarray(images(1, 4, 5, 2, 0.3))
    x1 = jnp.concatenate([x1, x1[:1]])
    networks = {name: network(stack, 1.4, 0.1, parameterization, channels=6) for name, stack in STACKS.items()}
    pairs, alone = kernels(networks, x1, x2), kernels(networks, x1)
    for name, stack in STACKS.items():
        slow = image_kernel(x1, x2, stack, *STDS, parameterization, channels=6)
        assert_kernels_equal(pairs[name], slow, name, rtol=1e-9)
        if name in ("strides", "pooling"):
            slow = image_kernel(x1, x1, stack, *STDS, parameterization, channels=6)
            assert_kernels_equal(alone[name], slow, name, rtol=3e-7)  # the arc cosine keeps half its digits at x = x′


@pytest.mark.parametrize(("name", "parameterization"), [("blocks", "ntk"), ("pooling", "standard")])
def test_wide_networks_have_these_kernels(name, parameterization):
    """Means over M = 8 networks of n = 96 channels: four times a law of 2/√(n M) is 0.29 in relative norm."""
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    net, one = (network(STACKS[name], 1.4, 0.3, parameterization, 96, outputs) for outputs in (64, 1))

    def finite(key):
        f = net.apply(net.init(key, x), x)
        return f @ f.T / 64, empirical_ntk(one, one.init(key, x), x)[..., 0, 0]

    measured = jax.jit(lambda keys: [k.mean(0) for k in jax.lax.map(finite, keys)])(jax.random.split(KEY, 8))
    for part, one, expected in zip(("nngp", "ntk"), measured, jax.jit(net.kernel)(x), strict=True):
        error = np.linalg.norm(one - expected) / np.linalg.norm(expected)
        assert error < 0.29, (part, error)


def test_gradients_are_those_of_central_differences(x64):
    """To inputs, σ_w and σ_b, of every layer, along one direction of each."""
    x, x2 = jnp.asarray(images(2, 4, 5, 2, 0.0)), jnp.asarray(images(1, 4, 5, 2, 0.3))

    def total(stack, point):
        x, W_std, b_std = point
        k = network(stack, W_std, b_std).kernel(x, x2)
        return jnp.sum(jnp.cos(k.nngp)) + jnp.sum(jnp.sin(k.ntk))

    directions = [
        (jnp.sin(jnp.arange(x.size, dtype=float)).reshape(x.shape), 0.0, 0.0),
        (jnp.zeros_like(x), 1.0, 0.0),
        (jnp.zeros_like(x), 0.0, 1.0),
    ]

    move = lambda point, direction, h: jax.tree.map(lambda p, d: p + h * d, point, direction)

    @jax.jit
    def slopes(point):
        moved = [move(point, direction, h) for direction in directions for h in (1e-5, -1e-5)]
        result = {}
        for name in ("blocks", "pooling"):
            f = lambda point, stack=STACKS[name]: total(stack, point)
            gradient = jax.grad(f)(point)
            automatic = [sum(map(jnp.vdot, gradient, direction)) for direction in directions]
            values = jax.lax.map(f, jax.tree.map(lambda *p: jnp.stack(p), *moved))
            result[name] = automatic, (values[::2] - values[1::2]) / 2e-5
        return result

    for name, (automatic, differences) in slopes((x, jnp.asarray(1.4), jnp.asarray(0.3))).items():
        np.testing.assert_allclose(automatic, differences, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_values_and_gradients_are_finite_at_singular_points(dtype, x64):
    """Duplicates, multiples and zero images, within one batch and between two."""
    x = jnp.asarray(images(2, 4, 4, 2, 0.0), dtype)
    x = jnp.concatenate([x, x[:1], -2 * x[:1], jnp.zeros_like(x), jnp.ones_like(x[:1])])

    @jax.jit
    def everything(x1, x2):
        net = network(
            [("conv", 2, 1, "VALID"), "normalize", "relu", ("pool", 2, 1), ("conv", 1, 1, "SAME"), "relu", "global"]
        )
        values, pull_back = jax.vjp(lambda x1, x2: (*net.kernel(x1), *net.kernel(x1, x2)), x1, x2)
        return values, pull_back(jax.tree.map(jnp.ones_like, values))

    for leaf in jax.tree.leaves(everything(x, x)):
        assert leaf.dtype == dtype
        assert np.isfinite(leaf).all()


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_inputs_that_do_not_fit_are_named(compile):
    x = jnp.asarray(images(2, 4, 4, 2, 0.0))
    net = network([("conv", 3, 2, "SAME"), "relu", "flatten"])
    params = net.init(KEY, x)
    with pytest.raises(ValueError, match=r"hold omega of shape \(3, 3, 2, 4\), but `x` of shape \(2, 4, 4, 3\)"):
        compile(net.apply)(params, jnp.ones((2, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"`x2` must have the shape of `x1` after its first axis, \(4, 4, 2\)"):
        compile(net.kernel)(x, x[..., :1])
    with pytest.raises(ValueError, match=r"Conv needs `x` of shape \(N, H, W, C\), got \(2, 4\)"):
        compile(net.apply)(params, x[:, :, 0, 0])
    with pytest.raises(ValueError, match=r"`x1` must have shape \(N, H, W, C\), got \(2, 4, 4\); grey images are"):
        compile(net.kernel)(x[..., 0])
    with pytest.raises(ValueError, match=r"Conv needs images, \(N, H, W, C\), but its input is vectors"):
        compile(net.kernel)(x[:, :, 0, 0])
    for layer, message in [
        (conv(3, 5, "SAME"), r"`strides` \(5, 5\) of Conv must not be larger than its input's \(4, 4\) positions"),
        (conv(5, 1, "VALID"), r"`window` \(5, 5\) of Conv must not be larger than its input's \(4, 4\) positions"),
    ]:
        wrong = Sequential((layer, relu, Flatten(), Dense(1)))
        with pytest.raises(ValueError, match=message):
            compile(wrong.kernel)(x)
        with pytest.raises(ValueError, match=message):
            wrong.init(KEY, x)


def test_positions_must_come_together_before_a_readout():
    x = jnp.asarray(images(2, 4, 4, 2, 0.0))
    with pytest.raises(ValueError, match=r"Dense needs vectors, but its input has positions \(4, 4\); put Flatten"):
        jax.jit(Sequential((conv(3, 1, "SAME"), relu, Dense(1))).kernel)(x)
    with pytest.raises(ValueError, match=r"layers\[1\] \(relu\) leaves positions \(4, 4\); put Flatten\(\) or Global"):
        jax.jit(Sequential((conv(3, 1, "SAME"), relu)).kernel)(x)
    for below in ((conv(3, 1, "SAME"), relu, GlobalAveragePool()), (conv(3, 1, "SAME"), Flatten())):
        with pytest.raises(ValueError, match=r"\(relu\) has no infinite face, because its input is not Gaussian"):
            jax.jit(Sequential((*below, relu, Dense(1))).kernel)(x)


def test_fields_that_are_wrong_are_named():
    for window in (3, (3,), "33", None):
        with pytest.raises(ValueError, match=r"`window` must be a pair \(height, width\)"):
            Conv(4, window)
    with pytest.raises(ValueError, match="`window` must be an integer of at least 1, got 0"):
        Conv(4, (3, 0))
    with pytest.raises(TypeError, match=r"`strides` must be an integer of at least 1, got 1\.5"):
        Conv(4, (3, 3), (1, 1.5))
    with pytest.raises(ValueError, match=r"`padding` must be one of \('SAME', 'VALID', 'CIRCULAR'\), got 'same'"):
        Conv(4, (3, 3), padding="same")
    with pytest.raises(ValueError, match="`features` must be an integer of at least 1, got 0"):
        Conv(0, (3, 3))
    with pytest.raises(TypeError, match="`W_std` must be a real number"):
        Conv(4, (3, 3), W_std="1")
    with pytest.raises(ValueError, match='`parameterization` must be "ntk" or "standard"'):
        Conv(4, (3, 3), parameterization="NTK")
