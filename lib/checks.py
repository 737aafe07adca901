"""Arguments at the door: what they must be, or an error that names them."""

from operator import index
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, PyTree

# Of products of float32: all of its digits, or fewer and faster where the device can. On a CPU all are the same.
PRECISIONS = ("highest", "high", "default", "float32", "tensorfloat32", "bfloat16")


def check_size(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`, or an error that names the argument."""
    if isinstance(value, bool | np.bool) or not hasattr(value, "__index__") or jnp.ndim(value):
        raise TypeError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    try:
        number = index(value)
    except (TypeError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            f"`{name}` must be an integer of at least {least} that is known before compilation, got {value!r}"
        ) from error
    if number < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {number}")
    return number


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Two integers of at least 1, (height, width), or an error that names the argument."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"`{name}` must be a pair (height, width), got {value!r}")
    height, width = (check_size(name, v) for v in value)
    return height, width


def check_scalar(name: str, value: Any, least: float | None = None) -> Any:
    """A Python float, which promotes no dtype, or a traced scalar as it is; at least `least`, where that is known."""
    number = isinstance(value, int | float | np.number | np.ndarray | Array) and not isinstance(value, bool)
    if not number or jnp.ndim(value) or not (jnp.isdtype(jnp.result_type(value), ("integral", "real floating"))):
        raise TypeError(f"`{name}` must be a real number, got {value!r}")
    try:
        value = float(value)
    except jax.errors.ConcretizationTypeError:
        return value
    if least is not None and not value >= least:
        raise ValueError(f"`{name}` must be a number of at least {least:g}, got {value!r}")
    return value


def known(condition: Any) -> bool:
    """Whether a condition is known to hold: inside `jit` it may not be known yet."""
    try:
        return bool(condition)
    except jax.errors.ConcretizationTypeError:
        return False


def check_steps(steps: Any) -> Array:
    """Numbers of steps as an array of integers from 0 on, each as it came."""
    count = steps if isinstance(steps, Array) else np.asarray(steps)
    if count.size == 0 and not isinstance(steps, Array | np.ndarray):
        count = count.astype(int)  # an empty list is one of floats to NumPy
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise TypeError(f"`steps` must be an integer or an array of integers, got {count.dtype}; is this a time?")
    if known((count < 0).any()):
        raise ValueError(f"`steps` must be 0 or more, got {int(count.min())}")
    kept = jnp.asarray(count)
    if isinstance(count, np.ndarray) and (count.astype(kept.dtype) != count).any():
        raise ValueError(f"`steps` must fit into {kept.dtype}, got {int(count.max())}; switch JAX's 64-bit mode on")
    return kept


def as_array(name: str, value: Any) -> Array:
    """An array of numbers, or an error that names the argument; a kernel is a pair of arrays, and not one."""
    if hasattr(value, "nngp") and hasattr(value, "ntk"):
        raise TypeError(f"`{name}` must be an array, got a {type(value).__name__}; take its .ntk or its .nngp")
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be an array of numbers, got {type(value).__name__}") from error


def as_real(name: str, value: Any, dtype: Any = float) -> Array:
    """Real numbers as an array of floating-point ones; integers, which would wrap around in differences, in `dtype`."""
    array = as_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if not (jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool):
            raise TypeError(f"`{name}` must hold real numbers, got {array.dtype}")
        array = jnp.asarray(value if isinstance(value, Array) else np.asarray(value, float), dtype)
    return array


def as_kernel(name: str, value: Any) -> Array:
    """A kernel as an array of single or double precision, in which it can be decomposed; or an error that names it."""
    array = as_array(name, value)
    if array.dtype == bool or (jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits < 32):
        raise TypeError(f"`{name}` must hold numbers of single or double precision, got {array.dtype}; convert it")
    return as_real(name, array)


def as_numbers(name: str, value: Any, least: float | None = None) -> Array | np.ndarray:
    """A number or an array, each at least `least` where that is known; NumPy's keep their digits until a dtype is."""
    numbers = as_array(name, value)
    if not jnp.issubdtype(numbers.dtype, jnp.floating) and not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be a real number or an array of them, got {value!r}")
    if least is not None and known((numbers < least).any()):
        raise ValueError(f"`{name}` must be {least:g} or more, got {numbers.min()}")
    return value if isinstance(value, Array) else np.asarray(value, float)


def check_symmetric(name: str, matrix: Array) -> Array:
    """A symmetric matrix as it is, or an error that names the argument; NaN inside `jit`, where nothing can be raised.

    Kernels are often made in single precision, whatever their dtype: rounding of those passes.
    """
    if jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must hold real numbers, got {matrix.dtype}")
    tolerance = max(float(jnp.finfo(jnp.promote_types(matrix.dtype, jnp.float32)).eps) ** 0.5, 1e-5)
    asymmetric, difference = _asymmetry(jax.lax.stop_gradient(matrix), tolerance)
    if known(asymmetric):
        raise ValueError(
            f"`{name}` must be symmetric, got a matrix that differs from its transpose by {float(difference):.2g} of "
            "its largest entry; is it a kernel of test × training inputs?"
        )
    return matrix if known(~asymmetric) else jnp.where(asymmetric, jnp.nan, matrix)


@jax.jit
def _asymmetry(matrix: Array, tolerance: ArrayLike) -> tuple[Array, Array]:
    difference, size = abs(matrix - matrix.mT).max(initial=0.0), abs(matrix).max(initial=0.0)
    return difference > tolerance * size, difference / jnp.where(size > 0, size, 1.0)


def check_targets(y: Any, f0_x: Any = None, dtype: Any = float) -> Array:
    """`y` as (N, K) targets, which outputs at initialisation have to fit where they are given; integers in `dtype`."""
    y = as_real("y", y, dtype)
    if y.ndim != 2:
        raise ValueError(f"`y` must have shape (N, K), got {y.shape}; a single output is (N, 1)")
    if f0_x is not None and as_array("f0_x", f0_x).shape != y.shape:
        raise ValueError(f"`f0_x` must have the shape of `y`, {y.shape}, got {jnp.shape(f0_x)}")
    return y


def check_loss(loss: Any, f: Any, y: Any) -> None:
    """That a loss takes outputs and targets, or their shapes and dtypes, to one floating-point number."""
    if not callable(loss):
        raise TypeError(f"`loss` must be a function loss(f, y), got {type(loss).__name__}")
    value = jax.eval_shape(loss, f, y)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
        got = getattr(value, "shape", None)
        got = f"a {type(value).__name__}" if got is None else f"an array of shape {got}"
        raise ValueError(f"`loss` must return one number, got {got}; sum over examples")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"`loss` must return a floating-point number, got {value.dtype}; it has no gradient")


def check_optimizer(optimizer: Any) -> None:
    """That it is an optimiser of Optax."""
    if not isinstance(optimizer, optax.GradientTransformation):
        hint = "; take its .gradient_transformation()" if hasattr(optimizer, "gradient_transformation") else ""
        raise TypeError(
            f"`optimizer` must be an Optax optimiser such as optax.sgd(0.1), got {type(optimizer).__name__}{hint}"
        )


def check_params(name: str, params: PyTree, dtype: Any = jnp.floating) -> PyTree:
    """Parameters as arrays that derivatives can be taken by, or an error that names the leaf."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, int | float | complex) else leaf, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, dtype):
            kind = "floating-point numbers" if dtype == jnp.inexact else "real floating-point numbers"
            raise TypeError(
                f"`{name}`{jax.tree_util.keystr(path)} must hold {kind}, got {getattr(leaf, 'dtype', leaf)!s}; "
                "close over what is not trained, such as counters and keys, and split complex numbers in two"
            )
    return params


def check_examples(name: str, x: PyTree) -> int:
    """The number of examples in a batch, the first axis of every array in it, or an error that names the argument."""
    counts = {np.shape(leaf)[:1] if not hasattr(leaf, "shape") else leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(counts) != 1 or () in counts:
        shapes = jax.tree.map(np.shape, x)
        raise ValueError(
            f"`{name}` must hold arrays with examples along their first axis, as many in each, got {shapes}"
        )
    return counts.pop()[0]


def check_parameterization(value: Any) -> None:
    """That it is one of the two."""
    if value not in ("ntk", "standard"):
        raise ValueError(f'`parameterization` must be "ntk" or "standard", got {value!r}')


def check_precision(value: Any) -> str:
    """How exact a device's products of single precision are: one of JAX's names for it."""
    if value not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {value!r}")
    return value


def check_floating(name: str, x: Array) -> Array:
    """`x` as an array, if it holds real floating-point numbers."""
    x = as_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold floating-point numbers, got {x.dtype}; convert it with `.astype(float)`")
    return x


def check_images(layer: str, x: Array) -> Array:
    """`x` as (N, H, W, C) floating-point numbers, or an error that names the layer."""
    x = check_floating("x", x)
    if x.ndim != 4:
        raise ValueError(f"{layer} needs `x` of shape (N, H, W, C), got {x.shape}")
    return x
