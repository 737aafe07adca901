"""What layers hand on: the state of the inputs, and the pairs that duals are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import images
from tolerances import tolerance

from lib import fully_connected, relu
from lib.infinite.kernel import Kernel, input_state


def test_inputs_have_the_covariance_of_their_features():
    x1, x2 = waves(4, 3, 0.0), waves(2, 3, 0.4)
    state = input_state(x1, x2, "vectors")
    for i in range(4):
        np.testing.assert_allclose(state.variance1[i], np.mean(np.square(x1[i])), **tolerance(x1))
        for j in range(2):
            np.testing.assert_allclose(state.nngp[i, j], np.mean(np.multiply(x1[i], x2[j])), **tolerance(x1))
            np.testing.assert_allclose(state.variance2[j], np.mean(np.square(x2[j])), **tolerance(x1))
    assert not state.ntk.any()
    assert (state.features, state.gaussian, state.same) == (3, False, False)


def test_the_mean_over_an_image_is_that_of_its_vector():
    x = jnp.asarray(images(3, 4, 5, 2, 0.0))
    image, vector = input_state(x, None, "mean"), input_state(x.reshape(3, -1), None, "vectors")
    jax.tree.map(np.testing.assert_array_equal, image, vector)
    assert image.features == 40


def test_equal_inputs_have_the_covariance_of_one():
    """With x2 left out the diagonal is the variance to the last bit, whatever a product of matrices rounds to."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 300)))
    for compile in (lambda f: f, jax.jit):
        k11, k12, k22 = compile(lambda x: input_state(x, None, "vectors").pair())(x)
        np.testing.assert_array_equal(jnp.diag(k12), k11[:, 0])
        np.testing.assert_array_equal(jnp.diag(k12), k22[0])


def test_products_of_inputs_keep_float32s_digits():
    """A product in fewer bits (TF32, bfloat16) is off by 1e-3; asked for the highest precision it is not."""
    hlo = jax.jit(lambda x: input_state(x, None, "vectors").nngp).lower(jnp.ones((2, 3))).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in hlo


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_follows_the_inputs(dtype, x64):
    state = input_state(waves(3, 2, 0.0).astype(dtype), None, "vectors")
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(dtype)}


def test_kernel_is_a_pytree():
    doubled = jax.tree.map(lambda k: 2 * k, Kernel(jnp.ones((1, 1)), jnp.zeros((1, 1))))
    assert isinstance(doubled, Kernel)
    assert doubled.nngp == 2


def test_errors_name_the_argument():
    x = waves(4, 3, 0.0)
    cube = jnp.ones((4, 2, 2, 1))
    with pytest.raises(ValueError, match=r"`x2` must have the shape of `x1` after its first axis, \(3,\), got \(2,\)"):
        input_state(x, x[:, :2], "vectors")
    with pytest.raises(ValueError, match=r"`x1` must have shape \(N, d\), got \(4, 2, 2, 1\); put Flatten\(\) before"):
        input_state(cube, None, "vectors")
    with pytest.raises(ValueError, match=r"`x2` must have shape \(N, d\), got \(3,\); a single input is x\[None\]"):
        input_state(x, x[0], "vectors")
    with pytest.raises(ValueError, match=r"`x1` must have shape \(N, ...\) with at least two axes, got \(3,\)"):
        input_state(x[0], None, "mean")
    with pytest.raises(ValueError, match=r"`x1` must hold at least one feature, got shape \(4, 0\)"):
        input_state(x[:, :0], None, "mean")
    with pytest.raises(TypeError, match="`x1` must hold floating-point numbers, got int32"):
        input_state(jnp.ones((4, 3), jnp.int32), None, "vectors")
    with pytest.raises(TypeError, match="`x2` must hold floating-point numbers, got complex64"):
        input_state(x, jnp.ones((4, 3), jnp.complex64), "vectors")


def test_inputs_that_are_no_arrays_are_refused():
    net = fully_connected(8, 1, 1, relu, W_std=1.0, b_std=0.0)
    for wrong in (Kernel(jnp.eye(2), jnp.eye(2)), None, "abc", [[1.0], [1.0, 2.0]]):
        with pytest.raises(TypeError, match="`x1` must be an array"):
            net.kernel(wrong)
