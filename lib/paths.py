"""Which way to a finite-width tangent kernel is the cheapest, for one network and its inputs."""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import PyTree

from lib.backprop import NotLayered, acts_on_batch, backprop, weighted_layers
from lib.checks import check_size
from lib.jacobian import Batch, check_batches
from lib.linearize import Network, as_apply_fn


class NtkPath(NamedTuple):
    """How `empirical_ntk` goes about one network and its inputs.

    Attributes:
        name: "layers", by the layers' inputs and the derivatives by their outputs; "jacobian", by the contraction of
            Jacobians; "products", column by column through ntk-vector products.
        reason: why, in a sentence.
        rows: examples in a block, so that two blocks keep to the memory.
        coupled: whether examples act on each other, and each batch is differentiated whole.
        layers: the (name, layer) that hold the parameters, where the name of the path is "layers".
    """

    name: str
    reason: str
    rows: int
    coupled: bool = False
    layers: tuple[tuple[str, Any], ...] = ()


def explain_ntk(net: Network, params: PyTree, x1: Batch, x2: Batch | None = None, memory: int = 2**30) -> NtkPath:
    """The path that `empirical_ntk` takes with the same arguments, and why. Nothing is computed.

    Args:
        net, params, x1, x2, memory: as of `empirical_ntk`; of arrays, shapes and dtypes matter alone.

    Returns:
        The path; `.reason` says why.

    Raises:
        ValueError: as `empirical_ntk`.

    Example:
        >>> import jax.numpy as jnp
        >>> explain_ntk(lambda params, x: x @ params, jnp.zeros((2, 1)), jnp.ones((3, 2))).name
        'jacobian'
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, x1, x2))
    leaves, structure = jax.tree.flatten(shapes)
    return _path(net, structure, tuple(leaves), check_size("memory", memory))


@lru_cache(maxsize=64)
def _path(net: Network, structure: Any, leaves: tuple, memory: int) -> NtkPath:
    params, x1, x2 = jax.tree.unflatten(structure, leaves)
    outputs = check_batches(net, params, x1, x2)
    if not isinstance(net, nn.Module):
        return _generic(net, params, x1, x2, memory, False, "the layers of a bare function cannot be seen")
    try:
        layers = weighted_layers(net, params, x1)
    except NotLayered as error:
        return _generic(net, params, x1, x2, memory, acts_on_batch(net, params, x1), str(error))
    factors = jax.tree.leaves(jax.eval_shape(partial(backprop, net), params, x1))
    # Of each block x and δ, and as much again for what the backward passes keep. Half of the memory is for products.
    each = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in factors) / x1.shape[0]
    products = 8 * outputs**2 * factors[0].dtype.itemsize
    rows = int(min(memory / 2 / (2 * each), (memory / products) ** 0.5))
    if rows == 0:
        needed = int(max(4 * each, products))
        raise ValueError(
            f"`memory` must hold two passes through the network of one example, {needed} bytes, got {memory}"
        )
    reason = "every parameter belongs to one Dense or Conv, so that no Jacobian is needed"
    return NtkPath("layers", reason, rows, layers=tuple((name, call.layer) for name, call in layers.items()))


def _generic(net: Network, params: PyTree, x1: Any, x2: Any, memory: int, coupled: bool, why: str) -> NtkPath:
    """The Jacobian or products, whichever takes fewer operations in the room there is."""
    f = jax.eval_shape(as_apply_fn(net), params, x1)
    n1, n2, outputs, itemsize = x1.shape[0], (x1 if x2 is None else x2).shape[0], f.shape[1], f.dtype.itemsize
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    forward, kept = _forward_operations(net, params, x1), _kept_bytes(net, params, x1)
    batch1, batch2 = (n1, n2) if coupled else (1, 1)  # examples that one derivative runs through
    # Backwards or forwards, a derivative is about two evaluations.
    by_products = n2 * outputs * 2 * forward * (batch2 + n1)
    by_jacobian = outputs * 2 * forward * (n1 * batch1 + (0 if x2 is None else n2 * batch2))
    by_jacobian += n1 * n2 * outputs**2 * 2 * size / (2 if x2 is None else 1)
    row = outputs * (size * itemsize + kept * max(batch1, batch2))
    column = 3 * size * itemsize + kept * (batch1 + batch2)
    rows = memory // (2 * row)
    if rows and by_jacobian <= by_products:
        reason = f"Jacobians take {by_jacobian:.1e} operations and ntk-vector products {by_products:.1e}"
        return NtkPath("jacobian", f"{why}; {reason}", rows, coupled)
    if column > memory:
        raise ValueError(f"`memory` must hold the derivatives of one example, {column} bytes, got {memory}")
    reason = f"ntk-vector products take {by_products:.1e} operations and Jacobians {by_jacobian:.1e}"
    if by_jacobian <= by_products:
        reason = f"the Jacobians of two examples take {2 * row} bytes, more than `memory`"
    # Examples that act on each other are differentiated together, in however many columns.
    rows = max(n1, n2) if coupled else max(1, (memory - 3 * size * itemsize) // max(1, kept))
    return NtkPath("products", f"{why}; {reason}", rows, coupled)


def _forward_operations(net: Network, params: PyTree, x: Any) -> float:
    """Operations of f(θ, x) for one example, as the compiler counts them; where it does not, two for each parameter."""
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    counted = jax.jit(as_apply_fn(net)).lower(params, one).cost_analysis() or {}
    return counted.get("flops", 2.0 * sum(leaf.size for leaf in jax.tree.leaves(params)))


def _kept_bytes(net: Network, params: PyTree, x: Any) -> int:
    """What a backward pass keeps of each example: what it keeps of two, without what it keeps of one."""

    def kept(n: int) -> int:
        batch = jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
        pull_back = jax.eval_shape(lambda p, x: jax.vjp(lambda q: as_apply_fn(net)(q, x), p)[1], params, batch)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull_back))

    return kept(2) - kept(1)
