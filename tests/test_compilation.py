"""What the library's programs ask of a machine: the highest precision; and of the compiler: each program once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation import compiled_by, precisions
from networks import waves
from oracles import images
from problems import half_square

import lib
from lib.infinite import tiles
from lib.tangent.apply_fn import as_apply_fn
from lib.tangent.jacobians import contract
from lib.tangent.layerwise import layer_factors, layer_ntk

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
KEY = jax.random.key(0)

DENSE = lib.fully_connected(6, 2, 2, lib.relu, 1.5, 0.1)
FLAT, POOLED = (
    lib.convolutional(4, 1, 2, lib.erf, 1.5, 0.1, pooling=pooling)
    for pooling in (lib.Flatten(), lib.GlobalAveragePool())
)


def product_free(params, x):
    """A network of sums alone, so that each product in a program is the library's."""
    hidden = jnp.tanh((x[:, :, None] * params["in"]).sum(1))
    return (hidden[:, :, None] * params["out"]).sum(1)


def share_of_a_layer(net, index, x):
    """Of a layer in Θ̂, from what enters and what leaves it: the passes through the network are its own."""
    params = net.init(KEY, x)
    factors = layer_factors(as_apply_fn(net), params, x)[f"layers_{index}"]
    return precisions(partial(layer_ntk, net.layers[index]), factors, None)


def doors():
    """Name → the precisions of the products behind it."""
    x, image, y = waves(4, 3, 0.1), jnp.asarray(images(3, 4, 5, 2, 0.1)), waves(4, 2, 0.3)
    params = {"in": waves(3, 5, 0.2), "out": waves(5, 2, 0.4)}
    theta, full = x @ x.T + jnp.eye(4), jnp.ones((4, 4, 2, 2)) + 4 * jnp.eye(4)[:, :, None, None] * jnp.eye(2)
    spectrum, k, sgd = lib.decompose(theta), lib.Kernel(theta, 2 * theta), optax.sgd(0.1)
    given = y, 0 * y
    linear = lib.Sequential((lib.Flatten(), lib.Dense(2, 1.5, 0.1)))
    wide = lib.Sequential((lib.Conv(2, (2, 2)), lib.erf, lib.Flatten(), lib.Dense(1)))
    narrow = lib.Sequential((lib.Conv(40, (4, 5), padding="VALID"), lib.erf, lib.Flatten(), lib.Dense(1)))
    return {
        "kernel": lambda: precisions(DENSE.kernel, x),
        "kernel of two batches": lambda: precisions(DENSE.kernel, x, x[:2]),
        "kernel of equal positions": lambda: precisions(FLAT.kernel, image),
        "kernel of all positions": lambda: precisions(POOLED.kernel, image),
        "kernel by quadrature": lambda: precisions(
            lib.fully_connected(6, 1, 1, lib.activation(jnp.sin), 1.5, 0.1).kernel, x
        ),
        "gradient of a kernel": lambda: precisions(jax.grad(lambda x: DENSE.kernel(x).ntk.sum()), x),
        "empirical_ntk": lambda: precisions(partial(lib.empirical_ntk, product_free), params, x),
        "contraction of Jacobians": lambda: precisions(contract, {"w": full[:, :2, 0]}, {"w": full[:3, :2, 1]}),
        "layer of Dense": lambda: share_of_a_layer(DENSE, 3, x),
        "layer of Conv, by gradients": lambda: share_of_a_layer(wide, 0, image),
        "layer of Conv, by positions": lambda: share_of_a_layer(narrow, 0, image),
        "empirical_nngp": lambda: precisions(partial(lib.empirical_nngp, linear), linear.init(KEY, x), x),
        "ntk_solve": lambda: precisions(partial(lib.ntk_solve, product_free), params, x, y),
        "kernel_product": lambda: precisions(lib.kernel_product, theta, y),
        "kernel_product, full": lambda: precisions(lib.kernel_product, full, y),
        "coefficients": lambda: precisions(lambda *a: lib.coefficients(spectrum, lib.flow(1.0), *a), *given),
        "train_outputs": lambda: precisions(lambda *a: lib.train_outputs(spectrum, lib.flow(1.0), *a), *given),
        "test_outputs": lambda: precisions(
            lambda *a: lib.test_outputs(spectrum, lib.flow(1.0), *a, theta[:2], y[:2]), *given
        ),
        "averaged": lambda: precisions(lib.averaged(lib.flow(jnp.arange(3.0))).residual, spectrum.eigenvalues),
        "evolve": lambda: precisions(lambda *a: lib.evolve(half_square, *a, 1.0), full, *given),
        "descend": lambda: precisions(lambda *a: lib.descend(half_square, *a, 2, sgd), full, *given),
        "ensemble": lambda: precisions(lambda y: lib.ensemble(spectrum, lib.flow(1.0), y, k, k, k), y),
        "readout_ensemble": lambda: precisions(lambda y: lib.readout_ensemble(spectrum, lib.flow(1.0), y, k, k, k), y),
        "posterior": lambda: precisions(lib.posterior, theta, theta, theta, y, 0.1),
        "sample": lambda: precisions(partial(lib.sample, KEY), y, theta),
    }


@pytest.mark.once
def test_products_of_the_library_keep_all_digits():
    """A graphics card multiplies float32 with ten bits by default; every door asks for all of them."""
    for door, found in doors().items():
        asked = found()
        assert asked, f"{door} multiplies nothing: what it was tested for is gone"
        assert all(precision == HIGHEST for precision in asked), (door, asked)


@pytest.mark.once
def test_products_of_a_network_are_as_precise_as_its_layers_say():
    """The same function f is trained, linearised and has a Θ̂: its precision is stated once, where it is declared."""
    vectors, pictures = waves(4, 3, 0.1), jnp.asarray(images(3, 4, 5, 2, 0.1))
    dense = partial(lib.fully_connected, 4, 1, 2, lib.erf, 1.5, 0.1)
    conv = partial(lib.convolutional, 3, 1, 2, lib.erf, 1.5, 0.1)
    for make, x in ((dense, vectors), (conv, pictures), (partial(lib.wide_resnet, 2), pictures)):
        for stated, expected in (({}, HIGHEST), ({"precision": "default"}, (jax.lax.Precision.DEFAULT,) * 2)):
            net = make(**stated)
            params = net.init(KEY, x)
            for level in ("bfloat16", "highest"):
                with jax.default_matmul_precision(level):
                    assert set(precisions(net.apply, params, x)) == {expected}
    with pytest.raises(ValueError, match=r"`precision` must be one of highest, .*, got 'fast'"):
        dense(precision="fast")


def new(array):
    """Other numbers of the same shape and dtype."""
    return jax.tree.map(lambda leaf: leaf * 0.9, array)


def calls():
    """Name → a function of numbers, and numbers that may change from call to call."""
    x, y, i, many = waves(5, 3, 0.1), waves(5, 2, 0.3), jnp.arange(3), waves(600, 2, 0.2)
    compiled, params = jax.jit(DENSE.kernel), DENSE.init(KEY, x)
    theta = DENSE.kernel(x).ntk
    spectrum, k, sgd = lib.decompose(theta), DENSE.kernel(x), optax.sgd(0.1, momentum=0.9)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("blocks",))
    modes, data = spectrum.eigenvalues, (theta, y, 0.1 * y)
    filters = {
        "flow": lambda c: lib.flow(c * jnp.arange(3.0)),
        "flow, a number": lambda c: lib.flow(float(c)),
        "descent": lambda c: lib.descent(0.1 * c, i + int(10 * c)),
        "heavy_ball": lambda c: lib.heavy_ball(learning_rate=0.1 * c, momentum=0.9, steps=i + int(10 * c)),
        "nesterov": lambda c: lib.nesterov(learning_rate=0.1 * c, momentum=0.9, steps=i + int(10 * c)),
        "momentum_flow": lambda c: lib.momentum_flow(c * jnp.arange(3.0), momentum=0.9, learning_rate=0.1),
        "averaged": lambda c: lib.averaged(lib.descent(0.1, i + int(10 * c))),
        "decayed": lambda c: lib.decayed(lib.flow(c * jnp.arange(3.0)), 0.1),
        "then": lambda c: lib.then(lib.flow(c), lib.descent(0.1, i)),
    }
    return {
        **{name: (lambda c, f=f: [part(modes) for part in f(c)], jnp.asarray(1.0)) for name, f in filters.items()},
        "kernel, compiled": (compiled, x),
        "kernel": (DENSE.kernel, x),
        "kernel of two batches": (lambda x: DENSE.kernel(x, x[:2]), x),
        "kernel of other scales": (
            lambda scales: lib.fully_connected(6, 2, 1, lib.leaky_relu(scales[0]), *scales[1:]).kernel(x),
            (0.1, 1.5, 0.3),
        ),
        "kernel in tiles of other scales": (lambda c: lib.fully_connected(3, 1, 1, lib.erf, c, c).kernel(many), 1.5),
        "evolve": (lambda a: lib.evolve(half_square, *a, 3 * a[0][0, 0]), data),
        "evolve with momentum": (lambda a: lib.evolve(half_square, *a, 3.0, momentum=0.9), data),
        "descend": (lambda a: lib.descend(half_square, *a, i, sgd), data),
        "decompose": (lib.decompose, theta),
        "outputs": (lambda a: lib.test_outputs(spectrum, lib.flow(1.0), *a[1:], theta[:2], y[:2]), data),
        "ensemble": (lambda y: lib.ensemble(spectrum, lib.flow(1.0), y, k, k, k), y),
        "posterior": (lambda y: lib.posterior(theta, theta, theta, y, 0.1), y),
        "log_marginal_likelihood": (lambda y: lib.log_marginal_likelihood(theta, y, 0.1), y),
        "sample": (lambda y: lib.sample(KEY, y, theta), y),
        "empirical_ntk": (lambda p: lib.empirical_ntk(DENSE, p, x), params),
        "empirical_ntk in blocks": (lambda p: lib.empirical_ntk(DENSE, p, x, memory=9000), params),
        "empirical_ntk_by_layer": (lambda p: lib.empirical_ntk_by_layer(DENSE, p, x), params),
        "empirical_nngp": (lambda p: lib.empirical_nngp(DENSE, p, x), params),
        "ntk_vector_product": (lambda p: lib.ntk_vector_product(DENSE, p, x, x, y), params),
        "weight_change": (lambda p: lib.weight_change(DENSE, p, x, y), params),
        "train": (lambda p: lib.train(DENSE, p, half_square, sgd, x, y, 3, at=(0, 3)), params),
        "train anew by the same optimiser": (
            lambda p: lib.train(DENSE, p, half_square, optax.sgd(0.1), x, y, 3, observe=None),
            params,
        ),
        "descend anew by the same optimiser": (lambda a: lib.descend(half_square, *a, i, optax.sgd(0.1)), data),
        "linearity": (lambda p: lib.linearity(DENSE, params, p, x), params),
        "ntk_solve": (lambda p: lib.ntk_solve(DENSE, p, x, y, ridge=0.1), params),
        "kernel_in_blocks": (lambda x: lib.kernel_in_blocks(DENSE, x, memory=9000), x),
        "empirical_ntk on devices": (lambda p: lib.empirical_ntk(DENSE, p, x, memory=9000, mesh=mesh), params),
    }


@pytest.mark.once
def test_the_same_shapes_compile_nothing_anew():
    """New numbers, times, steps and parameters of the same shapes go through the programs that there are."""
    again = {}
    for name, (f, numbers) in calls().items():
        others = new(numbers)
        first, second = compiled_by(lambda: f(numbers)), compiled_by(lambda: f(others))  # noqa: B023
        if second:
            again[name] = (len(first), second)
    assert not again


@pytest.mark.once
def test_a_kernel_in_tiles_is_compiled_once(monkeypatch):
    """Outside `jit` too, where a bare loop is compiled anew at each call."""
    monkeypatch.setattr(tiles, "TILE", 16)
    net, x = lib.fully_connected(6, 1, 1, lib.erf, 1.5, 0.1), waves(9, 3, 0.1)
    for numbers, others in (((x,), (2 * x,)), ((x, x[:5]), (2 * x, x[2:7]))):
        assert compiled_by(lambda: net.kernel(*numbers))  # noqa: B023
        assert not compiled_by(lambda: net.kernel(*others))  # noqa: B023
    np.testing.assert_allclose(net.kernel(x).ntk, jax.jit(net.kernel)(x).ntk, rtol=1e-5)
