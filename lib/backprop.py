"""What enters every weighted layer of a network, and what each of its outputs is to the network's.

Both are taken at the door of the layers, by Flax's own `intercept_methods`: the network is used as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, PyTree

from lib.convolution import Conv
from lib.jacobian import Batch
from lib.layers import Dense
from lib.linearize import as_apply_fn
from lib.normalization import BatchNorm

WEIGHTED = (Dense, Conv)


class Weighted(NamedTuple):
    """A layer in its place: itself, without parameters, its output's shape and dtype, and whether it is called plainly,
    rather than by a transformation such as `nn.vmap`, within which arrays are of another kind."""

    layer: Any
    output: jax.ShapeDtypeStruct
    plain: bool


class NotLayered(ValueError):
    """The tangent kernel of a network is not the sum over its Dense and Conv; the message says why."""


def backprop(net: nn.Module, params: PyTree, x: Array) -> dict[str, tuple[Array, Array]]:
    """The input x of every weighted layer, and the derivatives δ of the network's outputs by the layer's.

    δ_a(x_i) = ∂f_a(x_i) / ∂h(x_i): zeros are added to h, and derivatives taken by them

    Args:
        net: a network of which `weighted_layers` holds.
        params: θ, {"params": ...}.
        x: inputs, (N, ...).

    Returns:
        For each layer, by its name: x (N, ...) and δ (K, N, ...). One forward pass and K backward ones in all.

    Raises:
        NotLayered: where `weighted_layers` raises it.

    Example:
        >>> net = Dense(3)
        >>> x = jnp.ones((2, 5))
        >>> [(name, delta.shape) for name, (_, delta) in backprop(net, net.init(jax.random.key(0), x), x).items()]
        [('Dense', (3, 2, 3))]

    Source: Lee et al. 2019, eq 4, by the chain rule.
    """
    return _backprop(net, params, x, weighted_layers(net, params, x))


def weighted_layers(net: nn.Module, params: PyTree, x: Batch) -> dict[str, Weighted]:
    """The Dense and Conv that hold every parameter of the network, each in one place; by name, from the first up.

    Args:
        net: a Flax module.
        params: θ.
        x: inputs, or their shape and dtype.

    Raises:
        NotLayered: when another layer has parameters, a layer is used twice, transformed, or given other things than
            one of each example, or examples act on each other.

    Example:
        >>> x = jnp.ones((2, 5))
        >>> list(weighted_layers(Dense(3), Dense(3).init(jax.random.key(0), x), x))
        ['Dense']
    """
    calls = _calls(net, params, x)
    if any(isinstance(call.layer, BatchNorm) for _, call in calls):
        raise NotLayered("its BatchNorm makes examples act on each other")
    weighted = dict(calls)
    if len(weighted) < len(calls):
        raise NotLayered(f"one of its layers {list(weighted)} is used twice, so that the weights of two places are one")
    if transformed := [name for name, call in calls if not call.plain]:
        raise NotLayered(f"its layer {transformed[0]} stands within a transformation such as nn.vmap")
    if rows := [name for name, call in calls if call.output.shape[0] != x.shape[0]]:
        raise NotLayered(f"the first axis of what its layer {rows[0]} is given is not that of the examples")
    if other := _other_parameters(net, params, x, weighted):
        raise NotLayered(f"its parameters {other[0]} act elsewhere than in a plain Dense or Conv of lib")
    return weighted


def acts_on_batch(net: nn.Module, params: PyTree, x: Batch) -> bool:
    """Whether examples act on each other, through a BatchNorm of lib."""
    return any(isinstance(call.layer, BatchNorm) for _, call in _calls(net, params, x))


def _backprop(net: nn.Module, params: PyTree, x: Array, weighted: dict) -> dict[str, tuple[Array, Array]]:
    def tapped(taps: dict) -> tuple[Array, dict]:
        inputs = {}

        def tap(name: str, given: Array, output: Callable[[], Array]) -> Array:
            inputs[name] = given
            return output() + taps[name]

        return _with_taps(net, params, x, weighted, tap), inputs

    zeros = {name: jnp.zeros(call.output.shape, call.output.dtype) for name, call in weighted.items()}
    f, pull_back, inputs = jax.vjp(tapped, zeros, has_aux=True)
    outputs = f.shape[-1]
    one_of_each = jnp.broadcast_to(jnp.eye(outputs, dtype=f.dtype)[:, None], (outputs, *f.shape))  # (K, N, K)
    # The windows of a convolution are large: for one output at a time they stay in the processor's cache.
    convolves = any(isinstance(call.layer, Conv) for call in weighted.values())
    (deltas,) = lax.map(pull_back, one_of_each) if convolves else jax.vmap(pull_back)(one_of_each)
    return {name: (inputs[name], deltas[name]) for name in weighted}


def _with_taps(net: nn.Module, params: PyTree, x: Array, weighted: dict, tap: Callable) -> Array:
    """f(θ, x) with `tap(name, input, output)` for the output of every weighted layer."""

    def intercept(method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.method_name != "__call__" or type(context.module) not in WEIGHTED:
            return method(*args, **kwargs)
        (given,) = (*args, *kwargs.values())
        return tap(_name(context.module), given, lambda: method(given))

    with nn.intercept_methods(intercept):
        return as_apply_fn(net)(params, x)


def _calls(net: nn.Module, params: PyTree, x: Batch) -> list[tuple[str, Weighted]]:
    """All calls of Dense, Conv and BatchNorm in the network, each with the layer's name, in order."""
    calls = []

    def trace(params: PyTree, x: Array) -> Array:
        def note(method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.method_name == "__call__" and type(context.module) in (*WEIGHTED, BatchNorm):
                plain = all(type(array) is type(x) for array in (*args, *kwargs.values(), output))
                layer = context.module.clone(parent=None, name=None)
                call = Weighted(layer, jax.ShapeDtypeStruct(output.shape, output.dtype), plain)
                calls.append((_name(context.module), call))
            return output

        with nn.intercept_methods(note):
            return as_apply_fn(net)(params, x)

    jax.eval_shape(trace, params, x)
    return calls


def _other_parameters(net: nn.Module, params: PyTree, x: Batch, weighted: dict) -> list[str]:
    """The parameters of which f is a function even where the outputs of all weighted layers are held fixed."""
    fixed = lambda name, given, output: jnp.zeros(weighted[name].output.shape, weighted[name].output.dtype)
    program = jax.make_jaxpr(lambda p, x: _with_taps(net, p, x, weighted, fixed))(params, x).jaxpr
    read = {id(v) for step in program.eqns for v in step.invars} | {id(v) for v in program.outvars}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path) for (path, _), v in zip(leaves, program.invars, strict=False) if id(v) in read]


def _name(module: nn.Module) -> str:
    return "/".join(module.path) or type(module).__name__
