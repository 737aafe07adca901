"""Pooling: the means themselves, of images and of covariances, and what is refused; in networks, test_convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import images, pooled, pooled_image
from tolerances import tolerance

from lib.infinite.kernel import input_state
from lib.networks.layers import Dense, Flatten
from lib.networks.pooling import AveragePool, GlobalAveragePool
from lib.networks.sequential import Sequential

# Windows and strides of which no two agree in both directions, in images that are not square either.
POOLS = [AveragePool((2, 3), (1, 2)), AveragePool((3, 1), (2, 3)), AveragePool((1, 2))]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.window}" if hasattr(pool, "window") else "all")
def test_they_are_means_over_windows(pool):
    x = jnp.asarray(images(2, 5, 6, 3, 0.0))
    expected = [pooled_image(image, pool.window, pool.strides) for image in np.asarray(x)]
    np.testing.assert_allclose(pool(x), expected, **tolerance(x))


def test_the_mean_over_all_positions_is_one():
    x = jnp.asarray(images(2, 5, 6, 3, 0.0))
    np.testing.assert_allclose(GlobalAveragePool()(x), np.mean(x, axis=(1, 2)), **tolerance(x))
    np.testing.assert_allclose(AveragePool((5, 6))(x)[:, 0, 0], GlobalAveragePool()(x), **tolerance(x))
    assert AveragePool((2, 3)) == AveragePool((2, 3), (2, 3))


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.window}" if hasattr(pool, "window") else "all")
def test_windows_move_over_covariances_as_over_images(pool):
    """Both positions of a pair alone: against loops, of every array that layers hand on."""
    x = jnp.asarray(images(2, 4, 5, 2, 0.0))
    below = input_state(x, x[:1], "full")
    above = jax.jit(lambda nngp, own: pool.kernel_step(below.replace(nngp=nngp, ntk=2 * nngp, variance1=own)))
    gram = np.einsum("ahwc,ijc->hwija", x, x[0]) / 2
    expected = np.stack([pooled(gram[..., i], pool.window, pool.strides) for i in (0, 1)], -1)
    nngp, ntk, variance1, variance2 = jax.tree.leaves(above(below.nngp, below.variance1))
    np.testing.assert_allclose(nngp[..., 0], expected, **tolerance(x))
    np.testing.assert_allclose(ntk, 2 * nngp, **tolerance(x))
    np.testing.assert_allclose(variance1[..., :1], expected[..., :1], **tolerance(x))
    np.testing.assert_allclose(variance2, variance1[..., :1], **tolerance(x))


@pytest.mark.parametrize(
    "pool", [*POOLS, GlobalAveragePool()], ids=lambda pool: f"{pool.window}" if hasattr(pool, "window") else "all"
)
def test_kernels_of_pooled_pixels(pool):
    """Without a nonlinearity below, the kernel is the Gram matrix of the pooled pixels."""
    x1, x2 = jnp.asarray(images(3, 4, 5, 2, 0.0)), jnp.asarray(images(2, 4, 5, 2, 0.3))
    net = Sequential((pool, Flatten(), Dense(1)))
    pixels1, pixels2 = (np.asarray(pool(x)).reshape(len(x), -1) for x in (x1, x2))
    np.testing.assert_allclose(net.kernel(x1, x2).nngp, pixels1 @ pixels2.T / pixels1.shape[1], **tolerance(x1))
    if pool == GlobalAveragePool():
        state = pool.kernel_step(input_state(x1, None, "full"))
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
