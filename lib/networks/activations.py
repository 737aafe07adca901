"""Activations: nonlinearities that know their dual."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lib.checks import check_scalar
from lib.infinite import duals, smooth_duals
from lib.infinite.kernel import State
from lib.infinite.quadrature import dual_by_quadrature


@dataclass(frozen=True)
class Activation:
    """A nonlinearity and its dual, equal by value: `leaky_relu(0.1) == leaky_relu(0.1)`.

    K ← 𝒯(K),  Θ ← Θ 𝒯̇(K)

    Attributes:
        name: what errors call it.
        function: φ, elementwise, as `function(x, *parameters)`.
        dual: (𝒯, 𝒯̇) as `dual(k11, k12, k22, *parameters)`.
        parameters: hashable.

    Example:
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]

    Source: Lee et al. 2019, eqs S24-S29.
    """

    name: str
    function: Callable = field(repr=False)
    dual: Callable = field(repr=False)
    parameters: tuple = ()

    def __call__(self, x: Array) -> Array:
        return self.function(x, *self.parameters)

    def __deepcopy__(self, memo: dict) -> "Activation":
        return self  # a value, which nobody can change

    def __reduce__(self) -> tuple:
        parts = (self.function, self.dual, *self.parameters)
        return _restored, (self.name, *map(_as_public, parts))

    @property
    def nonlinear(self) -> bool:
        """Whether its dual takes its input to be Gaussian."""
        return self != identity

    def needs(self, above: str) -> str:
        """Each position for itself: what is asked from above, but for the mean over positions."""
        return "diagonal" if above == "mean" and self.nonlinear else above

    def kernel_step(self, state: State) -> State:
        """Eqs S26 and S29 without the weights."""
        if not self.nonlinear:
            return state
        dtype = state.nngp.dtype  # which a traced parameter of more digits leaves as it is
        cast = [p.astype(dtype) if isinstance(p, Array) else p for p in self.parameters]
        return state.through(lambda k11, k12, k22: self.dual(k11, k12, k22, *cast))


def activation(phi: Any) -> Activation:
    """An activation from any scalar function, its dual by quadrature and its derivative by `jax.grad`.

    Args:
        phi: scalar → scalar, differentiable by JAX. See `lib.infinite.quadrature` for the cost of a kink.

    Returns:
        The activation; two made from the same `phi` are equal.

    Raises:
        TypeError: when `phi` is not a function from a real scalar to a real scalar.

    Example:
        >>> activation(jnp.tanh)(jnp.zeros(3)).tolist()
        [0.0, 0.0, 0.0]

    Source: Lee et al. 2019, eq S24.
    """
    if not callable(phi):
        raise TypeError(f"`phi` must be a function of a scalar, such as jnp.tanh, got {phi!r}")
    result = jax.eval_shape(phi, jax.ShapeDtypeStruct((), jnp.float32))
    if jnp.shape(result) != () or not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"`phi` must take a real scalar to a real scalar, but it returns {result}")
    return Activation(getattr(phi, "__name__", repr(phi)), _elementwise, dual_by_quadrature, (phi,))


def leaky_relu(a: float | Array) -> Activation:
    """φ(u) = max(u, 0) + a min(u, 0).

    Args:
        a: the slope below 0.

    Returns:
        The activation.

    Raises:
        TypeError: when `a` is not a real number.

    Example:
        >>> leaky_relu(0.1)(jnp.array([-1.0, 2.0])).tolist() == [jnp.float32(-0.1), 2.0]
        True
    """
    return Activation("leaky_relu", jax.nn.leaky_relu, duals.leaky_relu, (check_scalar("a", a),))


def polynomial(coefficients: Any) -> Activation:
    """φ(u) = Σ_i c_i uⁱ.

    Args:
        coefficients: c_0, c_1, …: of the constant first; (0, 0, 0, 1) is the cube.

    Returns:
        The activation.

    Raises:
        TypeError: when `coefficients` is not a sequence of real numbers.
        ValueError: when there are none.

    Example:
        >>> polynomial((1, 0, 2))(jnp.array([-1.0, 2.0])).tolist()
        [3.0, 9.0]
    """
    if not isinstance(coefficients, Sequence | np.ndarray | Array) or isinstance(coefficients, str):
        raise TypeError(
            f"`coefficients` must be a sequence of real numbers, of the constant first, got {coefficients!r}"
        )
    if len(coefficients) == 0:
        raise ValueError("`coefficients` must hold at least one number, of the constant first")
    numbers = tuple(check_scalar(f"coefficients[{i}]", c) for i, c in enumerate(coefficients))
    return Activation("polynomial", _polynomial, smooth_duals.polynomial, numbers)


class _Public(NamedTuple):
    """Where a function is found: pickle looks for those of JAX, and for wrapped ones, in other places."""

    module: str
    name: str


# Where functions of activations are found by name, whatever they are called inside.
PUBLIC = {module.__name__: module for module in (jnp, jax.nn, jax.scipy.special, duals, smooth_duals)}


def _as_public(value: Any) -> Any:
    name = getattr(value, "__name__", "")
    for home, module in PUBLIC.items():
        if getattr(module, name, None) is value:
            return _Public(home, name)
    return value


def _restored(name: str, *parts: Any) -> Activation:
    found = (getattr(PUBLIC[p.module], p.name) if isinstance(p, _Public) else p for p in parts)
    function, dual, *parameters = found
    return Activation(name, function, dual, tuple(parameters))


def _elementwise(x: Array, phi: Callable) -> Array:
    return jnp.vectorize(phi)(x)


def _identity(x: Array) -> Array:
    return x


def _polynomial(x: Array, *coefficients: float | Array) -> Array:
    return jnp.polyval(jnp.asarray(coefficients[::-1], x.dtype), x)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _sigmoid_like(x: Array) -> Array:
    return (1 + jax.scipy.special.erf(x / duals.SIGMOID_SCALE)) / 2


def _gaussian(x: Array) -> Array:
    return jnp.exp(-(x**2))


relu = Activation("relu", jax.nn.relu, duals.relu)
absolute = Activation("absolute", jax.nn.leaky_relu, duals.leaky_relu, (-1.0,))
erf = Activation("erf", jax.scipy.special.erf, duals.erf)
sigmoid_like = Activation("sigmoid_like", _sigmoid_like, duals.sigmoid_like)
gelu = Activation("gelu", _gelu, smooth_duals.gelu)
tanh = activation(jnp.tanh)
sin = Activation("sin", jnp.sin, smooth_duals.sin)
cos = Activation("cos", jnp.cos, smooth_duals.cos)
gaussian = Activation("gaussian", _gaussian, smooth_duals.gaussian)
identity = Activation("identity", _identity, duals.identity)
