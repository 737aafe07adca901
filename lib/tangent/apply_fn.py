"""What a network is to all of finite width: a pure function, and a pytree whose arrays are arguments of programs.

Two networks that differ in those arrays alone share their programs, and no program keeps the arrays alive.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array

ApplyFn = Callable[[Any, Any], Any]
Network = nn.Module | ApplyFn

# The place of an array in what is left of a network without its arrays.
_ARRAY = object()


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
    arrays = []
    rest = _without_arrays(net, arrays)
    return Partial(_Call(rest), *arrays)


def is_module(net: Any) -> bool:
    """Whether a network is a Flax module: itself, its bound `apply`, or either as a pure function."""
    if isinstance(net, Partial):
        rest = getattr(net.func, "network", None)
        return isinstance(rest, nn.Module) or (isinstance(rest, _Parts) and issubclass(rest.kind or object, nn.Module))
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
        net = self.network.restored(iter(arrays)) if isinstance(self.network, _Parts) else self.network
        if not isinstance(net, nn.Module):
            return net(params, x)
        if isinstance(params, Mapping) and (other := sorted(set(params) - {"params"})):
            raise ValueError(
                f'`params` of a Flax module must be {{"params": …}} alone, got {other}: other collections are no '
                "weights. Bind them as arrays, as in "
                'jax.tree_util.Partial(lambda rest, params, x: net.apply({"params": params, **rest}, x), rest)'
            )
        return net.apply(params, x)


@dataclass(frozen=True)
class _Parts:
    """A container, or an object with fields, in hashable parts; `kind` is the class of an object."""

    kind: type | None
    structure: Any
    parts: tuple

    def restored(self, arrays: Iterator[Array]) -> Any:
        """The object, with its arrays in their places."""
        whole = lambda part: part.restored(arrays) if isinstance(part, _Parts) else part
        parts = [next(arrays) if part is _ARRAY else whole(part) for part in self.parts]
        value = self.structure.unflatten(parts)
        return value if self.kind is None else self.kind(**value)


def _unbound(net: Any) -> Any:
    """The module of a bound `apply`; anything else as it is."""
    return net.__self__ if getattr(net, "__func__", None) is nn.Module.apply else net


def _without_arrays(value: Any, arrays: list) -> Any:
    """The value, if it can be hashed; else its parts, and its arrays at the end of the list."""
    if isinstance(value, Array | np.ndarray):
        arrays.append(value)
        return _ARRAY
    try:
        hash(value)
        return value
    except TypeError as error:
        kind, inner = None, value
        if isinstance(value, nn.Module) or (is_dataclass(value) and jax.tree_util.all_leaves([value])):
            kind = type(value)
            inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init and f.name != "parent"}
            inner |= {"parent": None} if isinstance(value, nn.Module) else {}
        elif jax.tree_util.all_leaves([value]):
            raise TypeError(
                f"`net` must be hashable, or consist of containers, arrays and what is, got {type(value).__name__}"
            ) from error
    leaves, structure = jax.tree.flatten(inner)
    return _Parts(kind, structure, tuple(_without_arrays(leaf, arrays) for leaf in leaves))
