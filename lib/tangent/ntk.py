"""The neural tangent kernel of a network at finite width."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from lib.checks import check_examples, check_params
from lib.infinite.tiles import block_starts
from lib.networks.large import on_devices
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn
from lib.tangent.jacobians import check_batches, contract, jacobian, outputs_of, part, products
from lib.tangent.layerwise import layer_factors, sum_of_layers
from lib.tangent.plan import NtkPath, explain_ntk

# A network and its parameters.
Model = tuple[ApplyFn, PyTree]


def empirical_ntk(
    net: Network,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
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
    is J(x1) J(x2)ᵀ with f(θ, x1) and f(θ, x2), and Θ̂ of a part of a batch is not a part of Θ̂. This is found out for any
    function, by a test of some examples together and each alone (`acts_on_batch`).

    What a bare function closes over is read once, and kept, as under `jax.jit`. With arrays that change, or in a loop
    that makes functions anew, let it be `jax.tree_util.Partial(function, arrays)`, which hands them over at each call.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K).
        params: θ, P real numbers in all.
        x1: inputs, first axis N1; an array, or a pytree of arrays with the examples along the first axis of each.
        x2: inputs, first axis N2; left out it is `x1`.
        memory: bytes that the work on a block may take, the parameters and the result apart.
        mesh: devices that take one block each at a time, as in `kernel_in_blocks`; with it, not traceable.

    Returns:
        Θ̂ (N1, N2, K, K); entry [i, j, a, b] = ⟨∇f_a(x1_i), ∇f_b(x2_j)⟩, in the parameters' dtype. Without parameters 0.

    Raises:
        ValueError: when `x1` and `x2` differ in anything but their first axis, `net` does not return (N, K), a Flax
            module's variables hold more than "params", or a single example takes more than `memory`.
        TypeError: when parameters or outputs are not real floating-point numbers.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0]])
        >>> empirical_ntk(linear, jnp.zeros((2, 1)), x).item()  # the Gram matrix of x
        5.0

    Source: Lee et al. 2019, eq 4.
    """
    apply_fn = as_apply_fn(net)
    path = explain_ntk(apply_fn, params, x1, x2, memory)
    n1 = check_examples("x1", x1)
    n2 = n1 if x2 is None else check_examples("x2", x2)
    if n1 * n2 == 0 or not any(np.size(leaf) for leaf in jax.tree.leaves(params)):
        f = check_batches(apply_fn, params, x1, x2)
        return jnp.zeros((n1, n2, f.shape[1], f.shape[1]), f.dtype)
    if mesh is None and max(n1, n2) <= path.rows:
        return _at_once(apply_fn, path, memory, params, x1, x2)
    symmetric = x2 is None
    x2 = x1 if symmetric else x2
    (starts1, rows1), (starts2, rows2) = (block_starts(n, path.rows) for n in (n1, n2))
    corners = [(i, j) for i in starts1 for j in starts2 if i <= j or not symmetric]
    inputs = (apply_fn, params), x1, x2
    if mesh is None:
        results = _one_by_one(_steps(path, memory), inputs, corners, (rows1, rows2), symmetric)
    else:
        results = on_devices(_Block(path, memory, rows1, rows2), inputs, corners, mesh)
    blocks = {}
    for (i, j), theta in tqdm(results, "blocks of the empirical kernel", len(corners), disable=None):
        blocks[i, j] = theta
        if symmetric and i != j:
            blocks[j, i] = theta.transpose(1, 0, 3, 2)
    # A block counts up to where the next one starts.
    new1, new2 = (dict(zip(s, np.diff([*s, n]), strict=True)) for s, n in ((starts1, n1), (starts2, n2)))
    row = lambda i: jnp.concatenate([blocks[i, j][: new1[i], : new2[j]] for j in starts2], axis=1)
    return jnp.concatenate([row(i) for i in starts1])


def ntk_vector_product(
    net: Network, params: PyTree, x1: PyTree, x2: PyTree | None, v: PyTree[Float[Array, "n2 _"]]
) -> PyTree[Float[Array, "n1 _"]]:
    """Θ̂(x1, x2) v without forming Θ̂: one vector-Jacobian and one Jacobian-vector product.

    Θ̂ v = J(x1) (J(x2)ᵀ v)

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K). Examples may influence each other.
        params: θ.
        x1, x2: inputs, first axes N1 and N2; `x2=None` means `x1`.
        v: (N2, K), or a pytree like the outputs where those are one.

    Returns:
        (N1, K), or a pytree of such.

    Raises:
        ValueError: when `v` does not have the shape of the outputs at `x2`.
        TypeError: when parameters or outputs are not real floating-point numbers.

    Example:
        >>> linear = lambda params, x: x @ params
        >>> x = jnp.array([[1.0, 2.0]])
        >>> ntk_vector_product(linear, jnp.zeros((2, 1)), x, None, jnp.ones((1, 1))).item()
        5.0

    Source: Lee et al. 2019, eq 4.
    """
    apply_fn, params = as_apply_fn(net), check_params("params", params)
    x2 = x1 if x2 is None else x2
    f2 = outputs_of(apply_fn, params, x2)
    if jax.tree.map(jnp.shape, v) != (shape := jax.tree.map(lambda leaf: leaf.shape, f2)):
        raise ValueError(
            f"`v` must have the shape (N2, K) = {shape} of the outputs at `x2`, got {jax.tree.map(jnp.shape, v)}"
        )
    if 0 in (check_examples("x1", x1), check_examples("x2", x2)):  # which many a network cannot take
        f1 = outputs_of(apply_fn, params, x1)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), f1)
    v = jax.tree.map(lambda leaf, f: jnp.asarray(leaf, f.dtype), v, f2)
    (omega,) = jax.vjp(lambda theta: apply_fn(theta, x2), params)[1](v)
    return jax.jvp(lambda theta: apply_fn(theta, x1), (params,), (omega,))[1]


class _Block(NamedTuple):
    """Θ̂ of the examples of x1 from i on, `rows1` of them, and those of x2 from j on."""

    path: NtkPath
    memory: int
    rows1: int
    rows2: int

    def __call__(self, inputs: tuple[Model, PyTree, PyTree], i: Array, j: Array) -> Array:
        (model, x1, x2), steps = inputs, _steps(self.path, self.memory)
        return steps.contract(model, steps.factors(model, x1, i, self.rows1), steps.factors(model, x2, j, self.rows2))


class _Steps(NamedTuple):
    """A path as code: what is kept of a block of examples, and Θ̂ of two such blocks."""

    factors: Callable[[Model, PyTree, Any, int], PyTree]
    contract: Callable[[Model, PyTree, PyTree | None], Array]


def _steps(path: NtkPath, memory: int) -> _Steps:
    """`factors(model, x, start, rows)` and `contract(model, one, two)`; `two=None` means that the two are one."""
    if path.name == "layers":
        return _Steps(
            lambda model, x, start, rows: layer_factors(*model, part(x, start, rows)),
            lambda model, one, two: sum_of_layers(path.layers, memory // 2, one, two),
        )
    if path.name == "jacobian":
        return _Steps(
            lambda model, x, start, rows: jacobian(model[0], path.coupled, rows, model[1], x, start),
            lambda model, one, two: contract(one, one if two is None else two),
        )
    return _Steps(
        lambda model, x, start, rows: part(x, start, rows),
        lambda model, one, two: products(model[0], path.coupled, model[1], one, one if two is None else two),
    )


@partial(jax.jit, static_argnums=(1, 2))
def _at_once(apply_fn: ApplyFn, path: NtkPath, memory: int, params: PyTree, x1: PyTree, x2: PyTree | None) -> Array:
    """A single block, as one program."""
    steps, model = _steps(path, memory), (apply_fn, params)
    one, two = (x if x is None else steps.factors(model, x, 0, check_examples("x", x)) for x in (x1, x2))
    return steps.contract(model, one, two)


def _one_by_one(steps: _Steps, inputs: tuple, corners: list, rows: tuple[int, int], symmetric: bool) -> Iterator[tuple]:
    """(corner, block) of each corner; what is kept of the first batch serves a row of blocks."""
    model, x1, x2 = inputs
    for i, row in groupby(corners, key=itemgetter(0)):
        one = steps.factors(model, x1, i, rows[0])
        for _, j in row:
            two = None if symmetric and i == j else steps.factors(model, x2, j, rows[1])
            yield (i, j), steps.contract(model, one, two)
