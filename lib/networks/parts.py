"""A network taken apart: what decides on its programs, and the numbers in it that may be their arguments."""

from collections.abc import Iterator
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

    def restored(self, taken: Iterator[Any]) -> Any:
        """The object, with what was taken in its places."""
        whole = lambda part: part.restored(taken) if isinstance(part, Parts) else part
        parts = [next(taken) if part is _TAKEN else whole(part) for part in self.parts]
        value = self.structure.unflatten(parts)
        return value if self.kind is None else self.kind(**value)


def take_apart(net: Any, kinds: tuple[type, ...] = ARRAYS) -> tuple[Any, list]:
    """What is left of a network without its parts of some kinds, hashed by value, and these in their order.

    Without its ARRAYS a network that can be hashed is itself. Without its NUMBERS, which may be a layer's W_std or the
    slope of an activation, it is equal to every other that differs in these alone.

    Raises:
        TypeError: when something in it is neither taken nor hashable, nor a container of what is.

    Example:
        >>> from lib.networks.layers import Dense
        >>> rest, numbers = take_apart(Dense(3, W_std=1.5), NUMBERS)
        >>> numbers, rest == take_apart(Dense(3, W_std=2.0), NUMBERS)[0], rest.restored(iter([2.0])).W_std
        ([1.5], True, 2.0)
    """
    taken: list[Any] = []
    return _without(net, kinds, taken), taken


def _without(value: Any, kinds: tuple[type, ...], taken: list) -> Any:
    if isinstance(value, kinds):
        taken.append(value)
        return _TAKEN
    has_fields = isinstance(value, nn.Module) or (is_dataclass(value) and jax.tree_util.all_leaves([value]))
    is_container = not has_fields and not jax.tree_util.all_leaves([value])
    try:
        hash(value)
    except TypeError as error:
        if not has_fields and not is_container:
            raise TypeError(
                f"`net` must be hashable, or consist of containers, arrays and what is, got {type(value).__name__}"
            ) from error
    else:
        if float not in kinds or not (has_fields or is_container) or isinstance(value, type):
            return value
    kind, inner = None, value
    if has_fields:
        kind = type(value)
        inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init and f.name != "parent"}
        inner |= {"parent": None} if isinstance(value, nn.Module) else {}
    leaves, structure = jax.tree.flatten(inner)
    return Parts(kind, structure, tuple(_without(leaf, kinds, taken) for leaf in leaves))
