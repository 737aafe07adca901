"""Activations: nonlinearities that know their dual."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lib import duals
from lib.kernels import State


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

    def needs(self, above: str) -> str:
        """Each position for itself: what is asked from above."""
        return above

    def kernel_step(self, state: State) -> State:
        """Eqs S26 and S29 without the weights."""
        if self == identity:
            return state
        dual = lambda k11, k12, k22: self.dual(k11, k12, k22, *self.parameters)
        nngp, slope = dual(*state.pair())
        variance1 = dual(*3 * (state.variance1,))[0]
        variance2 = variance1 if state.same else dual(*3 * (state.variance2,))[0]
        return state._replace(
            nngp=nngp, ntk=state.ntk * slope, variance1=variance1, variance2=variance2, gaussian=False
        )


def activation(phi: Any) -> Activation:
    """An activation from any scalar function, its dual by quadrature and its derivative by `jax.grad`.

    Args:
        phi: scalar → scalar, differentiable by JAX. See `lib.duals.quadrature` for what a kink costs.

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
    return Activation(getattr(phi, "__name__", repr(phi)), _elementwise, duals.quadrature, (phi,))


def _elementwise(x: Array, phi: Callable) -> Array:
    return jnp.vectorize(phi)(x)


def _identity(x: Array) -> Array:
    return x


relu = Activation("relu", jax.nn.relu, duals.relu)
erf = Activation("erf", jax.scipy.special.erf, duals.erf)
tanh = activation(jnp.tanh)
identity = Activation("identity", _identity, duals.identity)
