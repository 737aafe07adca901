"""What a network is to all of finite width: a pure function, and a pytree whose arrays are arguments of programs.

Two networks that differ in those arrays alone share their programs, and no program keeps the arrays alive.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.tree_util import Partial

from lib.networks.parts import Parts, put_together, take_apart

ApplyFn = Callable[[Any, Any], Any]
Network = nn.Module | ApplyFn


def as_apply_fn(net: Network) -> Partial:
    """The pure function behind a network, `apply_fn(params, x)`, as a pytree.

    Its leaves are the arrays that a Flax module holds among its fields, such as a traced W_std, or those that a
    `jax.tree_util.Partial` binds, such as the θ₀ of `linearize`. What is left of a module is hashed by value; any other
    function is itself, with all that it closes over, which is read once, when programs are compiled, and stays there.
    Whoever makes functions anew, or changes what they close over, binds the arrays by a Partial instead.

    Example:
        >>> line = jax.tree_util.Partial(lambda slope, params, x: params + slope * x, 2.0)
        >>> as_apply_fn(line)(1.0, 3.0), jax.tree.leaves(as_apply_fn(line))
        (7.0, [2.0])
    """
    if isinstance(net, Partial):
        return net
    net = _unbound(net)
    of_nnx = any(kind.__module__.startswith("flax.nnx") for kind in inspect.getmro(type(net)))
    if not callable(net) or of_nnx or not jax.tree_util.all_leaves([net]):  # modules that hold their parameters
        raise TypeError(
            f"`net` must be a Flax module or a function apply_fn(params, x), got {type(net).__name__}; "
            "for other libraries' models see the chapter 'Bring your own model'"
        )
    rest, arrays = take_apart(net)
    return Partial(_Call(rest), *arrays)


def is_module(net: Any) -> bool:
    """Whether a network is a Flax module: itself, its bound `apply`, or either as a pure function."""
    if isinstance(net, Partial):
        rest = getattr(net.func, "network", None)
        return isinstance(rest, nn.Module) or (isinstance(rest, Parts) and issubclass(rest.kind or object, nn.Module))
    return isinstance(_unbound(net), nn.Module)


class _Call:
    """A network without its arrays, as a function of them, parameters and inputs; equal where networks are."""

    def __init__(self, network: Any):
        self.network, self.hash = network, hash(network)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self.network == other.network

    def __call__(self, *arguments: Any) -> Any:
        *arrays, params, x = arguments
        net = put_together(self.network, arrays)
        if not isinstance(net, nn.Module):
            return net(params, x)
        if isinstance(params, Mapping) and (other := sorted(set(params) - {"params"})):
            raise ValueError(
                f'`params` of a Flax module must be {{"params": …}} alone, got {other}: other collections are no '
                "weights. Bind them as arrays, as in "
                'jax.tree_util.Partial(lambda rest, params, x: net.apply({"params": params, **rest}, x), rest)'
            )
        return net.apply(params, x)


def _unbound(net: Any) -> Any:
    """The module of a bound `apply`; anything else as it is."""
    return net.__self__ if getattr(net, "__func__", None) is nn.Module.apply else net
