"""Do the examples of a batch act on each other?"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PyTree

from lib.apply_fn import Network, as_apply_fn, is_module
from lib.convolution import Conv
from lib.jacobian import Batch, resized, shapes_of
from lib.layers import Dense, Flatten, Sequential
from lib.normalization import LayerNorm
from lib.pooling import AveragePool, GlobalAveragePool
from lib.residual import Residual

# Layers that take each example for itself.
APART = (Dense, Conv, Flatten, Sequential, LayerNorm, AveragePool, GlobalAveragePool, Residual)
# What the compiler may leave out for a program that runs once, on three examples.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def acts_on_batch(net: Network, params: PyTree, x: Batch) -> bool:
    """Whether an example's outputs, or their derivatives, depend on the examples beside it, or on their number.

    Three examples together are compared with each alone, once for a function and its shapes: at random parameters and
    inputs, so that it is known inside `jit` too. What cannot be told, where outputs there are not finite, parameters
    have no effect, or a function closes over traced values, counts as dependent: to differentiate a batch whole is
    always right. Networks of lib's own layers need no test.

    Args:
        net, params, x: a network, its parameters and inputs, of which shapes and dtypes matter alone.

    Example:
        >>> centred = lambda params, x: (x - x.mean(0)) @ params
        >>> acts_on_batch(centred, jnp.ones((2, 1)), jnp.ones((5, 2)))
        True
    """
    leaves, structure = jax.tree.flatten(shapes_of((as_apply_fn(net), params, resized(x, 3))))
    return _acts_on_batch(structure, tuple(leaves))


@lru_cache(maxsize=64)
def _acts_on_batch(structure: Any, leaves: tuple) -> bool:
    apply_fn, params, x = jax.tree.unflatten(structure, leaves)
    if is_module(apply_fn) and _takes_examples_apart(apply_fn, params, x):
        return False
    # In NumPy, which compiles nothing, inside `jit` or not.
    random = partial(_random, np.random.default_rng(0))
    apply_fn, params, x = jax.tree.unflatten(structure, map(random, leaves))
    # Weights as small as keeps the scale of what they act on.
    params = jax.tree.map(lambda p: (p / _fan_in(p) ** 0.5).astype(p.dtype), params)
    omega = jax.tree.map(lambda p: np.cos(np.arange(p.size)).reshape(p.shape).astype(p.dtype), params)
    program = jax.jit(_apart).lower(apply_fn, params, omega, x).compile(FAST)
    try:
        return not program(apply_fn, params, omega, x)
    except TypeError:  # it waits for the traced values that the function closes over
        return True


def _takes_examples_apart(net: Network, params: PyTree, x: PyTree) -> bool:
    """Whether all of a network's layers are of those that take each example for itself."""
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
    """Gaussian numbers; of whole ones rows of 0 and 1 in turn; or keys."""
    if jnp.issubdtype(shape.dtype, jnp.inexact):
        return rng.standard_normal(shape.shape).astype(shape.dtype)
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():
            return jax.random.split(jax.random.key(0), shape.shape)
    rows = np.arange(shape.shape[0] if shape.shape else 1) % 2
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape.shape) - 1)), shape.shape).astype(shape.dtype)


def _apart(apply_fn: Any, params: PyTree, omega: PyTree, x: PyTree) -> Array:
    """Whether outputs and their change along ω are equal for examples together and for each alone."""
    f = lambda x: jax.jvp(lambda theta: apply_fn(theta, x), (params,), (omega,))
    one = lambda x_i: jax.tree.map(lambda leaf: leaf[0], f(jax.tree.map(lambda leaf: leaf[None], x_i)))
    with jax.default_matmul_precision("highest"):
        together, alone = f(x), jax.vmap(one)(x)
    size = [jnp.abs(a).max() for a in together]
    close = [
        jnp.abs(a - b).max() <= jnp.finfo(a.dtype).eps ** 0.5 * s for a, b, s in zip(together, alone, size, strict=True)
    ]
    return jnp.stack([*close, size[1] > 0]).all()
