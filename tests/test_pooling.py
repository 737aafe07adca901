"""Pooling: the means themselves, and what is refused. Their kernels are tested with those of convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from oracles import images

from lib.kernels import input_state
from lib.layers import Dense, Flatten, Sequential
from lib.pooling import AveragePool, GlobalAveragePool


def test_they_are_means_over_windows():
    x = jnp.asarray(images(2, 5, 6, 3, 0.0))
    pooled = AveragePool((2, 3), (1, 2))(x)
    assert pooled.shape == (2, 4, 2, 3)
    for i, j in np.ndindex(4, 2):
        np.testing.assert_allclose(pooled[:, i, j], x[:, i : i + 2, 2 * j : 2 * j + 3].mean((1, 2)), **tolerance(x))
    np.testing.assert_allclose(GlobalAveragePool()(x), np.mean(x, axis=(1, 2)), **tolerance(x))
    assert AveragePool((2, 3)) == AveragePool((2, 3), (2, 3))


def test_kernels_of_pooled_pixels():
    """Without a nonlinearity below, the kernel is the Gram matrix of the pooled pixels."""
    x1, x2 = jnp.asarray(images(3, 4, 5, 2, 0.0)), jnp.asarray(images(2, 4, 5, 2, 0.3))
    for pool in (AveragePool((2, 2), (1, 2)), GlobalAveragePool()):
        net = Sequential((pool, Flatten(), Dense(1)))
        pixels1, pixels2 = (np.asarray(pool(x)).reshape(len(x), -1) for x in (x1, x2))
        expected = pixels1 @ pixels2.T / pixels1.shape[1]
        np.testing.assert_allclose(net.kernel(x1, x2).nngp, expected, **tolerance(x1))
        state = pool.kernel_step(input_state(x1, None, "full"))
        if pool == GlobalAveragePool():
            np.testing.assert_allclose(state.variance1, np.mean(pixels1**2, axis=1), **tolerance(x1))


def test_errors_name_the_argument():
    x = jnp.asarray(images(2, 4, 5, 2, 0.0))
    with pytest.raises(ValueError, match=r"`window` must be a pair \(height, width\), got 2"):
        AveragePool(2)
    with pytest.raises(ValueError, match=r"`strides` must be an integer of at least 1, got 0"):
        AveragePool((2, 2), (0, 1))
    for pool, message in [
        (
            AveragePool((5, 1)),
            r"`window` \(5, 1\) of AveragePool must not be larger than its input's \(4, 5\) positions",
        ),
        (
            AveragePool((2, 2), (1, 6)),
            r"`strides` \(1, 6\) of AveragePool must not be larger than its input's \(4, 5\)",
        ),
    ]:
        for face in (pool, Sequential((pool, Flatten(), Dense(1))).kernel):
            with pytest.raises(ValueError, match=message):
                jax.jit(face)(x)
    for pool, name in ((AveragePool((1, 1)), "AveragePool"), (GlobalAveragePool(), "GlobalAveragePool")):
        with pytest.raises(ValueError, match=rf"{name} needs `x` of shape \(N, H, W, C\), got \(2, 4\)"):
            pool(x[:, :, 0, 0])
        with pytest.raises(ValueError, match=rf"{name} needs images, \(N, H, W, C\), but its input is vectors"):
            Sequential((pool, Dense(1))).kernel(x[:, :, 0, 0])
