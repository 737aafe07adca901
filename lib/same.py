"""When two optimisers are the same, so that the second needs no program of its own."""

from types import FunctionType
from typing import Any

import optax


class Same:
    """An optimiser by what it does: equal to one that Optax has made again of the same numbers.

    Optax makes functions that close over numbers and over each other. Two of them are equal if their code is and what
    they close over; anything else, such as a schedule of one's own or a traced learning rate, is equal to itself alone.

    Args:
        optimizer: an Optax optimiser.

    Example:
        >>> Same(optax.adam(0.1)) == Same(optax.adam(0.1)), Same(optax.adam(0.1)) == Same(optax.adam(0.2))
        (True, False)
    """

    def __init__(self, optimizer: optax.GradientTransformation):
        self.optimizer, self.key = optimizer, _key(optimizer, ())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.key == other.key


class _Itself:
    """Equal to nothing but itself, whatever its own `==` says."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def _key(value: Any, outer: tuple) -> Any:
    """Equal for two values that do the same; `outer` are the functions around this one."""
    inner = lambda values: tuple(_key(v, (*outer, value)) for v in values)
    if isinstance(value, FunctionType) and value.__globals__.get("__name__", "").partition(".")[0] == "optax":
        if any(value is function for function in outer):
            return "itself"
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, inner(cells), inner([value.__defaults__, value.__kwdefaults__])
    if isinstance(value, tuple | list):
        return type(value), inner(value)
    if isinstance(value, dict):
        return tuple(value), inner(value.values())
    if isinstance(value, float):
        return type(value), value.hex()  # in which 0.0 and −0.0 differ
    if isinstance(value, int | str | None):
        return type(value), value
    return _Itself(value)
