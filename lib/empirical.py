"""The neural tangent kernel of a network at finite width."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lib.linearize import Network, as_apply_fn


def empirical_ntk(
    net: Network, params: PyTree, x1: Array, x2: Array | None = None, memory: int = 2**30
) -> Float[Array, "n1 n2 k k"]:
    """The finite-width neural tangent kernel at given parameters.

    Θ̂(x, x′) = J(x) J(x′)ᵀ, with J(x) = ∇_θ f(θ, x) of shape (K, P)

    Jacobians of a block of examples at a time are contracted, leaf by leaf; with `x2` left out only the blocks on and
    above the diagonal. Examples must not influence each other's outputs: the function is differentiated one example at
    a time, so for batch normalisation this is the wrong kernel.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params: θ, P numbers in all.
        x1: inputs, first axis N1.
        x2: inputs, first axis N2; left out it is `x1`.
        memory: bytes that two blocks of Jacobians may take together.

    Returns:
        Θ̂ (N1, N2, K, K); entry [i, j, a, b] = ⟨∇f_a(x1_i), ∇f_b(x2_j)⟩, in the parameters' dtype.

    Raises:
        ValueError: when `x1` and `x2` differ in anything but their first axis, or `net` does not return (N, K).

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0]])
        >>> empirical_ntk(linear, jnp.zeros((2, 1)), x).item()  # the Gram matrix of x
        5.0

    Source: Lee et al. 2019, eq 4.
    """
    outputs = _check_inputs(net, params, x1, x2)
    itemsize = max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    size = sum(leaf.size for leaf in jax.tree.leaves(params)) * itemsize * outputs
    rows = max(1, int(memory // (2 * size)))

    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    blocks = {}
    for i in range(0, len(x1), rows):
        j1 = _jacobian(net, params, x1[i : i + rows])
        for j in range(i if symmetric else 0, len(x2), rows):
            j2 = j1 if symmetric and i == j else _jacobian(net, params, x2[j : j + rows])
            blocks[i, j] = _contract(j1, j2)
            if symmetric and i != j:
                blocks[j, i] = blocks[i, j].transpose(1, 0, 3, 2)
    return jnp.concatenate(
        [
            jnp.concatenate([blocks[i, j] for j in range(0, len(x2), rows)], axis=1)  # (rows, N2, K, K)
            for i in range(0, len(x1), rows)
        ]
    )


def ntk_vector_product(
    net: Network, params: PyTree, x1: Array, x2: Array, v: Float[Array, "n2 k"]
) -> Float[Array, "n1 k"]:
    """Θ̂(x1, x2) v without forming Θ̂: one vector-Jacobian and one Jacobian-vector product.

    Θ̂ v = J(x1) (J(x2)ᵀ v)

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K). Examples may influence each other.
        params: θ.
        x1, x2: inputs, first axes N1 and N2.
        v: (N2, K).

    Returns:
        (N1, K).

    Raises:
        ValueError: when `v` does not have the shape of the outputs at `x2`.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0]])
        >>> ntk_vector_product(linear, jnp.zeros((2, 1)), x, x, jnp.ones((1, 1))).item()
        5.0

    Source: Lee et al. 2019, eq 4.
    """
    apply_fn = as_apply_fn(net)
    f2, pull_back = jax.vjp(lambda theta: apply_fn(theta, x2), params)
    if v.shape != f2.shape:
        raise ValueError(f"`v` must have the shape (N2, K) = {f2.shape} of the outputs at `x2`, got {v.shape}")
    (omega,) = pull_back(v)
    return jax.jvp(lambda theta: apply_fn(theta, x1), (params,), (omega,))[1]


def _check_inputs(net: Network, params: PyTree, x1: Array, x2: Array | None) -> int:
    """The number of outputs K, after checking that inputs fit each other and the network."""
    if x2 is not None and x2.shape[1:] != x1.shape[1:]:
        raise ValueError(f"`x2` must have the shape of `x1` after its first axis, {x1.shape[1:]}, got {x2.shape[1:]}")
    f = jax.eval_shape(as_apply_fn(net), params, x1)
    if f.ndim != 2 or f.shape[0] != x1.shape[0]:
        raise ValueError(f"`net` must return outputs of shape (N, K) with N = {x1.shape[0]}, got {f.shape}")
    return f.shape[1]


@partial(jax.jit, static_argnums=0)
def _jacobian(net: Network, params: PyTree, x: Array) -> PyTree:
    """∇_θ f of each example: leaves (N, K, *leaf.shape)."""
    apply_fn = as_apply_fn(net)
    one = lambda x_i: jax.jacrev(lambda theta: apply_fn(theta, x_i[None])[0])(params)
    return jax.vmap(one)(x)


@jax.jit
def _contract(j1: PyTree, j2: PyTree) -> Float[Array, "n1 n2 k k"]:
    """Σ over leaves of ⟨J₁, J₂⟩."""

    def leaf(a, b):
        a, b = a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)
        return jnp.einsum("nkp,mlp->nmkl", a, b, precision="highest")

    return jax.tree.reduce(jnp.add, jax.tree.map(leaf, j1, j2))
