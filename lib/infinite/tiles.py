"""A kernel tile by tile, each small enough for the processor's cache."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lib.infinite.kernel import Kernel

# Numbers in one tile of a layer's covariances: a megabyte or two, as a core's cache holds.
TILE = 2**18


def in_tiles(kernel: Callable[..., Kernel], x1: Array, x2: Array | None, edge: int) -> Kernel:
    """`kernel(x1, x2)` by tiles of at most `edge` rows and columns, one after another; on and above the diagonal alone
    where `x2` is left out.

    Elementwise steps over N1 × N2 numbers wait for memory, and those over a tile do not. To be called inside `jax.jit`:
    a bare loop is compiled anew at each call.

    Args:
        kernel: of two batches, or of one with itself; traceable.
        x1: inputs, (N1, ...).
        x2: inputs, (N2, ...), or None.
        edge: rows and columns of a tile.

    Returns:
        Kernel(nngp, ntk), each (N1, N2).

    Example:
        >>> gram = lambda a, b=None: Kernel(a @ (a if b is None else b).T, jnp.zeros((len(a), len(a))))
        >>> in_tiles(gram, jnp.eye(5), None, edge=2).nngp.tolist() == jnp.eye(5).tolist()
        True
    """
    rows = _tiles(x1, edge)
    columns = rows if x2 is None else _tiles(x2, edge)
    m1, m2 = len(rows), len(columns)
    i, j = np.triu_indices(m1, 1) if x2 is None else np.indices((m1, m2)).reshape(2, -1)
    tiles = lax.map(lambda at: kernel(rows[at[0]], columns[at[1]]), (jnp.asarray(i), jnp.asarray(j)))
    on_diagonal = lax.map(kernel, rows) if x2 is None else (None, None)

    def whole(tiles: Array, on_diagonal: Array | None) -> Array:
        k = jnp.zeros((m1, m2, *tiles.shape[1:]), tiles.dtype).at[i, j].set(tiles)
        if x2 is None:
            k = k.at[j, i].set(tiles.mT).at[np.arange(m1), np.arange(m1)].set(on_diagonal)
        k = k.swapaxes(1, 2).reshape(m1 * k.shape[2], m2 * k.shape[3])
        return k[: len(x1), : len(x1 if x2 is None else x2)]

    return Kernel(*map(whole, tiles, on_diagonal))


def even_blocks(n: int, most: int) -> tuple[int, int]:
    """How many blocks of at most so many of n things there are, as even as they can be, and the size of the largest.

    Example:
        >>> even_blocks(10, 4)
        (3, 4)
    """
    count = -(-n // min(most, n))
    return count, -(-n // count)


def block_starts(n: int, most: int) -> tuple[list[int], int]:
    """Where blocks of at most so many of n rows start, and their size: it is one, so that the last two may overlap.

    Example:
        >>> block_starts(10, 4)
        ([0, 4, 6], 4)
    """
    count, rows = even_blocks(n, most)
    return [min(k * rows, n - rows) for k in range(count)], rows


def tile_edge(x: Array, need: str) -> int:
    """Rows of a square tile, for what a network needs of its inputs."""
    positions = {"diagonal": 1, "full": 2}.get(need, 0)
    return max(2, math.isqrt(TILE // math.prod(x.shape[1:-1]) ** positions))


def _tiles(x: Array, edge: int) -> Array:
    """(N, ...) → (tiles, rows, ...), as even as they can be; the last is filled with the first input."""
    count, rows = even_blocks(len(x), edge)
    filling = jnp.broadcast_to(x[:1], (count * rows - len(x), *x.shape[1:]))
    return jnp.concatenate([x, filling]).reshape(count, rows, *x.shape[1:])
