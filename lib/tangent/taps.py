"""What enters every weighted layer of a network, and what each of its outputs is to the network's.

Both are taken at the door of the layers, by Flax's own `intercept_methods`: the network is used as it is.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, PyTree

from lib.checks import check_examples
from lib.networks.convolution import Conv
from lib.networks.layers import Dense
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn
from lib.tangent.jacobians import Batch, resized

WEIGHTED = (Dense, Conv)


# The input x (N, ...) of a layer, the derivatives δ (K, N, ...) of the network's outputs by the layer's, and σ_w²/n and
# σ_b², the squares of the derivatives of the layer's weights and biases by its parameters.
Factors = tuple[Array, Array, tuple[Array, Array]]


class Weighted(NamedTuple):
    """A layer in its place: itself, without parameters and scales, its output's shape and dtype, and whether it is
    called plainly, rather than by a transformation such as `nn.vmap`, within which arrays are of another kind."""

    layer: Any
    output: jax.ShapeDtypeStruct
    plain: bool


class NotLayered(ValueError):
    """The tangent kernel of a network is not the sum over its Dense and Conv; the message says why."""


def backprop(net: Network, params: PyTree, x: PyTree) -> dict[str, Factors]:
    """The input x of every weighted layer, the derivatives δ of the network's outputs by the layer's, and its scales.

    δ_a(x_i) = ∂f_a(x_i) / ∂h(x_i): zeros are added to h, and derivatives taken by them

    Args:
        net: a network of which `weighted_layers` holds.
        params: θ, {"params": ...}.
        x: inputs, (N, ...).

    Returns:
        For each layer, by its name: x (N, ...), δ (K, N, ...), and (σ_w²/n, σ_b²) or what stands for them in the
        standard parameterisation. One forward pass and K backward ones in all.

    Raises:
        NotLayered: where `weighted_layers` raises it.

    Example:
        >>> net = Dense(3)
        >>> x = jnp.ones((2, 5))
        >>> [(name, delta.shape) for name, (_, delta, _) in backprop(net, net.init(jax.random.key(0), x), x).items()]
        [('Dense', (3, 2, 3))]

    Source: Lee et al. 2019, eq 4, by the chain rule.
    """
    return _backprop(as_apply_fn(net), params, x, weighted_layers(net, params, x))


def weighted_layers(net: Network, params: PyTree, x: Batch) -> dict[str, Weighted]:
    """The Dense and Conv that hold every parameter of the network, each in one place; by name, from the first up.

    Args:
        net: a Flax module.
        params: θ.
        x: inputs, or their shape and dtype.

    Raises:
        NotLayered: when another layer has parameters, a layer is used twice, transformed, or given other things than
            one of each example. That examples do not act on each other is for `acts_on_batch` to say.

    Example:
        >>> x = jnp.ones((2, 5))
        >>> list(weighted_layers(Dense(3), Dense(3).init(jax.random.key(0), x), x))
        ['Dense']
    """
    apply_fn = as_apply_fn(net)
    calls = _calls(apply_fn, params, x)
    weighted = dict(calls)
    if len(weighted) < len(calls):
        raise NotLayered(f"one of its layers {list(weighted)} is used twice, so that the weights of two places are one")
    if transformed := [name for name, call in calls if not call.plain]:
        raise NotLayered(f"its layer {transformed[0]} stands within a transformation such as nn.vmap")
    n = check_examples("x", x)
    more = _calls(apply_fn, params, resized(x, n + 1))  # a table may have as many rows as there are examples now
    rows = [name for (name, call), (_, other) in zip(calls, more, strict=True) if _rows(call, other) != (n, n + 1)]
    if rows:
        raise NotLayered(f"the first axis of what its layer {rows[0]} is given is not that of the examples")
    if other := _other_parameters(apply_fn, params, x, weighted):
        raise NotLayered(f"its parameters {other[0]} act elsewhere than in a plain Dense or Conv of lib")
    return weighted


def _backprop(apply_fn: ApplyFn, params: PyTree, x: PyTree, weighted: dict) -> dict[str, Factors]:
    def tapped(taps: dict) -> tuple[Array, dict]:
        inputs = {}

        def tap(layer: Any, given: Array, output: Callable[[], Array]) -> Array:
            h = output()
            inputs[_name(layer)] = given, _gradient_variances(layer, given, h.dtype)
            return h + taps[_name(layer)]

        return _with_taps(apply_fn, params, x, tap), inputs

    zeros = {name: jnp.zeros(call.output.shape, call.output.dtype) for name, call in weighted.items()}
    f, pull_back, inputs = jax.vjp(tapped, zeros, has_aux=True)
    outputs = f.shape[-1]
    one_of_each = jnp.broadcast_to(jnp.eye(outputs, dtype=f.dtype)[:, None], (outputs, *f.shape))  # (K, N, K)
    # The windows of a convolution are large: for one output at a time they stay in the processor's cache.
    convolves = any(isinstance(call.layer, Conv) for call in weighted.values())
    (deltas,) = lax.map(pull_back, one_of_each) if convolves else jax.vmap(pull_back)(one_of_each)
    return {name: (inputs[name][0], deltas[name], inputs[name][1]) for name in weighted}


def _gradient_variances(layer: Any, x: Array, dtype: Any) -> tuple[Array, Array]:
    """(∂W/∂ω)² and (∂b/∂β)²."""
    bias = layer.b_std is not None
    if layer.parameterization == "standard":
        return jnp.ones((), dtype), jnp.asarray(bias, dtype)
    fan_in = math.prod(getattr(layer, "window", ())) * x.shape[-1]
    W_scale, b_scale = layer.W_std / fan_in**0.5, layer.b_std if bias else 0
    return jnp.asarray(W_scale, dtype) ** 2, jnp.asarray(b_scale, dtype) ** 2


def _rows(*calls: Weighted) -> tuple[int, ...]:
    return tuple(call.output.shape[0] for call in calls)


def _with_taps(apply_fn: ApplyFn, params: PyTree, x: PyTree, tap: Callable) -> Array:
    """f(θ, x) with `tap(layer, input, output)` for the output of every weighted layer."""

    def intercept(method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.method_name != "__call__" or type(context.module) not in WEIGHTED:
            return method(*args, **kwargs)
        (given,) = (*args, *kwargs.values())
        return tap(context.module, given, lambda: method(given))

    with nn.intercept_methods(intercept):
        return apply_fn(params, x)


def _calls(apply_fn: ApplyFn, params: PyTree, x: Batch) -> list[tuple[str, Weighted]]:
    """All calls of Dense and Conv in the network, each with the layer's name, in order."""
    calls = []

    def trace(apply_fn: ApplyFn, params: PyTree, x: PyTree) -> Array:
        kind = type(jax.tree.leaves(x)[0])

        def note(method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.method_name == "__call__" and type(context.module) in WEIGHTED:
                plain = all(type(array) is kind for array in (*args, *kwargs.values(), output))
                bias = None if context.module.b_std is None else 1.0
                layer = context.module.clone(parent=None, name=None, W_std=1.0, b_std=bias)
                call = Weighted(layer, jax.ShapeDtypeStruct(output.shape, output.dtype), plain)
                calls.append((_name(context.module), call))
            return output

        with nn.intercept_methods(note):
            return apply_fn(params, x)

    jax.eval_shape(trace, apply_fn, params, x)
    return calls


def _other_parameters(apply_fn: ApplyFn, params: PyTree, x: Batch, weighted: dict) -> list[str]:
    """The parameters of which f is a function even where the outputs of all weighted layers are held fixed."""
    outputs = {name: call.output for name, call in weighted.items()}
    fixed = lambda layer, given, output: jnp.zeros(outputs[_name(layer)].shape, outputs[_name(layer)].dtype)
    program = jax.make_jaxpr(lambda p, net, x: _with_taps(net, p, x, fixed))(params, apply_fn, x).jaxpr
    # In a jaxpr a variable is one object wherever it stands: f does not read a parameter that no step and no output is.
    read = {id(v) for step in program.eqns for v in step.invars} | {id(v) for v in program.outvars}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path) for (path, _), v in zip(leaves, program.invars, strict=False) if id(v) in read]


def _name(module: nn.Module) -> str:
    return "/".join(module.path) or type(module).__name__
