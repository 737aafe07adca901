"""What is left out is what the documentation says it is: seen in results, for every argument that may be left out."""

import inspect
import json

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh
from networks import small_network, waves
from oracles import images
from problems import half_square
from tolerances import tolerance

import lib

pytestmark = pytest.mark.once

KEY = jax.random.key(0)
NET, PARAMS, X = small_network()
Y, FLAT = waves(5, 2, 0.4), lib.fully_connected(4, 1, 1, lib.erf, 1.5, 0.1)
IMAGES = jnp.asarray(images(3, 4, 5, 2, 0.1))
THETA = X @ X.T + jnp.eye(5)
ONE_DEVICE = Mesh(np.asarray(jax.devices()[:1]), ("blocks",))
SGD = optax.sgd(0.01)


def faces(layers, x=IMAGES):
    """A network's parameters at initialisation, its outputs, and its kernel."""
    net = lib.Sequential(layers) if isinstance(layers, tuple) else layers
    params = net.init(KEY, x)
    return params, net.apply(params, x), jax.jit(net.kernel)(x)


def outputs(net):
    params = net.init(KEY, IMAGES)
    return params, net.apply(params, IMAGES)


def convolved(**given):
    return faces((lib.Conv(3, (3, 2), **given), lib.Flatten(), lib.Dense(1)))


def conv_net(**given):
    return faces(lib.convolutional(3, 1, 2, lib.erf, 1.5, 0.1, **given))


def resnet(**given):
    return outputs(lib.wide_resnet(2, **given))


def solved(**given):
    """Of a linear model whose kernel has eigenvalues from 1 to 9: each step comes nearer by a half."""
    x = jnp.diag(jnp.linspace(1, 3, 30))
    return lib.ntk_solve(lambda params, x: x @ params, jnp.zeros((30, 1)), x, jnp.ones((30, 1)), **given)


def program(make):
    """The program of a network's outputs, as text, for what computes the same on a CPU."""

    def text(**given):
        net = make(**given)
        return jax.jit(net.apply).lower(jax.eval_shape(net.init, KEY, IMAGES), IMAGES).as_text()

    return text


def evolved(**given):
    return lib.evolve(half_square, THETA, Y, 0 * Y, jnp.array([1.0, 0.3]), **given)


def trained(**given):
    return lib.train(NET, PARAMS, half_square, SGD, X, Y, 3, **given)


def claimed(**given):
    claims = lib.Claims("figure_0")
    claims.check("name", 1.0, **({"high": 2.0} | given))
    return claims.rows


def estimated(**given):
    claims = lib.Claims("figure_0")
    claims.check_estimate("name", (1.0, 0.1), 1.0, {"wrong": 3.0}, **given)
    return claims.rows


def scaled(**given):
    """The weights at the start, and the first step where every gradient is 1."""
    net, p = lib.fully_connected(8, 1, 1, lib.tanh, 1.0, None, parameterization="standard"), lib.ABC.integrable(1)
    params = lib.scaled_init(p, net, KEY, X, **{k: v for k, v in given.items() if k == "mean"})
    optimizer = lib.scaled_sgd(p, params, 0.1, **{k: v for k, v in given.items() if k != "mean"})
    ones = jax.tree.map(jnp.ones_like, params)
    return params, optimizer.update(ones, optimizer.init(params))[0]


def slid(**given):
    return lib.slider(lambda value: plt.figure(), [0.12345, 2.0], name="n", label="l", alt="a", **given).data


# function.argument: (the call, what stands for leaving it out, something else or nothing where there is nothing else)
NOTHING = object()
DEFAULTS = {
    "Activation.parameters": (
        lambda **g: lib.Activation("a", lambda x, a=1.0: a * x, lambda *k: k, **g)(X),
        (),
        (2.0,),
    ),
    "AveragePool.strides": (lambda **g: lib.AveragePool((2, 3), **g)(IMAGES), (2, 3), (1, 1)),
    "BatchNorm.epsilon": (lambda **g: lib.BatchNorm(**g)(1e-2 * X), 1e-5, 1e-2),
    "scaled_init.mean": (lambda **g: scaled(**g)[0], 0.0, 1.0),
    "scaled_sgd.first": (lambda **g: scaled(**g)[1], None, lib.ABC.ntk(1)),
    "scaled_sgd.method": (
        lambda **g: scaled(**g)[1],
        optax.sgd,
        lambda rate: optax.sgd(rate, nesterov=True, momentum=0.5),
    ),
    "Claims.scale": (lambda **g: str(lib.Claims("figure_0", **g)), "quick", "paper"),
    "Claims.seed": (lambda **g: str(lib.Claims("figure_0", **g)), 0, 1),
    "Claims.check.low": (claimed, None, 0.0),
    "Claims.check.high": (lambda **g: claimed(**({"low": 0.0, "high": None} | g)), None, 2.0),
    "Claims.check.paper": (claimed, None, 1.0),
    "Claims.check.source": (claimed, "", "Figure 0"),
    "Claims.check.kind": (claimed, "theory", "control"),
    "Claims.check.against": (claimed, {}, {"wrong": 3.0}),
    "Claims.check.revised": (claimed, "", "why"),
    "Claims.check_estimate.paper": (estimated, None, 1.0),
    "Claims.check_estimate.source": (estimated, "", "Figure 0"),
    "Claims.check_estimate.revised": (estimated, "", "why"),
    "Conv.W_std": (convolved, 1.0, 2.0),
    "Conv.b_std": (convolved, None, 0),
    "Conv.padding": (convolved, "SAME", "CIRCULAR"),
    "Conv.parameterization": (convolved, "ntk", "standard"),
    "Conv.strides": (convolved, (1, 1), (1, 2)),
    "Conv.precision": (program(lambda **g: lib.Conv(3, (3, 3), **g)), "highest", "default"),
    "Dense.precision": (program(lambda **g: lib.Sequential((lib.Flatten(), lib.Dense(3, **g)))), "highest", "default"),
    "Dense.W_std": (lambda **g: faces((lib.Dense(3, **g),), X), 1.0, 2.0),
    "Dense.b_std": (lambda **g: faces((lib.Dense(3, **g),), X), None, 0),
    "Dense.parameterization": (lambda **g: faces((lib.Dense(3, **g),), X), "ntk", "standard"),
    "LayerNorm.epsilon": (lambda **g: lib.LayerNorm(**g)(1e-6 * X), 1e-12, 1e-10),
    "NtkPath.coupled": (lambda **g: lib.NtkPath("layers", "", 1, **g), False, True),
    "NtkPath.layers": (lambda **g: lib.NtkPath("layers", "", 1, **g), (), (("a", lib.Dense(1)),)),
    "Residual.shortcut": (
        lambda **g: faces((lib.Residual(lib.Dense(3), **g),), X),
        lib.Sequential(()),
        lib.Sequential((lib.Dense(3),)),
    ),
    "Sequential.kernel.x2": (lambda x2=None: FLAT.kernel(X, x2), X, X[:2]),
    "averaged.weights": (
        lambda **g: lib.averaged(lib.flow(jnp.arange(3.0)), **g).residual(jnp.ones(2)),
        jnp.ones(3),
        jnp.arange(3.0),
    ),
    "convolutional.padding": (conv_net, "SAME", "VALID"),
    "convolutional.precision": (
        program(lambda **g: lib.convolutional(3, 1, 2, lib.erf, 1.5, 0.1, **g)),
        "highest",
        "tensorfloat32",
    ),
    "convolutional.parameterization": (conv_net, "ntk", "standard"),
    "convolutional.pooling": (conv_net, lib.GlobalAveragePool(), lib.Flatten()),
    "empirical_nngp.x2": (lambda **g: lib.empirical_nngp(FLAT, FLAT.init(KEY, X), X, **g), X, X[:2]),
    "empirical_ntk.mesh": (lambda **g: lib.empirical_ntk(NET, PARAMS, X, **g), ONE_DEVICE, NOTHING),
    "empirical_ntk.x2": (lambda **g: lib.empirical_ntk(NET, PARAMS, X, **g), X, X[:2]),
    "empirical_ntk_by_layer.x2": (lambda **g: lib.empirical_ntk_by_layer(FLAT, FLAT.init(KEY, X), X, **g), X, X[:2]),
    "evolve.learning_rate": (evolved, 1.0, 0.5),
    "evolve.momentum": (evolved, None, 0.9),
    "evolve.solver": (lambda **g: evolved(tolerance=0.1, **g), diffrax.Dopri5(), diffrax.Bosh3()),
    "evolve.tolerance": (evolved, float(jnp.finfo(Y.dtype).eps) ** 0.5, 1e-2),
    "explain_ntk.memory": (lambda **g: lib.explain_ntk(NET, PARAMS, X, **g).rows, 2**30, 2**29),
    "explain_ntk.x2": (lambda **g: lib.explain_ntk(FLAT, FLAT.init(KEY, X), X, **g)[:3], X, NOTHING),
    "fully_connected.parameterization": (
        lambda **g: faces(lib.fully_connected(4, 1, 2, lib.erf, 1.5, 0.1, **g)),
        "ntk",
        "standard",
    ),
    "fully_connected.precision": (
        program(lambda **g: lib.fully_connected(4, 1, 2, lib.erf, 1.5, 0.1, **g)),
        "highest",
        "bfloat16",
    ),
    "in_span.parameterization": (lambda **g: lib.in_span(np.asarray(X)[:2], **g), "ntk", "standard"),
    "kernel_in_blocks.mesh": (lambda **g: lib.kernel_in_blocks(FLAT, X, **g), ONE_DEVICE, NOTHING),
    "kernel_in_blocks.x2": (lambda **g: lib.kernel_in_blocks(FLAT, X, **g), X, X[:2]),
    "load.dtype": (lambda **g: lib.load("mnist", 2, 2, **g), jnp.float32, jnp.float16),
    "load.test": (lambda **g: lib.load("mnist", 2, **g), 128, 64),
    "load.train": (lambda **g: lib.load("mnist", test=2, **g), 128, 64),
    "log_marginal_likelihood.noise_variance": (lambda **g: lib.log_marginal_likelihood(THETA, Y, **g), 0.0, 0.1),
    "max_learning_rate.momentum": (lambda **g: lib.max_learning_rate(THETA, **g), 0.0, 0.5),
    "max_learning_rate.nesterov": (lambda **g: lib.max_learning_rate(THETA, 0.5, **g), False, True),
    "ntk_solve.ridge": (lambda **g: solved(steps=2, **g), 0.0, 0.1),
    "ntk_solve.steps": (solved, 10 * 30, 1),
    "ntk_solve.tolerance": (solved, 1e-5, 1e-2),
    "posterior.noise_variance": (lambda **g: lib.posterior(THETA, THETA, THETA, Y, **g), 0.0, 0.1),
    "sample.shape": (lambda **g: lib.sample(KEY, Y, THETA, **g), (), (1,)),
    "slider.show": (slid, lambda value: f"{value:.3g}", str),
    "slider.start": (slid, 0, 1),
    "train.at": (trained, (), (0,)),
    "train.batch": (lambda **g: trained(key=KEY, **g), 5, 2),
    "train.checkpoint": (trained, None, NOTHING),
    "train.every": (trained, 600.0, NOTHING),
    "train.key": (trained, KEY, NOTHING),
    "train.observe": (lambda **g: trained(at=(0, 3), **g), lambda params: NET(params, X), lambda params: params["b"]),
    "wide_resnet.W_std": (resnet, 1.0, 2.0),
    "wide_resnet.b_std": (resnet, None, 0),
    "wide_resnet.blocks": (resnet, 1, 2),
    "wide_resnet.normalization": (resnet, True, False),
    "wide_resnet.outputs": (resnet, 10, 9),
    "wide_resnet.precision": (program(lambda **g: lib.wide_resnet(2, **g)), "highest", "default"),
    "wide_resnet.parameterization": (resnet, "ntk", "standard"),
}


def equal(a, b):
    """Whether two results have one structure, and leaves of one shape, dtype and, to rounding, value."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False

    def same(one, other):
        if isinstance(one, str):
            return one == other
        one, other = np.asarray(one), np.asarray(other)
        of_a_kind = (one.shape, one.dtype) == (other.shape, other.dtype)
        return of_a_kind and np.allclose(one, other, **tolerance(jnp.float32 if one.dtype.itemsize < 8 else X))

    return all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("name", DEFAULTS)
def test_leaving_it_out_is_as_documented(name):
    call, stated, other = DEFAULTS[name]
    argument = name.rpartition(".")[2]
    left_out = call()
    assert equal(left_out, call(**{argument: stated}))
    if other is not NOTHING:
        assert not equal(left_out, call(**{argument: other}))


def test_memory_left_out_is_a_gibibyte():
    """It does not hold a single example of so many parameters, or pixels, of which only the shapes are there."""
    params, pixels = jax.ShapeDtypeStruct((3, 2**28), jnp.float32), np.broadcast_to(np.float32(0), (1, 2**28))
    with pytest.raises(ValueError, match=rf"`memory` must hold .* got {2**30}"):
        lib.empirical_ntk(lambda params, x: x @ params, params, X)
    with pytest.raises(ValueError, match=rf"`memory` must hold .* got {2**30}"):
        lib.kernel_in_blocks(FLAT, pixels)


def test_the_record_of_a_chapter_is_that_of_the_papers_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("_config.yml", "_toc.yml"):
        (tmp_path / file).touch()
    for scale in ("quick", "paper"):
        record = {"chapter": "figure_0", "scale": scale, "seed": 0, "claims": [], "provenance": {"fingerprint": None}}
        (tmp_path / "book" / "results" / scale).mkdir(parents=True)
        (tmp_path / "book" / "results" / scale / "figure_0.json").write_text(json.dumps(record))
    assert (lib.recorded("figure_0").scale, lib.recorded("figure_0", "quick").scale) == ("paper", "quick")


ELSEWHERE = {"empirical_ntk.memory", "kernel_in_blocks.memory", "recorded.scale"}


def test_there_is_no_other_argument_to_leave_out():
    """A new one belongs into the table above."""
    found = set()
    for name, thing in vars(lib).items():
        if name.startswith("_") or not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
            continue
        parts = {name: thing} | {
            f"{name}.{method}": function
            for method, function in (vars(thing).items() if isinstance(thing, type) else ())
            if inspect.isfunction(function) and not method.startswith("_") and method not in vars(nn.Module)
        }
        for called, function in parts.items():
            flax = {"parent", "name"} if isinstance(thing, type) and issubclass(thing, nn.Module) else set()
            found |= {
                f"{called}.{argument.name}"
                for argument in inspect.signature(function).parameters.values()
                if argument.default is not inspect.Parameter.empty and argument.name not in flax
            }
    assert found == ELSEWHERE | set(DEFAULTS)
