"""Compiled programs that are shared by functions that do the same, and live no longer than what they close over."""

import weakref
from collections.abc import Callable
from inspect import ismethod
from types import CellType, FunctionType
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

# The program for each body, static names and functions; the oldest goes when there are more than MOST.
_KEPT: dict[tuple, Callable] = {}
MOST = 256


def compiled_for(body: Callable, functions: tuple[Callable | None, ...], static: tuple[str, ...] = ()) -> Callable:
    """`body(*functions, ...)` as a program: one for the same functions, forgotten with the first of them that goes.

    As a static argument of `jax.jit` a loss or an optimiser would be kept alive, with all arrays that it closes over,
    and so would be every new one of a loop. Functions made by Optax are the same if their code is and the numbers that
    they close over, and hold nothing else alive; any other, such as a schedule of one's own, is the same as itself.

    Args:
        body: what to compile.
        functions: its first arguments, which decide what it does.
        static: the names of further arguments, hashable and known before compilation.

    Example:
        >>> square = lambda x: x**2
        >>> compiled_for(lambda f, x: f(x) + 1, (square,))(3.0).item()
        10.0
        >>> import optax
        >>> same = lambda rate: compiled_for(isinstance, optax.sgd(rate))
        >>> same(0.1) is same(0.1), same(0.1) is same(0.2)
        (True, False)
    """
    names = [_name(function, ()) for function in functions]
    key = (body, static, *names)
    if key not in _KEPT:
        forget = lambda _: _KEPT.pop(key, None)
        references = [_reference(f, name, forget) for f, name in zip(functions, names, strict=True)]

        def program(*arguments: Any, **statics: Any) -> Any:
            return body(*(reference() for reference in references), *arguments, **statics)

        _KEPT[key] = jax.jit(program, static_argnames=static)
        if len(_KEPT) > MOST:
            del _KEPT[next(iter(_KEPT))]
    return _KEPT[key]


def slots_of(visited: Any, last: int) -> Int[np.ndarray, " steps"]:
    """For each step of a compiled loop, from 0 to the last, its place among those visited, or one after the last place.

    Example:
        >>> slots_of((1, 3), 4).tolist()
        [2, 0, 2, 1, 2]
    """
    slots = np.full(last + 1, len(visited))
    slots[list(visited)] = np.arange(len(visited))
    return slots


class _Address(int):
    """Where an object lies, which names it for as long as it lives."""


def _name(value: Any, outer: tuple) -> Any:
    """Equal for two values that do the same; `outer` are the functions around this one."""
    inner = lambda values: tuple(_name(v, (*outer, value)) for v in values)
    if isinstance(value, FunctionType) and value.__globals__.get("__name__", "").partition(".")[0] == "optax":
        if any(value is function for function in outer):
            return "itself"
        return (
            value.__code__,
            inner(map(_contents, value.__closure__ or ())),
            inner([value.__defaults__, value.__kwdefaults__]),
        )
    if ismethod(value):  # a new object each time that one asks for it
        return _Address(id(value.__self__)), _Address(id(value.__func__))
    if isinstance(value, tuple | list):
        return type(value), inner(value)
    if isinstance(value, dict):
        return dict, tuple(value), inner(value.values())
    if isinstance(value, np.generic):
        return type(value), value.tobytes()
    if isinstance(value, float):
        return float, value.hex()  # in which 0.0 and −0.0 differ
    if isinstance(value, int | str | None):
        return type(value), value
    return _Address(id(value))


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that nothing has been assigned to
        return "empty"


def _reference(function: Any, name: Any, forget: Callable) -> Callable[[], Any]:
    """`function` as long as it lives; for ever, if it holds nothing but numbers, or cannot be held weakly."""
    if not any(isinstance(part, _Address) for part in jax.tree.leaves(name)):
        return lambda: function
    try:
        return weakref.WeakMethod(function, forget) if ismethod(function) else weakref.ref(function, forget)
    except TypeError:
        return lambda: function
