"""Do the examples of a batch act on each other?"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PyTree

from lib.checks import check_examples
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.normalization import LayerNorm
from lib.networks.pooling import AveragePool, GlobalAveragePool
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential
from lib.tangent.apply_fn import Network, as_apply_fn, is_module
from lib.tangent.jacobians import Batch, resized, shapes_of

# Layers that take each example for itself.
APART = (Dense, Conv, Flatten, Sequential, LayerNorm, AveragePool, GlobalAveragePool, Residual)
COPIES, MEMORY = 8, 2**30  # of parameters and inputs the comparison takes about so many, and may take so many bytes
MOST = 16  # examples that are compared
# What the compiler may leave out for a program that runs a few times, on so few examples.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

COUPLED = "its examples act on each other, as by BatchNorm, or nothing rules it out"
KEPT = 64  # functions of which the answer is kept
_VERDICTS: dict[tuple, bool] = {}


def acts_on_batch(net: Network, params: PyTree, x: Batch) -> bool:
    """Whether an example's outputs, or their derivatives, depend on the examples beside it, or on their number.

    Some examples together are compared with each alone, once for a function and its shapes: the first that come, where
    their numbers are known; and at random parameters and inputs of three sizes, so that it is known inside `jit` too.
    What cannot be told, where outputs are not finite, parameters have no effect or are too large, or a function takes
    no other number of examples or closes over traced values, counts as dependent: to differentiate a batch whole is
    always right. Networks of lib's own layers need no test.

    Args:
        net, params, x: a network, its parameters and inputs, or shapes and dtypes.

    Example:
        >>> centred = lambda params, x: (x - x.mean(0)) @ params
        >>> acts_on_batch(centred, jnp.ones((2, 1)), jnp.ones((5, 2)))
        True
    """
    apply_fn = as_apply_fn(net)
    rows = min(max(check_examples("x", x), 3), MOST)
    shapes = jax.tree.flatten(shapes_of((apply_fn, params, resized(x, rows))))
    if _takes_examples_apart(shapes[1], tuple(shapes[0])):
        return False
    if COPIES * sum(leaf.size * leaf.dtype.itemsize for leaf in shapes[0]) > MEMORY:
        return True
    known = _known((apply_fn, params, x)) and check_examples("x", x) >= rows
    key = (shapes[1], tuple(shapes[0]), known)
    if key not in _VERDICTS:
        given = (apply_fn, params, jax.tree.map(lambda leaf: leaf[:rows], x)) if known else None
        if len(_VERDICTS) >= KEPT:
            del _VERDICTS[next(iter(_VERDICTS))]
        _VERDICTS[key] = _acts_on_batch(*shapes, given)
    return _VERDICTS[key]


def _acts_on_batch(leaves: list, structure: Any, given: tuple | None) -> bool:
    # In NumPy, which compiles nothing, inside `jit` or not.
    random = partial(_random, np.random.default_rng(0))
    times = lambda c, x: jax.tree.map(lambda a: (c * a).astype(a.dtype) if _inexact(a.dtype) else a, x)
    try:
        apply_fn, params, x = jax.tree.unflatten(structure, map(random, leaves))
        # Weights as small as keeps the scale of what they act on.
        params = jax.tree.map(lambda p: (p / _fan_in(p) ** 0.5).astype(p.dtype), params)
        omega = jax.tree.map(lambda p: np.cos(np.arange(p.size)).reshape(p.shape).astype(p.dtype), params)
        program = jax.jit(_apart).lower(apply_fn, params, omega, x).compile(FAST)
        moved = [program(apply_fn, params, omega, times(c, x)) for c in (0.1, 1, 10)]
        here = [] if given is None else [program(given[0], given[1], omega, given[2])]
    except Exception:  # of a function that takes no other number of examples, or waits for traced values: see above
        return True
    return not all(apart for apart, _ in (*moved, *here)) or not moved[1][1]


def _known(tree: PyTree) -> bool:
    """Whether all numbers are there, and neither traced nor shapes alone."""
    try:
        return all(isinstance(leaf, np.ndarray) or leaf.committed in (True, False) for leaf in jax.tree.leaves(tree))
    except (AttributeError, jax.errors.ConcretizationTypeError):
        return False


def _inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


@lru_cache(maxsize=KEPT)
def _takes_examples_apart(structure: Any, leaves: tuple) -> bool:
    """Whether a network is a module all layers of which are of those that take each example for itself."""
    net, params, x = jax.tree.unflatten(structure, leaves)
    if not is_module(net):
        return False
    types = set()

    def note(method: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        types.add(type(context.module))
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda net, params, x: net(params, x), net, params, x)
    return types <= set(APART)


def _fan_in(weights: np.ndarray) -> int:
    return max(1, weights.size // weights.shape[-1]) if weights.ndim > 1 else 1


def _random(rng: np.random.Generator, shape: jax.ShapeDtypeStruct) -> np.ndarray | Array:
    """Gaussian numbers; of bytes any; of other whole numbers, which may be names, rows of 0 and 1 in turn; or keys."""
    if _inexact(shape.dtype):
        return rng.standard_normal(shape.shape).astype(shape.dtype)
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():
            return jax.random.split(jax.random.key(0), shape.shape)
    if shape.dtype in (np.uint8, np.int8):
        return rng.integers(0, 127, shape.shape, shape.dtype, endpoint=True)
    rows = np.arange(shape.shape[0] if shape.shape else 1) % 2
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape.shape) - 1)), shape.shape).astype(shape.dtype)


def _apart(apply_fn: Any, params: PyTree, omega: PyTree, x: PyTree) -> tuple[Array, Array]:
    """Whether outputs and their change along ω are equal for examples together and for each alone, and are any."""
    f = lambda x: jax.jvp(lambda theta: apply_fn(theta, x), (params,), (omega,))
    one = lambda x_i: jax.tree.map(lambda leaf: leaf[0], f(jax.tree.map(lambda leaf: leaf[None], x_i)))
    with jax.default_matmul_precision("highest"):
        together, alone = f(x), jax.vmap(one)(x)
    size = [jnp.abs(a).max() for a in together]
    # Sums in another order differ by roundings of which there are many; of half precision each is seen.
    eps = float(jnp.finfo(together[0].dtype).eps)
    allowed = eps**0.5 if eps < 1e-4 else 4 * eps
    close = [jnp.abs(a - b).max() <= allowed * s for a, b, s in zip(together, alone, size, strict=True)]
    return jnp.stack(close).all(), size[1] > 0
