"""Compiled programs that live as long as the functions they were compiled for."""

import weakref
from collections.abc import Callable
from typing import Any

import jax

_KEPT: dict[tuple, Callable] = {}


def compiled_for(body: Callable, functions: tuple[Callable, ...], static: tuple[str, ...] = ()) -> Callable:
    """`body(*functions, ...)` as a program: one for the same functions, forgotten with the first of them that goes.

    As a static argument of `jax.jit` a loss or an optimiser would be kept alive, with all arrays that it closes over,
    and so would be every new one of a loop.

    Args:
        body: what to compile.
        functions: its first arguments, which decide what it does.
        static: the names of further arguments, hashable and known before compilation.

    Example:
        >>> square = lambda x: x**2
        >>> compiled_for(lambda f, x: f(x) + 1, (square,))(3.0).item()
        10.0
    """
    key = (body, static, *map(id, functions))
    if key not in _KEPT:
        references = [weakref.ref(function, lambda _: _KEPT.pop(key, None)) for function in functions]

        def program(*arguments: Any, **statics: Any) -> Any:
            return body(*(reference() for reference in references), *arguments, **statics)

        _KEPT[key] = jax.jit(program, static_argnames=static)
    return _KEPT[key]
