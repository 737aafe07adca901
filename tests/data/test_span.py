"""In the span of the data, everything a dense network can see is what it was."""

import jax.numpy as jnp
import numpy as np
import pytest

from lib import Dense, Flatten, Kernel, Sequential, fully_connected, in_span, relu


def images(n, phase):
    return np.cos(phase + np.arange(n * 48).reshape(n, 4, 4, 3) ** 1.3)


def test_inner_products_over_dimension_are_kept():
    x, xt = images(5, 0.0), images(3, 1.0)
    z, zt = in_span(x, xt)
    gram = lambda a, b: a.reshape(len(a), -1) @ b.reshape(len(b), -1).T / a[0].size
    assert z.shape == (5, 8) and zt.shape == (3, 8)
    np.testing.assert_allclose(gram(z, z), gram(x, x), atol=1e-12)
    np.testing.assert_allclose(gram(zt, z), gram(xt, x), atol=1e-12)


def test_infinite_kernels_are_kept(x64):
    x, xt = images(5, 0.0), images(3, 1.0)
    z, zt = in_span(x, xt)
    net = fully_connected(8, 2, 1, relu, W_std=1.4, b_std=0.1)
    before, after = net.kernel(jnp.asarray(xt), jnp.asarray(x)), net.kernel(jnp.asarray(zt), jnp.asarray(z))
    np.testing.assert_allclose(after.ntk, before.ntk, rtol=1e-10)


def test_kernels_of_standard_weights_are_kept_with_the_variance_of_their_first_layer(x64):
    """Gradients of standard weights are x, not x/√n: scaled columns would shrink a part of Θ, and that part alone."""
    x, xt = images(5, 0.0), images(3, 1.0)
    z, zt = in_span(x, xt, parameterization="standard")
    np.testing.assert_allclose(z @ z.T, x.reshape(5, -1) @ x.reshape(5, -1).T, atol=1e-10)
    dense = lambda features, W_std: Dense(features, W_std, 0.1, "standard")
    net = lambda first: Sequential((Flatten(), dense(16, first), relu, dense(1, 1.4)))
    before = net(1.4).kernel(jnp.asarray(xt), jnp.asarray(x))
    after = net(1.4 * (8 / 48) ** 0.5).kernel(jnp.asarray(zt), jnp.asarray(z))
    np.testing.assert_allclose(after.nngp, before.nngp, rtol=1e-10)
    np.testing.assert_allclose(after.ntk, before.ntk, rtol=1e-10)
    shrunk = net(1.4).kernel(*map(jnp.asarray, in_span(xt, x)))
    assert float(abs(shrunk.ntk / before.ntk - 1).max()) > 0.1  # the error that "standard" is there to prevent


def test_more_examples_than_dimensions_keep_the_dimension():
    (z,) = in_span(np.eye(3)[[0, 1, 2, 0, 1]])
    assert z.shape == (5, 3)


def test_dtype_follows():
    assert in_span(images(2, 0.0).astype(np.float32))[0].dtype == np.float32


def test_each_array_keeps_its_own_dtype():
    z, zt = in_span(images(2, 0.0).astype(np.float32), images(3, 1.0))
    assert (z.dtype, zt.dtype) == (np.float32, np.float64)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="`inputs` must agree in all but their first axis"):
        in_span(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match='`parameterization` must be "ntk" or "standard"'):
        in_span(np.ones((2, 3)), parameterization="mup")


def test_coordinates_of_integers_are_floating():
    """Bytes of an image, whose coordinates are neither whole nor positive: those of the same numbers as floats."""
    x, xt = (np.uint8(100 + 100 * images(n, float(n))) for n in (5, 3))
    expected = in_span(x.astype(np.float64), xt.astype(np.float64))
    for kind in (lambda a: a, lambda a: a.astype(np.int64)):
        for z, exact in zip(in_span(kind(x), kind(xt)), expected, strict=True):
            assert z.dtype == jnp.zeros(()).dtype
            np.testing.assert_allclose(z, exact, rtol=1e-6, atol=1e-4)


def test_inputs_must_be_numbers_of_a_dimension():
    for wrong in (np.ones((2, 3), bool), np.ones((2, 3), complex)):
        with pytest.raises(TypeError, match="`inputs` must hold integers or real floating-point numbers, got"):
            in_span(wrong)
    with pytest.raises(TypeError, match="`inputs` must be an array, got a Kernel"):
        in_span(Kernel(np.eye(2), np.eye(2)))
    for wrong in (np.ones((3, 0)), np.ones(3), 1.0):
        with pytest.raises(ValueError, match=r"`inputs` must have shape \(N, ...\) with at least one number"):
            in_span(wrong)
