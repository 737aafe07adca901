"""A network taken apart: what decides on its programs, and the numbers in it that may be their arguments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array

ARRAYS = (Array, np.ndarray)
NUMBERS = (*ARRAYS, float)

# The place of what was taken.
_TAKEN = object()


@dataclass(frozen=True)
class Parts:
    """A container, or an object with fields, in hashable parts; `kind` is the class of an object."""

    kind: type | None
    structure: Any
    parts: tuple


def take_apart(net: Any, kinds: tuple[type, ...] = ARRAYS) -> tuple[Any, list]:
    """What is left of a network without its parts of some kinds, hashed by value, and these in their order.

    Without its ARRAYS a network that can be hashed is itself. Without its NUMBERS, which may be a layer's W_std or the
    slope of an activation, it is equal to every other that differs in these alone. Layers that users write keep theirs:
    they may look at a number before anything is compiled.

    Raises:
        TypeError: when something in it is neither taken nor hashable, nor a container of what is.

    Example:
        >>> from lib.networks.layers import Dense
        >>> rest, numbers = take_apart(Dense(3, W_std=1.5), NUMBERS)
        >>> numbers, rest == take_apart(Dense(3, W_std=2.0), NUMBERS)[0], put_together(rest, [2.0]).W_std
        ([1.5], True, 2.0)
    """
    taken: list[Any] = []
    return _without(net, kinds, taken), taken


def put_together(rest: Any, taken: Iterable[Any]) -> Any:
    """The network again, with what was taken, or the like of it, in its places."""
    return _restored(rest, iter(taken))


def _restored(rest: Any, taken: Iterator[Any]) -> Any:
    if rest is _TAKEN:
        return next(taken)
    if not isinstance(rest, Parts):
        return rest
    value = rest.structure.unflatten([_restored(part, taken) for part in rest.parts])
    return value if rest.kind is None else rest.kind(**value)


def _without(value: Any, kinds: tuple[type, ...], taken: list) -> Any:
    if isinstance(value, kinds):
        taken.append(value)
        return _TAKEN
    of_fields = is_dataclass(value) and not isinstance(value, type) and jax.tree_util.all_leaves([value])
    has_fields = isinstance(value, nn.Module) or of_fields
    is_container = not has_fields and not jax.tree_util.all_leaves([value])
    if float in kinds and has_fields and not _is_of_the_library(value):
        kinds = ARRAYS
    try:
        hash(value)
    except TypeError as error:
        if not has_fields and not is_container:
            raise TypeError(
                f"`net` must be hashable, or consist of containers, arrays and what is, got {type(value).__name__}"
            ) from error
    else:
        if float not in kinds or not (has_fields or is_container):
            return value
    kind, inner = None, value
    if has_fields:
        kind = type(value)
        inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init and f.name != "parent"}
        inner |= {"parent": None} if isinstance(value, nn.Module) else {}
    leaves, structure = jax.tree.flatten(inner)
    return Parts(kind, structure, tuple(_without(leaf, kinds, taken) for leaf in leaves))


def _is_of_the_library(value: Any) -> bool:
    """Whether an object with fields is of a class of ours, and so are the functions in its fields, or JAX's own."""
    home = lambda thing: getattr(thing, "__module__", "").partition(".")[0]
    parts = [getattr(value, f.name) for f in fields(value)]
    functions = [part for part in parts if callable(part) and not isinstance(part, nn.Module)]
    return home(type(value)) == "lib" and all(home(function) in ("lib", "jax") for function in functions)
