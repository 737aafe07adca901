"""The finite-width tangent kernel of any function of parameters and inputs: by Jacobians, or by products with vectors.

Where `coupled` is true, examples may act on each other, and each batch is differentiated whole; else one example at a
time. Inputs are arrays or pytrees of them, with examples along the first axis of each.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from lib.checks import check_examples, check_params
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn

# Inputs, of which shape and dtype matter alone.
Batch = PyTree[Array | jax.ShapeDtypeStruct]


@partial(jax.jit, static_argnums=(1, 2))
def jacobian(apply_fn: ApplyFn, coupled: bool, rows: int, params: PyTree, x: PyTree, start: Any) -> PyTree:
    """∇_θ f of the examples from `start` on, `rows` of them: leaves (rows, K, *leaf.shape).

    Example:
        >>> linear = as_apply_fn(lambda params, x: x @ params)
        >>> jacobian(linear, False, 1, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0], [3.0, 4.0]]), 1).ravel().tolist()
        [3.0, 4.0]
    """
    if not coupled:
        one = lambda x_i: jax.jacrev(lambda theta: apply_fn(theta, _as_batch(x_i))[0])(params)
        return jax.vmap(one)(part(x, start, rows))
    f, pull_back = jax.vjp(lambda theta: apply_fn(theta, x), params)
    return lax.map(lambda i: jax.vmap(pull_back)(_units(i, f))[0], start + jnp.arange(rows))


@jax.jit
def contract(j1: PyTree, j2: PyTree) -> Float[Array, "n1 n2 k k"]:
    """Σ over leaves of ⟨J₁, J₂⟩."""
    flat = lambda leaf: leaf.reshape(*leaf.shape[:2], -1)
    shares = jax.tree.map(lambda a, b: inner_products(flat(a), flat(b)), j1, j2)
    return jax.tree.reduce(jnp.add, shares).transpose(0, 2, 1, 3)


def inner_products(a: Array, b: Array) -> Array:
    """⟨a_i, b_j⟩ over the last axis, for all i and j of the axes before it: (*i, *j).

    One product of two matrices: of arrays with more axes XLA would first copy one, transposed.
    """
    rows = lambda array: array.reshape(-1, array.shape[-1])
    matrix = jnp.einsum("ap,bp->ab", rows(a), rows(b), precision="highest")
    return matrix.reshape(*a.shape[:-1], *b.shape[:-1])


@partial(jax.jit, static_argnums=1)
def products(apply_fn: ApplyFn, coupled: bool, params: PyTree, x1: PyTree, x2: PyTree) -> Float[Array, "n1 n2 k k"]:
    """Θ̂ column by column, J(x1) (J(x2)ᵀ e), of which each takes the memory of the parameters.

    Example:
        >>> linear = as_apply_fn(lambda params, x: x @ params)
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> products(linear, False, jnp.zeros((2, 1)), x, x)[:, :, 0, 0].tolist()
        [[5.0, 11.0], [11.0, 25.0]]
    """
    push = jax.linearize(lambda theta: apply_fn(theta, x1), params)[1]
    backwards = lambda x: jax.vjp(lambda theta: apply_fn(theta, x), params)
    batch = backwards(x2) if coupled else None

    def columns(m: Array) -> Array:  # (K, N1, K), those of one example of x2
        f, pull_back = batch or backwards(part(x2, m, 1))
        return lax.map(lambda v: push(*pull_back(v)), _units(m if coupled else 0, f))

    return lax.map(columns, jnp.arange(check_examples("x2", x2))).transpose(2, 0, 3, 1)


def part(x: PyTree, start: Any, rows: int) -> PyTree:
    """The examples from `start` on, `rows` of them."""
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, rows), x)


def shapes_of(tree: PyTree) -> PyTree:
    """The shape and dtype of every array."""
    shape = lambda leaf: (
        (leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else (jnp.shape(leaf), jnp.result_type(leaf))
    )
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(*shape(leaf)), tree)


def resized(x: Batch, n: int) -> Batch:
    """The shapes and dtypes of n such examples."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype), shapes_of(x))


def check_batches(net: Network, params: PyTree, x1: Batch, x2: Batch | None = None) -> jax.ShapeDtypeStruct:
    """The shape and dtype of f(θ, x1), after checking that inputs fit each other and the network."""
    check_params("params", params)
    n = check_examples("x1", x1)
    after = lambda x: jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], x)
    if x2 is not None and check_examples("x2", x2) >= 0 and after(x2) != after(x1):
        raise ValueError(f"`x2` must have the shape of `x1` after its first axis, {after(x1)}, got {after(x2)}")
    f = outputs_of(net, params, x1)
    shape = jax.tree.map(lambda leaf: leaf.shape, f)
    if not hasattr(f, "ndim") or f.ndim != 2 or f.shape[0] != n:
        raise ValueError(
            f"`net` must return outputs of shape (N, K) with N = {n}, got {shape}; of several arrays take one, as in "
            "lambda params, x: apply_fn(params, x)[0]"
        )
    return f


def outputs_of(net: Network, params: PyTree, x: Batch) -> PyTree:
    """The shape and dtype of f(θ, x), real numbers; of no examples too, though many a network cannot take them."""
    if any(jnp.shape(leaf)[:1] == (0,) for leaf in jax.tree.leaves(x)):
        return resized(outputs_of(net, params, resized(x, 1)), 0)
    f = jax.eval_shape(lambda net, params, x: net(params, x), as_apply_fn(net), params, x)
    for leaf in jax.tree.leaves(f):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"`net` must return real floating-point numbers, got {leaf.dtype}; take the real part")
    return f


def _as_batch(example: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None], example)


def _units(i: Array | int, f: Array) -> Array:
    """The unit vectors of example i's outputs, (K, N, K)."""
    outputs = f.shape[1]
    return jnp.zeros((outputs, *f.shape), f.dtype).at[:, i].set(jnp.eye(outputs, dtype=f.dtype))
