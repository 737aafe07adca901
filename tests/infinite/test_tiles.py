"""Tiles of a kernel are the kernel, whatever their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from tolerances import tolerance

from lib.infinite import tiles
from lib.infinite.tiles import TILE, block_starts, even_blocks, in_tiles, tile_edge
from lib.networks.activations import relu
from lib.networks.architectures import fully_connected

NET = fully_connected(8, 2, 1, relu, 1.4, 0.1)


@pytest.mark.once
def test_blocks_are_even_and_cover_everything():
    """For all counts up to 30: as few as can be, of one size that differs by less than one from the mean."""
    for n in range(1, 31):
        for most in range(1, 40):
            count, rows = even_blocks(n, most)
            assert count == int(np.ceil(n / most)) and rows <= min(n, most) and n / count <= rows < n / count + 1
            starts, size = block_starts(n, most)
            assert size == rows and len(starts) == count and starts == sorted(set(starts))
            assert {k for start in starts for k in range(start, start + rows)} == set(range(n))


@pytest.mark.parametrize("edge", [2, 3, 5, 20])
def test_tiles_are_the_kernel(edge, x64):
    x1, x2 = waves(11, 3, 0.0), waves(7, 3, 0.4)
    for other in (x2, None):
        tiled = jax.jit(lambda a, b=other: in_tiles(NET.kernel, a, b, edge))(x1)
        for one, all_at_once in zip(tiled, NET.kernel(x1, other), strict=True):
            np.testing.assert_allclose(one, all_at_once, rtol=1e-12)


def test_gradients_pass_through_tiles(x64):
    x = waves(7, 3, 0.0)
    total = lambda kernel: lambda x: sum(jnp.sum(jnp.cos(jnp.arange(49.0)) * k.ravel()) for k in kernel(x))
    tiled = jax.jit(jax.grad(total(lambda x: in_tiles(NET.kernel, x, None, 3))))(x)
    np.testing.assert_allclose(tiled, jax.jit(jax.grad(total(NET.kernel)))(x), rtol=1e-9, atol=1e-10)


def test_deviations_may_be_traced_through_tiles(monkeypatch, x64):
    """To σ_w, by central differences; at two values of it, so that nothing is left of the first."""
    x = waves(7, 3, 0.0)
    total = lambda W_std: jnp.sum(jnp.cos(fully_connected(8, 1, 1, relu, W_std, 0.1).kernel(x).ntk))
    monkeypatch.setattr(tiles, "TILE", 16)
    for slope in (jax.grad(total), jax.jit(jax.grad(total))):
        for at in (1.2, 1.4):
            difference = (total(at + 1e-5) - total(at - 1e-5)) / 2e-5
            np.testing.assert_allclose(slope(at), difference, rtol=1e-6)
    each = jnp.stack([total(1.2), total(1.4)])
    np.testing.assert_allclose(jax.vmap(total)(jnp.array([1.2, 1.4])), each, rtol=1e-12)


def test_large_kernels_are_computed_in_tiles():
    """Two tiles and a bit: the same entries as those of a few rows alone, and the largest array inside is a tile's."""
    assert [tile_edge(jnp.ones((1, 16, 16, 3)), need) for need in ("mean", "diagonal", "full")] == [512, 32, 2]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1100, 3)))
    k = jax.jit(NET.kernel)(x)
    some = jnp.asarray([0, 5, 366, 367, 733, 734, 1099])
    for one, other in zip(k, NET.kernel(x[some]), strict=True):
        np.testing.assert_allclose(one[some][:, some], other, **tolerance(x, scale=10))
    assert "while" in jax.jit(NET.kernel).lower(x).as_text()
    assert "while" not in jax.jit(NET.kernel).lower(x[: int(TILE**0.5)]).as_text()
