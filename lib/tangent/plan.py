"""Which way to a finite-width tangent kernel is the cheapest, for one network and its inputs."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from lib.checks import check_examples, check_size
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn, is_module
from lib.tangent.coupling import COUPLED, acts_on_batch
from lib.tangent.jacobians import Batch, check_batches, resized, shapes_of
from lib.tangent.taps import NotLayered, backprop, weighted_layers


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
    """The path that `empirical_ntk` takes with the same arguments, and why.

    Nothing is computed, but for whether examples act on each other (`lib.tangent.coupling.acts_on_batch`).

    Args:
        net, params, x1, x2, memory: as of `empirical_ntk`; shapes and dtypes serve where numbers are not known.

    Returns:
        The path; `.reason` says why.

    Raises:
        ValueError, TypeError: as `empirical_ntk`.

    Example:
        >>> import jax.numpy as jnp
        >>> explain_ntk(lambda params, x: x @ params, jnp.zeros((2, 1)), jnp.ones((3, 2))).name
        'jacobian'
    """
    memory = check_size("memory", memory)
    n1, n2 = check_examples("x1", x1), None if x2 is None else check_examples("x2", x2)
    leaves, structure = jax.tree.flatten(shapes_of((as_apply_fn(net), params, x1, x2)))
    measured = _measure(structure, tuple(leaves), acts_on_batch(net, params, x1))
    if measured.layers:
        return _by_layers(measured, memory)
    return _as_a_function(measured, n1, n2, memory)


class _Measured(NamedTuple):
    """What the choice depends on, memory and numbers of examples apart.

    `outputs` is K, `itemsize` the bytes of a number in f, `size` P; `factors` are the bytes of x and δ of all layers
    for one example, where `layers` hold the parameters; else `why` they do not, the operations of a `forward` pass for
    one example and the bytes that are `kept` for the one backwards.
    """

    outputs: int
    itemsize: int
    size: int
    factors: int = 0
    layers: tuple[tuple[str, Any], ...] = ()
    coupled: bool = False
    why: str = ""
    forward: float = 0.0
    kept: int = 0


@lru_cache(maxsize=64)
def _measure(structure: Any, leaves: tuple, coupled: bool) -> _Measured:
    apply_fn, params, x1, x2 = jax.tree.unflatten(structure, leaves)
    f = check_batches(apply_fn, params, x1, x2)
    x1 = resized(x1, max(f.shape[0], 1))
    common = (f.shape[1], f.dtype.itemsize, sum(leaf.size for leaf in jax.tree.leaves(params)))
    why = "the layers of a bare function cannot be seen"
    if coupled:
        why = COUPLED
    elif is_module(apply_fn):
        try:
            weighted = weighted_layers(apply_fn, params, x1)
            factors = _bytes(jax.eval_shape(backprop, apply_fn, params, x1)) // max(f.shape[0], 1)
            return _Measured(*common, factors, tuple((name, call.layer) for name, call in weighted.items()))
        except NotLayered as error:
            why = str(error)
    # What is tied to its number of examples is measured with as many.
    n = max(f.shape[0], 1) if coupled else 1
    forward, kept = _forward_operations(apply_fn, params, x1, n), _kept_bytes(apply_fn, params, x1, n if coupled else 0)
    return _Measured(*common, coupled=coupled, why=why, forward=forward, kept=kept)


def _by_layers(m: _Measured, memory: int) -> NtkPath:
    # Of two blocks x and δ, and as much again for what the backward passes keep. Half of the memory is for products.
    each, pair = 8 * m.factors, 8 * m.outputs**2 * m.itemsize
    rows = int(min(memory / each, (memory / pair) ** 0.5))
    if rows == 0:
        needed = max(each, pair)
        raise ValueError(
            f"`memory` must hold two passes through the network of one example, {needed} bytes, got {memory}"
        )
    reason = "every parameter belongs to one Dense or Conv, so that no Jacobian is needed"
    return NtkPath("layers", reason, rows, layers=m.layers)


def _as_a_function(m: _Measured, n1: int, other: int | None, memory: int) -> NtkPath:
    """The Jacobian or products, whichever takes fewer operations in the room there is."""
    n2 = n1 if other is None else other
    batch1, batch2 = (n1, n2) if m.coupled else (1, 1)  # examples that one derivative runs through
    # Backwards or forwards, a derivative is about two evaluations.
    by_products = n2 * m.outputs * 2 * m.forward * (batch2 + n1)
    by_jacobian = m.outputs * 2 * m.forward * (n1 * batch1 + (0 if other is None else n2 * batch2))
    by_jacobian += n1 * n2 * m.outputs**2 * 2 * m.size / (2 if other is None else 1)
    two_rows = 2 * m.outputs * (m.size * m.itemsize + m.kept * max(batch1, batch2))
    column = 3 * m.size * m.itemsize + m.kept * (batch1 + batch2)
    if by_jacobian <= by_products and two_rows <= memory:
        reason = f"{m.why}; Jacobians take {by_jacobian:.1e} operations and ntk-vector products {by_products:.1e}"
        return NtkPath("jacobian", reason, memory // max(1, two_rows), m.coupled)
    if column > memory:
        raise ValueError(f"`memory` must hold the derivatives of one example, {column} bytes, got {memory}")
    if by_jacobian <= by_products:
        reason = f"{m.why}; the Jacobians of two examples take {two_rows} bytes, more than `memory`"
    else:
        reason = f"{m.why}; ntk-vector products take {by_products:.1e} operations and Jacobians {by_jacobian:.1e}"
    # Examples that act on each other are differentiated together.
    rows = max(n1, n2) if m.coupled else 1 + (memory - column) // max(1, m.kept)
    return NtkPath("products", reason, rows, m.coupled)


def _forward_operations(apply_fn: ApplyFn, params: PyTree, x: Batch, n: int) -> float:
    """Operations of f(θ, x) for each of n examples, as the compiler counts them; else two for each parameter."""
    program = jax.jit(lambda net, params, x: net(params, x)).lower(apply_fn, params, resized(x, n))
    counted = program.cost_analysis() or {}
    return counted.get("flops", 2.0 * n * sum(leaf.size for leaf in jax.tree.leaves(params))) / n


def _kept_bytes(apply_fn: ApplyFn, params: PyTree, x: Batch, n: int) -> int:
    """What a backward pass keeps of each of n examples; for n = 0 what it keeps of two, without what it does of one."""
    backwards = lambda net, params, x: jax.vjp(lambda theta: net(theta, x), params)[1]
    of = lambda n: _bytes(jax.eval_shape(backwards, apply_fn, params, resized(x, n)))
    return of(n) // n if n else of(2) - of(1)


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
