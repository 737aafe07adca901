"""The neural tangent kernel of a network at finite width."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from lib.blocks import on_devices
from lib.jacobian import contract, jacobian, products
from lib.layerwise import layer_factors, sum_of_layers
from lib.linearize import Network, as_apply_fn
from lib.paths import NtkPath, explain_ntk


def empirical_ntk(
    net: Network,
    params: PyTree,
    x1: Array,
    x2: Array | None = None,
    memory: int = 2**30,
    mesh: Mesh | None = None,
) -> Float[Array, "n1 n2 k k"]:
    """The finite-width neural tangent kernel at given parameters.

    Θ̂(x, x′) = J(x) J(x′)ᵀ, with J(x) = ∇_θ f(θ, x) of shape (K, P)

    The way there is chosen by the network and the sizes, and `explain_ntk` tells which it is: where every parameter is
    one of Dense or Conv, layer by layer, without a Jacobian; else by the contraction of Jacobians, or column by column
    through ntk-vector products, whichever takes fewer operations. In blocks of examples; with `x2` left out only those
    on and above the diagonal.

    With BatchNorm examples act on each other. Then each batch is differentiated whole, with statistics of its own: Θ̂
    is J(x1) J(x2)ᵀ with f(θ, x1) and f(θ, x2), and Θ̂ of a part of a batch is not a part of Θ̂. BatchNorm is seen in
    Flax modules; the examples of a bare function must not act on each other (`ntk_vector_product` allows it).

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params: θ, P numbers in all.
        x1: inputs, first axis N1.
        x2: inputs, first axis N2; left out it is `x1`.
        memory: bytes that the work on a block may take, the parameters and the result apart.
        mesh: devices that take one block each at a time, as in `kernel_in_blocks`; with it, not traceable.

    Returns:
        Θ̂ (N1, N2, K, K); entry [i, j, a, b] = ⟨∇f_a(x1_i), ∇f_b(x2_j)⟩, in the parameters' dtype.

    Raises:
        ValueError: when `x1` and `x2` differ in anything but their first axis, `net` does not return (N, K), or a
            single example takes more than `memory`.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0]])
        >>> empirical_ntk(linear, jnp.zeros((2, 1)), x).item()  # the Gram matrix of x
        5.0

    Source: Lee et al. 2019, eq 4.
    """
    path = explain_ntk(net, params, x1, x2, memory)
    if mesh is None and max(len(x1), 0 if x2 is None else len(x2)) <= path.rows:
        return _at_once(net, path, memory, params, x1, x2)
    symmetric = x2 is None
    x2 = x1 if symmetric else x2
    (starts1, rows1), (starts2, rows2) = (_starts(len(x), path.rows) for x in (x1, x2))
    corners = [(i, j) for i in starts1 for j in starts2 if i <= j or not symmetric]
    steps = _steps(net, path, memory)

    def block(inputs: tuple[PyTree, Array, Array], i: Array, j: Array) -> Array:
        params, x1, x2 = inputs
        return steps.contract(params, steps.factors(params, x1, i, rows1), steps.factors(params, x2, j, rows2))

    if mesh is None:
        results = _one_by_one(steps, (params, x1, x2), corners, (rows1, rows2), symmetric)
    else:
        results = on_devices(block, (params, x1, x2), corners, mesh)
    blocks = {}
    for (i, j), theta in tqdm(results, "blocks of the empirical kernel", len(corners), disable=None):
        blocks[i, j] = theta
        if symmetric and i != j:
            blocks[j, i] = theta.transpose(1, 0, 3, 2)
    # A block counts up to where the next one starts.
    new1, new2 = (dict(zip(s, np.diff([*s, len(x)]), strict=True)) for s, x in ((starts1, x1), (starts2, x2)))
    row = lambda i: jnp.concatenate([blocks[i, j][: new1[i], : new2[j]] for j in starts2], axis=1)
    return jnp.concatenate([row(i) for i in starts1])


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


class _Steps(NamedTuple):
    """A path as code: what is kept of a block of examples, and Θ̂ of two such blocks."""

    factors: Callable[[PyTree, Array, Any, int], PyTree]
    contract: Callable[[PyTree, PyTree, PyTree | None], Array]


def _steps(net: Network, path: NtkPath, memory: int) -> _Steps:
    """`factors(params, x, start, rows)` and `contract(params, one, two)`; `two=None` means that the two are one."""
    part = lax.dynamic_slice_in_dim
    if path.name == "layers":
        return _Steps(
            lambda params, x, start, rows: layer_factors(net, params, part(x, start, rows)),
            lambda params, one, two: sum_of_layers(path.layers, memory // 2, one, two),
        )
    if path.name == "jacobian":
        return _Steps(
            lambda params, x, start, rows: jacobian(net, path.coupled, rows, params, x, start),
            lambda params, one, two: contract(one, one if two is None else two),
        )
    return _Steps(
        lambda params, x, start, rows: part(x, start, rows),
        lambda params, one, two: products(net, path.coupled, params, one, one if two is None else two),
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _at_once(net: Network, path: NtkPath, memory: int, params: PyTree, x1: Array, x2: Array | None) -> Array:
    """A single block, as one program."""
    steps = _steps(net, path, memory)
    one = steps.factors(params, x1, 0, len(x1))
    return steps.contract(params, one, None if x2 is None else steps.factors(params, x2, 0, len(x2)))


def _one_by_one(steps: _Steps, inputs: tuple, corners: list, rows: tuple[int, int], symmetric: bool) -> Iterator[tuple]:
    """(corner, block) of each corner; what is kept of the first batch serves a row of blocks."""
    params, x1, x2 = inputs
    for i, row in groupby(corners, key=itemgetter(0)):
        one = steps.factors(params, x1, i, rows[0])
        for _, j in row:
            two = None if symmetric and i == j else steps.factors(params, x2, j, rows[1])
            yield (i, j), steps.contract(params, one, two)


def _starts(n: int, most: int) -> tuple[list[int], int]:
    """Where blocks of at most so many of n examples start, and their rows: of one shape, the last two may overlap."""
    count = -(-n // min(most, n))
    rows = -(-n // count)
    return [min(k * rows, n - rows) for k in range(count)], rows
