"""Residual blocks: sums, the reference, which of them have a kernel. Stacks of images are in test_convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import images
from tolerances import tolerance

from lib.networks.activations import erf, identity, relu
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential


def test_it_is_the_sum_of_its_branches():
    x = waves(4, 3, 0.0)
    block = Residual(Dense(5, 1.5), shortcut=Sequential((Dense(5), relu)))
    params = block.init(jax.random.key(0), x)
    inner, shortcut = params["params"]["inner"]["layers_0"], params["params"]["shortcut"]["layers_0"]
    expected = 1.5 * x @ inner["omega"] / np.sqrt(3) + np.maximum(x @ shortcut["omega"] / np.sqrt(3), 0)
    np.testing.assert_allclose(block.apply(params, x), expected, **tolerance(expected))
    plain = Residual(Dense(3))
    params = plain.init(jax.random.key(0), x)
    weights = np.asarray(params["params"]["inner"]["layers_0"]["omega"])
    np.testing.assert_allclose(plain.apply(params, x), x + x @ weights / np.sqrt(3), **tolerance(expected))


def test_equal_by_value():
    assert Residual(Dense(3)) == Residual(Sequential((Dense(3),)), shortcut=Sequential(()))
    assert hash(Residual(Dense(3))) == hash(Residual(Dense(3)))
    assert Residual(Dense(3)) != Residual(Dense(3), shortcut=Dense(3))


def test_reference(reference, x64):
    block = Residual(Sequential((erf, Dense(8, 1.1, 0))))
    net = Sequential((Dense(8, 1.0, 0), block, block, erf, Dense(1, 1.5, 0)))
    values = reference["resnet_fc_cookbook"]
    for k, name in zip(net.kernel(waves(4, 3, 0.0)), ("nngp_xx", "ntk_xx"), strict=True):
        np.testing.assert_allclose(k, values[name], rtol=1e-9)


def test_blocks_in_blocks_are_known_by_where_they_end(x64):
    """A sum with x inside a branch is as independent of x as the branch below it: refused only where it is x itself."""
    x = waves(4, 3, 0.0)
    plain = Residual(Sequential((relu, Dense(8))))  # h + W φ(h)
    nested = Residual(Sequential((relu, Dense(8), plain)))
    k = Sequential((Dense(8), nested, relu, Dense(1))).kernel(x)
    # On the diagonal ReLU halves both kernels, and weights add K to Θ: with K = 1 at the first layer, block by block,
    # h has (1, 1), W φ(h) has (1/2, 1), `plain` of that (3/4, 7/4), all of `nested` (7/4, 11/4), and the readout
    np.testing.assert_allclose(jnp.diag(k.nngp), 7 / 8 * np.mean(np.square(x), axis=1), rtol=1e-12)
    np.testing.assert_allclose(jnp.diag(k.ntk), 9 / 4 * np.mean(np.square(x), axis=1), rtol=1e-12)
    with pytest.raises(ValueError, match="Residual has no infinite face, because neither branch ends in weights"):
        Sequential((Dense(8), Residual(plain), Dense(1))).kernel(x)


WEIGHTS, AS_IT_IS, NONLINEAR = Dense(8), Sequential(()), relu


@pytest.mark.parametrize("inner", [WEIGHTS, Residual(WEIGHTS, WEIGHTS), Sequential((relu, WEIGHTS, Residual(WEIGHTS)))])
def test_a_branch_that_is_independent_of_its_input_may_be_added_to_it(inner):
    x = waves(4, 3, 0.0)
    assert np.isfinite(Sequential((Dense(8), Residual(inner), Dense(1))).kernel(x).ntk).all()


@pytest.mark.parametrize(
    "inner",
    [
        *(NONLINEAR, AS_IT_IS, Residual(WEIGHTS), Residual(WEIGHTS, NONLINEAR), Residual(NONLINEAR, WEIGHTS)),
        *(Sequential((relu, Residual(WEIGHTS))), Sequential((WEIGHTS, relu)), Residual(WEIGHTS, Residual(WEIGHTS))),
        *(Sequential((WEIGHTS, Residual(WEIGHTS, relu))), Residual(Sequential((WEIGHTS, relu)), WEIGHTS)),
    ],
)
def test_a_branch_with_a_part_that_is_not_is_refused(inner):
    """A part that is x, or a nonlinear function of what weights have made of it, added to weights or to a block."""
    with pytest.raises(ValueError, match="Residual has no infinite face, because neither branch ends in weights"):
        Sequential((Dense(8), Residual(inner), Dense(1))).kernel(waves(4, 3, 0.0))


def test_needs_are_those_of_the_more_demanding_branch():
    x = jnp.asarray(images(3, 4, 4, 2, 0.0))
    spatial = Sequential((Conv(4, (4, 4), padding="VALID"), Flatten(), Dense(6)))
    net = Sequential((Residual(spatial, shortcut=Sequential((Flatten(), Dense(6)))), Dense(1)))
    parts = [Sequential((*branch, Dense(1))).kernel(x) for branch in (spatial.layers, (Flatten(), Dense(6)))]
    np.testing.assert_allclose(net.kernel(x).nngp, parts[0].nngp + parts[1].nngp, **tolerance(x))
    assert net.apply(net.init(jax.random.key(0), x), x).shape == (3, 1)


def test_a_branch_that_flattens_does_not_do_so_for_the_other():
    """Vectors serve both branches; images, which the shortcut refuses when it is called, are refused by the kernel."""
    net = Sequential((Residual(Sequential((Flatten(), Dense(6))), shortcut=Dense(6)), Dense(1)))
    vectors, image = waves(4, 3, 0.0), jnp.asarray(images(3, 4, 4, 2, 0.0))
    np.testing.assert_allclose(net.kernel(vectors).nngp, 2 * vectors @ vectors.T / 3, **tolerance(vectors))
    for face, argument in (
        (net.kernel, "`x1` must have shape"),
        (lambda x: net.init(jax.random.key(0), x), "needs `x`"),
    ):
        with pytest.raises(ValueError, match=argument):
            face(image)


def test_errors_say_what_to_do():
    x = waves(4, 3, 0.0)
    for inner, shortcut in ((relu, None), (identity, None), (Sequential((Dense(8), relu)), erf)):
        net = Sequential((Dense(8), Residual(inner, shortcut), Dense(1)))
        with pytest.raises(ValueError, match=r"because neither branch ends in weights, and .* the end of `inner`"):
            jax.jit(net.kernel)(x)
    with pytest.raises(ValueError, match=r"\(relu\) has no infinite face, because its input is not Gaussian"):
        Sequential((Residual(Dense(3)), relu, Dense(1))).kernel(x)  # x is not, so x + W x is not
    wrong = Sequential((Dense(8), Residual(Dense(5)), Dense(1)))
    for face in (wrong.kernel, lambda x: wrong.init(jax.random.key(0), x)):
        with pytest.raises(
            ValueError, match=r"`shortcut` must have the shape of `inner`, \(5,\) without N, got \(8,\)"
        ):
            jax.jit(face)(x)
    image = Sequential((Residual(Conv(2, (3, 3), (2, 2))), Flatten(), Dense(1)))
    with pytest.raises(ValueError, match=r"shape of `inner`, \(2, 2, 2\) without N, got \(4, 4, 2\); a projection"):
        image.kernel(jnp.ones((1, 4, 4, 2)))
    with pytest.raises(TypeError, match=r"`inner` must be a layer or an activation, got 'relu'; import it from lib"):
        Residual("relu")
    with pytest.raises(TypeError, match="`shortcut` must be a layer or an activation, got <"):
        Residual(Dense(3), shortcut=jnp.tanh)
