"""Kernels that do not fit at once: blocks of a stated memory, over the devices at hand."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree
from tqdm import tqdm

from lib.checks import check_size
from lib.infinite.kernel import Kernel
from lib.infinite.tiles import block_starts
from lib.networks.sequential import Sequential

# Inputs on the host go to each device from there.
Batch = Array | np.ndarray


def kernel_in_blocks(
    net: Sequential, x1: Batch, x2: Batch | None = None, memory: int = 2**30, mesh: Mesh | None = None
) -> Kernel:
    """`net.kernel(x1, x2)` block by block, for inputs whose pairs do not fit into memory at once.

    All blocks have one shape, the largest whose compiled program keeps to `memory`; with `x2` left out only those on
    and above the diagonal are computed. While a block is copied to the host the next one is computed. The kernel stays
    there, as NumPy arrays that JAX takes like its own, and on every process where there are several: each runs this
    same line on the same inputs. Not traceable; inputs are copied to each device whole.

    Args:
        net: a network with an infinite face.
        x1: inputs, (N1, ...).
        x2: inputs, (N2, ...); left out it is `x1`.
        memory: bytes that blocks may take on a device, all that the network computes between included: one is under way
            while another is copied.
        mesh: devices that take one block each at a time; left out, the first device alone.

    Returns:
        Kernel(nngp, ntk), each a NumPy array (N1, N2), in the inputs' dtype.

    Raises:
        TypeError: when `net` has no kernel.
        ValueError: when a single pair of inputs takes more than `memory`, and where `net.kernel` raises it.

    Example:
        >>> from lib import fully_connected, relu
        >>> net = fully_connected(64, depth=1, outputs=1, activation=relu, W_std=1.5, b_std=0.1)
        >>> x = jax.numpy.eye(6)
        >>> k = kernel_in_blocks(net, x, memory=4000)
        >>> bool(abs(k.ntk - net.kernel(x).ntk).max() < 1e-5)
        True

    Source: Lee et al. 2019, eqs S26 and S29.
    """
    if not hasattr(net, "kernel"):
        raise TypeError(f"`net` must be a network of layers, such as Sequential, got {type(net).__name__}")
    memory = check_size("memory", memory)
    symmetric = x2 is None
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("blocks",)) if mesh is None else mesh
    other = x1 if symmetric else x2
    n1, n2 = len(x1), len(other)
    dtype = jax.eval_shape(net.kernel, _rows(x1, 1), _rows(other, 1)).nngp.dtype
    kernel = Kernel(*(np.empty((n1, n2), dtype) for _ in Kernel._fields))  # pyright: ignore[reportArgumentType]
    if not n1 or not n2:
        return kernel
    edge = _largest_edge(net, x1, other, memory)
    (starts1, rows1), (starts2, rows2) = block_starts(n1, edge), block_starts(n2, edge)
    corners = [(i, j) for i in starts1 for j in starts2 if i <= j or not symmetric]
    inputs = _put((x1, other), mesh)
    with tqdm(total=len(corners), desc="blocks of the kernel", disable=None) as progress:
        # Those on the diagonal last, because the last row of blocks may overlap with the one before.
        for on_diagonal in (False, True):
            chosen = [(i, j) for i, j in corners if (symmetric and i == j) == on_diagonal]
            block = _Block(net, rows1, rows2, on_diagonal)
            for (i, j), parts in on_devices(block, inputs, chosen, mesh):
                rows, columns = slice(i, i + rows1), slice(j, j + rows2)
                for whole, part in zip(kernel, parts, strict=True):
                    whole[rows, columns] = part
                    if symmetric:
                        whole[columns, rows] = part.T
                progress.update()
    return kernel


class _Block(NamedTuple):
    """The kernel of some inputs and some others, from row i and from column j on."""

    net: Sequential
    rows1: int
    rows2: int
    on_diagonal: bool

    def __call__(self, inputs: tuple[Array, Array], i: Array, j: Array) -> Kernel:
        a = lax.dynamic_slice_in_dim(inputs[0], i, self.rows1)
        b = lax.dynamic_slice_in_dim(inputs[1], j, self.rows2)
        return self.net.kernel(a) if self.on_diagonal else self.net.kernel(a, b)


def on_devices(block: Callable, inputs: PyTree, corners: list[tuple[int, int]], mesh: Mesh) -> Iterator[tuple]:
    """(corner, `block(inputs, *corner)` on the host) of each corner, as many at a time as there are devices.

    While results are fetched, those of the next corners are under way. Blocks that are equal share a program.
    """
    program = partial(_one_each, block, mesh)
    # Processes talk here alone, of one group at a time: messages of two that are under way could be mistaken.
    gather = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, PartitionSpec()))
    fetch = lambda leaf: np.asarray(leaf if leaf.is_fully_addressable else gather(leaf))
    inputs = _put(inputs, mesh)
    groups = [corners[start : start + mesh.size] for start in range(0, len(corners), mesh.size)]
    launched = (program(inputs, np.asarray(group + group[-1:] * (mesh.size - len(group)))) for group in groups)
    under_way = next(launched, None)
    for group in groups:
        done, under_way = under_way, next(launched, None)
        results = jax.tree.map(fetch, done)
        for k, corner in enumerate(group):
            yield corner, jax.tree.map(lambda leaf, k=k: leaf[k], results)


@partial(jax.jit, static_argnums=(0, 1))
def _one_each(block: Callable, mesh: Mesh, inputs: PyTree, corners: Array) -> PyTree:
    """The block of one corner on each device, and so the results of all along a first axis."""

    def own(inputs: PyTree, corners: Array) -> PyTree:
        results = block(inputs, *corners[lax.axis_index(mesh.axis_names)])
        return jax.tree.map(lambda leaf: leaf[None], results)

    everywhere, apart = PartitionSpec(), PartitionSpec(mesh.axis_names)
    return jax.shard_map(own, mesh=mesh, in_specs=everywhere, out_specs=apart, check_vma=False)(inputs, corners)


def _put(inputs: PyTree, mesh: Mesh) -> PyTree:
    """The inputs on each device of the mesh, once, even where two of them are one array."""
    arrays = {id(leaf): leaf for leaf in jax.tree.leaves(inputs)}
    there = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
    return jax.tree.map(lambda leaf: there[id(leaf)], inputs)


def _largest_edge(net: Any, x1: Batch, x2: Batch, memory: int) -> int:
    """Rows of the largest square block that fits, to a fifth or so, from what the compiler says larger ones take."""
    entry = jax.eval_shape(net.kernel, _rows(x1, 1), _rows(x2, 1)).nngp.dtype.itemsize  # bytes
    results = 2 * entry
    edge = max(1, min(len(x1), len(x2), int((memory / results) ** 0.5)))
    while (needed := block_bytes(net, x1, x2, edge)) > memory:
        if edge == 1:
            raise ValueError(f"`memory` must hold a block of one pair of inputs, {needed} bytes, got {memory}")
        # About quadratic in the edge, and where it is less, this stays above the largest.
        edge = max(1, int(edge * min(0.9, (memory / needed) ** 0.5)))
    return edge


def block_bytes(net: Any, x1: Batch, x2: Batch, edge: int) -> int:
    """What compiled kernels of two batches of `edge` inputs take: the inputs, and all else for those under way."""
    return _block_bytes(net, _rows(x1, edge), _rows(x2, edge))


@lru_cache(maxsize=64)
def _block_bytes(net: Any, rows1: jax.ShapeDtypeStruct, rows2: jax.ShapeDtypeStruct) -> int:
    stats: Any = jax.jit(net.kernel).lower(rows1, rows2).compile().memory_analysis()
    # One is computed while another waits for it to end, or is copied, and the last one is written into the whole.
    return stats.argument_size_in_bytes + 3 * stats.output_size_in_bytes + 2 * stats.temp_size_in_bytes


def _rows(x: Batch, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
