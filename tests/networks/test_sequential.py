"""Layers one after another: equal by value, compiled once, whatever they are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import images
from tolerances import tolerance

from lib.networks.activations import activation, erf, identity, relu, tanh
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.pooling import GlobalAveragePool
from lib.networks.sequential import Sequential

KEY = jax.random.key(0)
both_parameterizations = pytest.mark.parametrize("parameterization", ["ntk", "standard"])


def test_a_layer_in_two_places_is_two_layers():
    layer = Dense(3)
    net = Sequential((layer, relu, layer, Sequential((relu, layer))))
    params = net.init(KEY, jnp.ones((1, 3)))["params"]
    omegas = [params["layers_0"]["omega"], params["layers_2"]["omega"], params["layers_3"]["layers_1"]["omega"]]
    assert len({float(omega[0, 0]) for omega in omegas}) == 3


@pytest.mark.parametrize("pooled", [False, True])
def test_the_diagonal_is_exact_however_the_network_is_compiled(pooled):
    """Rounded in two ways, as a fused program may, the variance of an input leaves an angle of 1e-8 with itself."""
    layers = (Dense(8, 2**0.5, 0.3), relu, Dense(8, 1.3, 0.2), relu, Dense(1, 1.1, 0.1))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 16)))
    if pooled:
        layers = (Conv(8, (3, 3), W_std=2**0.5, b_std=0.3), relu, Conv(8, (3, 3)), relu, GlobalAveragePool(), Dense(1))
        x = x.reshape(-1, 4, 4, 1)
    net = Sequential(layers)
    for alone, compiled in zip(net.kernel(x), jax.jit(net.kernel)(x), strict=True):
        np.testing.assert_allclose(jnp.diag(alone), jnp.diag(compiled), rtol=8 * jnp.finfo(x.dtype).eps)


def test_equal_and_hashed_by_value():
    make = lambda W_std, phi: Sequential([Dense(4, W_std, 0.1), phi, Dense(2)])
    assert make(np.sqrt(2.0), activation(jnp.tanh)) == make(2**0.5, tanh)
    assert hash(make(1.5, relu)) == hash(make(1.5, relu))
    for scalar in (np.asarray(1.5), jnp.asarray(1.5)):  # arrays, which have no hash
        assert make(scalar, relu) == make(1.5, relu)
        assert hash(make(scalar, relu)) == hash(make(1.5, relu))
    assert len({make(1.5, relu), make(1.5, relu), make(1.5, erf), make(1.4, relu)}) == 3


def test_networks_of_one_value_compile_once():
    traces = []

    def outputs(net, params, x):
        traces.append(net)
        return net.apply(params, x)

    compiled = jax.jit(outputs, static_argnums=0)
    x = jnp.ones((1, 3))
    for _ in range(2):
        net = Sequential((Dense(4), relu, Dense(2)))
        compiled(net, net.init(KEY, x), x)
    assert len(traces) == 1


def test_a_sequence_in_a_sequence_is_one_sequence():
    x = jnp.asarray(images(3, 2, 2, 1, 0.0))
    flat = Sequential((Flatten(), Dense(5, 1.5, 0.1), relu, Dense(1)))
    nested = Sequential((Sequential((Flatten(), Dense(5, 1.5, 0.1))), Sequential((relu, Dense(1)))))
    jax.tree.map(np.testing.assert_array_equal, flat.kernel(x), nested.kernel(x))


def test_a_last_nonlinearity_counts():
    x = waves(4, 3, 0.0)
    below = Sequential((Dense(5, 1.5, 0.1),)).kernel(x)
    above = Sequential((Dense(5, 1.5, 0.1), relu)).kernel(x)
    np.testing.assert_allclose(jnp.diag(above.nngp), jnp.diag(below.nngp) / 2, **tolerance(x))
    np.testing.assert_allclose(jnp.diag(above.ntk), jnp.diag(below.ntk) / 2, **tolerance(x))


def test_it_traces():
    net = Sequential((Dense(5, 1.5, 0.1), relu, Dense(1, 1.5, 0.1)))
    x1, x2 = waves(4, 3, 0.0), waves(2, 3, 0.4)
    for arguments in ((x1,), (x1, x2)):
        for traced, eager in zip(jax.jit(net.kernel)(*arguments), net.kernel(*arguments), strict=True):
            np.testing.assert_allclose(traced, eager, **tolerance(x1))


@both_parameterizations
def test_deviations_may_be_traced(parameterization, x64):
    """Gradients to σ_w and σ_b of kernels agree with central differences; a traced bias is a bias, at 0 too."""
    x = waves(4, 3, 0.0)

    def total(stds):
        net = Sequential((Dense(5, *stds, parameterization), erf, Dense(2, *stds, parameterization)))
        k = net.kernel(x, x[:2])
        return jnp.sum(jnp.cos(k.nngp)) + jnp.sum(jnp.sin(k.ntk))

    for stds in (jnp.asarray([1.5, 0.3]), jnp.asarray([1.5, 0.0])):
        gradient = jax.jit(jax.grad(total))(stds)
        for i, step in enumerate(1e-5 * jnp.eye(2)):
            difference = (total(stds + step) - total(stds - step)) / 2e-5
            np.testing.assert_allclose(gradient[i], difference, rtol=1e-6, atol=1e-9)


@both_parameterizations
def test_the_finite_face_takes_traced_deviations(parameterization):
    x = waves(4, 3, 0.0)

    @jax.jit
    def outputs(W_std, b_std):
        net = Sequential((Dense(5, W_std, b_std, parameterization), relu, Dense(2, W_std, b_std, parameterization)))
        params = net.init(KEY, x)
        return net.apply(params, x)

    net = Sequential((Dense(5, 1.5, 0.3, parameterization), relu, Dense(2, 1.5, 0.3, parameterization)))
    np.testing.assert_allclose(outputs(1.5, 0.3), net.apply(net.init(KEY, x), x), **tolerance(x))
    assert outputs(np.float32(1.5), np.float32(0.3)).dtype == x.dtype


@pytest.mark.parametrize(
    ("W_std", "scale"),
    [(range(1, 17), 1.0), ([1.0] * 64, 1.0), ([1.0] * 100, 1.0), ([2**0.5] * 3, 1e-12), ([2**0.5] * 3, 1e15)],
    ids=["growing", "64 layers", "100 layers", "small inputs", "large inputs"],
)
def test_single_precision_is_enough_at_every_depth_and_scale(W_std, scale, x64):
    """ReLU without bias is homogeneous: K(x, x) = x·x/d Π σ²/2 and Θ(x, x) = L K; for the rest, double precision."""
    x = scale * waves(4, 3, 0.0)
    net = Sequential([layer for sigma in W_std for layer in (Dense(8, sigma), relu)][:-1])
    single, double = net.kernel(x.astype(jnp.float32)), net.kernel(x)
    assert {k.dtype for k in single} == {jnp.dtype(jnp.float32)}
    variance = np.mean(np.square(x), 1) * np.prod(np.square(W_std, dtype=float)) / 2.0 ** (len(W_std) - 1)
    np.testing.assert_allclose(jnp.diag(single.nngp), variance, rtol=1e-4)
    np.testing.assert_allclose(jnp.diag(single.ntk), len(W_std) * variance, rtol=1e-4)
    for one, other in zip(single, double, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3)


@pytest.mark.parametrize("phi", [relu, erf, tanh], ids=lambda phi: phi.name)
def test_kernels_of_no_examples_are_empty(phi):
    """In the shape and dtype of what they would hold, compiled or not, and so are outputs."""
    vectors = Sequential((Flatten(), Dense(5, 1.5, 0.1), phi, Dense(1)))
    x = jnp.asarray(images(3, 2, 2, 1, 0.0))
    for x1, x2, shape in [(x[:0], x, (0, 3)), (x, x[:0], (3, 0)), (x[:0], None, (0, 0)), (x[:0], x[:0], (0, 0))]:
        for kernel in (vectors.kernel, jax.jit(vectors.kernel)):
            assert {(k.shape, k.dtype) for k in kernel(x1, x2)} == {(shape, x.dtype)}
    assert vectors.apply(vectors.init(KEY, x), x[:0]).shape == (0, 1)
    many = jnp.ones((600, 2, 2, 1))
    assert vectors.kernel(many, x[:0]).ntk.shape == (600, 0)


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_nonlinearities_of_what_is_not_gaussian_are_named(compile):
    x = waves(4, 3, 0.0)
    for layers, place in [
        ((relu, Dense(2)), r"layers\[0\] \(relu\)"),
        ((Dense(5), relu, tanh, Dense(2)), r"layers\[2\] \(tanh\)"),
        ((Dense(5), relu, Flatten(), erf), r"layers\[3\] \(erf\)"),
        ((Dense(5), relu, identity, erf), r"layers\[3\] \(erf\)"),
        ((Dense(5), Sequential((relu, relu))), r"layers\[1\] \(relu\)"),
    ]:
        net = Sequential(layers)
        assert net.apply(net.init(KEY, x), x).shape[0] == 4  # the finite face runs all the same
        with pytest.raises(ValueError, match=place + " has no infinite face, because its input is not Gaussian"):
            compile(net.kernel)(x)
    assert Sequential((identity, Dense(5), identity, relu)).kernel(x).ntk.shape == (
        4,
        4,
    )  # a linear one may stand anywhere


def test_other_peoples_layers_run_and_have_no_kernel():
    x = waves(4, 3, 0.0)
    net = Sequential((Dense(5), relu, nn.Dense(2, param_dtype=x.dtype)))
    assert net.apply(net.init(KEY, x), x).shape == (4, 2)
    with pytest.raises(ValueError, match=r"layers\[2\] \(Dense\) has no infinite face"):
        net.kernel(x)


def test_what_is_no_layer_is_refused_with_a_hint():
    with pytest.raises(
        TypeError, match=r"`layers\[1\]` must be a layer .*activation\(phi\) makes one of a scalar function"
    ):
        Sequential((Dense(3), jnp.tanh))
    with pytest.raises(TypeError, match=r"`layers\[1\]` must be a layer .*got 'relu'; import it from lib, as in relu"):
        Sequential((Dense(3), "relu"))
    with pytest.raises(TypeError, match=r"`layers\[0\]` must be a layer .*got <class .*Flatten'>; make an instance"):
        Sequential((Flatten, Dense(3)))
    with pytest.raises(TypeError, match=r"`layers` must be a sequence of layers, got Dense"):
        Sequential(Dense(3))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_second_derivatives_of_relu_are_finite_where_inputs_are_not_parallel(depth, x64):
    """The variances of deeper layers are those of an input with itself: linear, and no kink of the angle."""
    x, y = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]), jnp.array([[0.3, 0.4, 1.0]])
    layers = lambda sigma: [layer for _ in range(depth) for layer in (Dense(4, sigma, 0.2), relu)] + [Dense(1)]
    total = lambda sigma: sum(jnp.sum(k) for k in Sequential(layers(sigma)).kernel(x, y))
    slope = jax.grad(total)
    difference = (slope(1.2 + 1e-5) - slope(1.2 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(slope)(1.2), difference, rtol=1e-6)
