"""The infinite face of a network: its two kernels, and what its layers hand on to compute them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Kernel(NamedTuple):
    """The covariance and the tangent kernel of an infinitely wide network, each the factor of an identity over outputs.

    K(x, x′) = lim E[f_a(x) f_a(x′)],  Θ(x, x′) = lim ⟨∇_θ f_a(x), ∇_θ f_a(x′)⟩,  for every output a

    Attributes:
        nngp: K, (N1, N2).
        ntk: Θ, (N1, N2).

    Example:
        >>> k = Kernel(nngp=jnp.eye(2), ntk=2 * jnp.eye(2))
        >>> k.ntk.shape
        (2, 2)

    Source: Lee et al. 2019, eqs S26 and S29.
    """

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]


class State(NamedTuple):
    """What is known, half way up a network, about one feature of two batches of inputs.

    Attributes:
        nngp: E[h(x) h(x′)], (N1, N2).
        ntk: Θ of the layers below, (N1, N2).
        variance1, variance2: E[h(x)²] of each batch, (N1,) and (N2,): kept apart from `nngp`, so that they are exact.
        features: how many features h has in a network of finite width; matters to the standard parameterisation only.
        gaussian: whether features are Gaussian and independent, as a nonlinearity needs them.
        same: whether the two batches are one, and the diagonal of `nngp` is `variance1`.
    """

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]
    variance1: Float[Array, " n1"]
    variance2: Float[Array, " n2"]
    features: int
    gaussian: bool
    same: bool

    def pair(self) -> tuple[Array, Array, Array]:
        """(k11, k12, k22) of every pair of inputs, as duals take them; k12 = k11 exactly where x is x′."""
        k11, k22 = self.variance1[:, None], self.variance2[None, :]
        k12 = self.nngp
        if self.same:
            k12 = jnp.where(jnp.eye(len(k11), dtype=bool), k11, k12)
        return k11, k12, k22


def input_state(x1: Array, x2: Array | None, need: str) -> State:
    """The state below the first layer: K⁰(x, x′) = x · x′ / n₀ and Θ⁰ = 0.

    Args:
        x1, x2: inputs (N1, ...) and (N2, ...); `x2=None` means that they are the same.
        need: what the network asks for: "vectors", or "mean" of all positions and channels.

    Raises:
        TypeError: when inputs are not real floating-point arrays.
        ValueError: when `x1` and `x2` differ after the first axis, or have the wrong rank.
    """
    same = x2 is None
    x1 = _check_input("x1", x1, need)
    x2 = x1 if same else _check_input("x2", x2, need)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"`x2` must have the shape of `x1` after its first axis, {x1.shape[1:]}, got {x2.shape[1:]}")
    x1, x2 = x1.reshape(len(x1), -1), x2.reshape(len(x2), -1)
    features = x1.shape[1]
    nngp = jnp.matmul(x1, x2.T, precision="highest") / features
    variance1 = jnp.mean(x1**2, axis=1)
    variance2 = variance1 if same else jnp.mean(x2**2, axis=1)
    return State(nngp, jnp.zeros_like(nngp), variance1, variance2, features, gaussian=False, same=same)


def check_floating(name: str, x: Array) -> Array:
    """`x` as an array, if it holds real floating-point numbers."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold floating-point numbers, got {x.dtype}; convert it with `.astype(float)`")
    return x


def _check_input(name: str, x: Array, need: str) -> Array:
    x = check_floating(name, x)
    if need == "vectors" and x.ndim != 2:
        hint = "put Flatten() before the first Dense" if x.ndim > 2 else "a single input is x[None]"
        raise ValueError(f"`{name}` must have shape (N, d), got {x.shape}; {hint}")
    if x.ndim < 2:
        raise ValueError(f"`{name}` must have shape (N, ...) with at least two axes, got {x.shape}; add the axis of N")
    if 0 in x.shape[1:]:
        raise ValueError(f"`{name}` must hold at least one feature, got shape {x.shape}")
    return x
