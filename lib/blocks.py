"""Kernels that do not fit at once: blocks of a stated memory, over the devices at hand."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree
from tqdm import tqdm

from lib.checks import check_size
from lib.kernels import Kernel
from lib.layers import Sequential


def kernel_in_blocks(
    net: Sequential, x1: Array, x2: Array | None = None, memory: int = 2**30, mesh: Mesh | None = None
) -> Kernel:
    """`net.kernel(x1, x2)` block by block, for inputs whose pairs do not fit into memory at once.

    All blocks have one shape, the largest whose compiled program keeps to `memory`; with `x2` left out only those on
    and above the diagonal are computed. Results are collected on the host, and on every process where there are
    several: each runs this same line on the same inputs. Not traceable; inputs are copied to each device whole.

    Args:
        net: a network with an infinite face.
        x1: inputs, (N1, ...).
        x2: inputs, (N2, ...); left out it is `x1`.
        memory: bytes that a block may take on its device, all that the network computes between included.
        mesh: devices that take one block each at a time; left out, the first device alone.

    Returns:
        Kernel(nngp, ntk), each (N1, N2), in the inputs' dtype.

    Raises:
        TypeError: when `net` has no kernel.
        ValueError: when a single pair of inputs takes more than `memory`, and where `net.kernel` raises it.

    Example:
        >>> from lib import fully_connected, relu
        >>> net = fully_connected(64, depth=1, outputs=1, activation=relu, W_std=1.5, b_std=0.1)
        >>> k = kernel_in_blocks(net, jnp.eye(6), memory=4000)
        >>> bool(abs(k.ntk - net.kernel(jnp.eye(6)).ntk).max() < 1e-5)
        True

    Source: Lee et al. 2019, eqs S26 and S29.
    """
    if not hasattr(net, "kernel"):
        raise TypeError(f"`net` must be a network of layers, such as Sequential, got {type(net).__name__}")
    memory = check_size("memory", memory)
    symmetric = x2 is None
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("blocks",)) if mesh is None else mesh
    shape = jax.eval_shape(net.kernel, x1, *([] if symmetric else [x2])).nngp
    other = x1 if symmetric else x2
    edge = _largest_edge(net, x1, other, memory)
    n1, n2 = shape.shape
    corners = _corners(n1, n2, edge, symmetric)
    nngp, ntk = (np.empty(shape.shape, shape.dtype) for _ in range(2))
    with tqdm(total=len(corners), desc="blocks of the kernel", disable=None) as progress:
        # Those on the diagonal last, because the last row of blocks may overlap with the one before.
        for on_diagonal in (False, True):
            chosen = [(i, j) for i, j in corners if (symmetric and i == j) == on_diagonal]
            block = partial(_block, net, edge, on_diagonal)
            for (i, j), kernel in on_devices(block, (x1, other), chosen, mesh):
                rows, columns = slice(i, i + edge), slice(j, j + edge)
                for whole, part in zip((nngp, ntk), kernel, strict=True):
                    whole[rows, columns] = part
                    if symmetric:
                        whole[columns, rows] = part.T
                progress.update()
    return Kernel(jnp.asarray(nngp), jnp.asarray(ntk))


def _block(net: Sequential, edge: int, on_diagonal: bool, inputs: tuple[Array, Array], i: Array, j: Array) -> Kernel:
    a, b = (lax.dynamic_slice_in_dim(x, start, edge) for x, start in zip(inputs, (i, j), strict=True))
    return net.kernel(a) if on_diagonal else net.kernel(a, b)


def on_devices(block: Callable, inputs: PyTree, corners: list[tuple[int, int]], mesh: Mesh) -> Iterator[tuple]:
    """(corner, `block(inputs, *corner)` on the host) of each corner, as many at a time as there are devices."""

    def one_each(inputs: PyTree, corners: Array) -> PyTree:
        return lax.all_gather(block(inputs, *corners[lax.axis_index(mesh.axis_names)]), mesh.axis_names)

    everywhere = PartitionSpec()
    # Every process holds the result of all: what leaves the program is the same everywhere, which JAX need not prove.
    program = jax.jit(jax.shard_map(one_each, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False))
    inputs = jax.tree.map(np.asarray, inputs)
    for start in range(0, len(corners), mesh.size):
        group = corners[start : start + mesh.size]
        padded = group + group[-1:] * (mesh.size - len(group))
        results = jax.tree.map(np.asarray, program(inputs, np.asarray(padded)))
        for k, corner in enumerate(group):
            yield corner, jax.tree.map(lambda leaf, k=k: leaf[k], results)


def _corners(n1: int, n2: int, edge: int, symmetric: bool) -> list[tuple[int, int]]:
    """First row and column of each block; the last ones end where the kernel does, and overlap with those before."""
    rows, columns = ([min(i, n - edge) for i in range(0, n, edge)] for n in (n1, n2))
    return [(i, j) for i in rows for j in columns if i <= j or not symmetric]


def _largest_edge(net: Any, x1: Array, x2: Array, memory: int) -> int:
    """Rows of the largest square block that fits, to a fifth or so, from what the compiler says larger ones take."""
    results = 2 * jax.eval_shape(net.kernel, x1[:1], x2[:1]).nngp.dtype.itemsize  # bytes of a pair's two entries
    edge = max(1, min(len(x1), len(x2), int((memory / results) ** 0.5)))
    while (needed := block_bytes(net, x1, x2, edge)) > memory:
        if edge == 1:
            raise ValueError(f"`memory` must hold a block of one pair of inputs, {needed} bytes, got {memory}")
        # About quadratic in the edge, and where it is less, this stays above the largest.
        edge = max(1, int(edge * min(0.9, (memory / needed) ** 0.5)))
    return edge


def block_bytes(net: Any, x1: Array, x2: Array, edge: int) -> int:
    """What the compiled kernel of two batches of `edge` inputs takes: its inputs, its outputs and what is between."""
    a, b = (jax.ShapeDtypeStruct((edge, *x.shape[1:]), x.dtype) for x in (x1, x2))
    stats: Any = jax.jit(net.kernel).lower(a, b).compile().memory_analysis()
    return stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
