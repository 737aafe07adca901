"""Arguments at the door: what they must be, or an error that names them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def check_size(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`, or an error that names the argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    return int(value)


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Two integers of at least 1, (height, width), or an error that names the argument."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"`{name}` must be a pair (height, width), got {value!r}")
    height, width = (check_size(name, v) for v in value)
    return height, width


def scalar(name: str, value: Any) -> Any:
    """A Python float, which promotes no dtype, or a traced scalar as it is."""
    real = isinstance(value, int | float | np.number | np.ndarray | Array) and jnp.isrealobj(value)
    if real and jnp.ndim(value) == 0:
        try:
            return float(value)
        except jax.errors.ConcretizationTypeError:
            return value
    raise TypeError(f"`{name}` must be a real number, got {value!r}")


def known(condition: Array) -> bool:
    """Whether a condition is known to hold: inside `jit` it may not be known yet."""
    try:
        return bool(condition)
    except jax.errors.ConcretizationTypeError:
        return False


def check_parameterization(value: Any) -> None:
    """Or an error that names the argument."""
    if value not in ("ntk", "standard"):
        raise ValueError(f'`parameterization` must be "ntk" or "standard", got {value!r}')


def check_floating(name: str, x: Array) -> Array:
    """`x` as an array, if it holds real floating-point numbers."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold floating-point numbers, got {x.dtype}; convert it with `.astype(float)`")
    return x


def check_images(layer: str, x: Array) -> Array:
    """`x` as (N, H, W, C) floating-point numbers, or an error that names the layer."""
    x = check_floating("x", x)
    if x.ndim != 4:
        raise ValueError(f"{layer} needs `x` of shape (N, H, W, C), got {x.shape}")
    return x
