"""The finite-width tangent kernel of any function of parameters and inputs: by Jacobians, or by products with vectors.

Where `coupled` is true, examples may act on each other, and each batch is differentiated whole; else one example at a
time.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from lib.linearize import Network, as_apply_fn

# Inputs, of which shape and dtype matter alone.
Batch = Array | jax.ShapeDtypeStruct


@partial(jax.jit, static_argnums=(0, 1, 2))
def jacobian(net: Network, coupled: bool, rows: int, params: PyTree, x: Array, start: Any) -> PyTree:
    """∇_θ f of the examples from `start` on, `rows` of them: leaves (rows, K, *leaf.shape).

    Example:
        >>> linear = lambda params, x: x @ params
        >>> jacobian(linear, False, 1, jnp.zeros((2, 1)), jnp.array([[1.0, 2.0], [3.0, 4.0]]), 1).ravel().tolist()
        [3.0, 4.0]
    """
    apply_fn = as_apply_fn(net)
    if not coupled:
        one = lambda x_i: jax.jacrev(lambda theta: apply_fn(theta, x_i[None])[0])(params)
        return jax.vmap(one)(lax.dynamic_slice_in_dim(x, start, rows))
    f, pull_back = jax.vjp(lambda theta: apply_fn(theta, x), params)
    return lax.map(lambda i: jax.vmap(pull_back)(_outputs_of(i, f))[0], start + jnp.arange(rows))


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


@partial(jax.jit, static_argnums=(0, 1))
def products(net: Network, coupled: bool, params: PyTree, x1: Array, x2: Array) -> Float[Array, "n1 n2 k k"]:
    """Θ̂ column by column, J(x1) (J(x2)ᵀ e), of which each takes the memory of the parameters.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> products(linear, False, jnp.zeros((2, 1)), x, x)[:, :, 0, 0].tolist()
        [[5.0, 11.0], [11.0, 25.0]]
    """
    apply_fn = as_apply_fn(net)
    push = jax.linearize(lambda theta: apply_fn(theta, x1), params)[1]
    backwards = lambda x: jax.vjp(lambda theta: apply_fn(theta, x), params)
    batch = backwards(x2) if coupled else None

    def columns(m: Array) -> Array:  # (K, N1, K), those of one example of x2
        f, pull_back = batch or backwards(lax.dynamic_slice_in_dim(x2, m, 1))
        return lax.map(lambda v: push(*pull_back(v)), _outputs_of(m if coupled else 0, f))

    return lax.map(columns, jnp.arange(len(x2))).transpose(2, 0, 3, 1)


def check_batches(net: Network, params: PyTree, x1: Batch, x2: Batch | None) -> jax.ShapeDtypeStruct:
    """The shape and dtype of f(θ, x1), after checking that inputs fit each other and the network."""
    if x2 is not None and x2.shape[1:] != x1.shape[1:]:
        raise ValueError(f"`x2` must have the shape of `x1` after its first axis, {x1.shape[1:]}, got {x2.shape[1:]}")
    f = jax.eval_shape(as_apply_fn(net), params, x1)
    if f.ndim != 2 or f.shape[0] != x1.shape[0]:
        raise ValueError(f"`net` must return outputs of shape (N, K) with N = {x1.shape[0]}, got {f.shape}")
    return f


def _outputs_of(i: Array | int, f: Array) -> Array:
    """The unit vectors of example i's outputs, (K, N, K)."""
    outputs = f.shape[1]
    return jnp.zeros((outputs, *f.shape), f.dtype).at[:, i].set(jnp.eye(outputs, dtype=f.dtype))
