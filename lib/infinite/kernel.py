"""The infinite face of a network: its two kernels, and what its layers hand on to compute them."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lib.checks import check_floating


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


class State(struct.PyTreeNode):
    """What is known, half way up a network, about one feature of two batches of inputs: a pytree of four arrays.

    Of vectors, arrays have the shapes below. Of images they have axes of positions before those: (H, W) where only
    covariances between equal positions are needed, (H, W, H, W) where those of all pairs of positions are.

    Attributes:
        nngp: E[h(x) h(x′)], (..., N1, N2).
        ntk: Θ of the layers below, (..., N1, N2).
        variance1, variance2: the covariance of each input with itself, (..., N1) and (..., N2): apart from `nngp`, so
            that they are exact.
        features: how many features h has in a network of finite width; matters to the standard parameterisation only.
        gaussian: whether features are Gaussian and independent, as a nonlinearity needs them.
        same: whether the two batches are one, and the diagonal of `nngp` is `variance1`.
        fresh: whether weights have made h independent, given it, of the input of the branch that h stands in; None
            where h is a linear function of that input.
    """

    nngp: Any  # no shapes here: JAX makes pytrees of whatever stands for arrays
    ntk: Any
    variance1: Any
    variance2: Any
    features: int = struct.field(pytree_node=False)
    gaussian: bool = struct.field(pytree_node=False)
    same: bool = struct.field(pytree_node=False)
    fresh: bool | None = struct.field(pytree_node=False, default=None)

    def positions(self) -> tuple[int, ...]:
        """The axes before those of examples: none, (H, W), or (H, W, H, W)."""
        return self.nngp.shape[:-2]

    def pair(self) -> tuple[Array, Array, Array]:
        """(k11, k12, k22) of every pair of inputs, as duals take them; k12 = k11 exactly where x is x′."""
        k12 = self.nngp
        if self.same:
            k12 = jnp.where(jnp.eye(k12.shape[-1], dtype=bool), self.variance1[..., None], k12)
        k11, k22 = _at_positions(self.variance1)[0][..., :, None], _at_positions(self.variance2)[1][..., None, :]
        return k11, k12, k22

    def own_pairs(self) -> list[tuple[Array, Array, Array]]:
        """(k11, k12, k22) within each input, of the first batch and of the second."""
        batches = [self.variance1] if self.same else [self.variance1, self.variance2]
        pairs = [(_at_positions(own)[0], own, _at_positions(own)[1]) for own in batches]
        return pairs * (2 if self.same else 1)

    def through(self, dual: Callable[[Array, Array, Array], tuple[Array, Array]]) -> "State":
        """The state above a nonlinearity of this dual, (k11, k12, k22) → (𝒯, 𝒯̇): eqs S26 and S29 without the weights.

        Of an input with itself the dual sees its variance alone. A compiler may round a variance that it needs in two
        places in two ways, and of the angle between the two, the root of that difference, 𝒯̇ of ReLU is a function.
        """
        own1 = _within_inputs(dual, self.variance1)
        own2 = own1 if self.same else _within_inputs(dual, self.variance2)
        between = dual(*self.pair())
        if self.same:
            one = jnp.eye(between[0].shape[-1], dtype=bool)
            between = [jnp.where(one, own[..., None], k) for own, k in zip(own1, between, strict=True)]
        return self.replace(
            nngp=between[0],
            ntk=self.ntk * between[1],
            variance1=own1[0],
            variance2=own2[0],
            gaussian=False,
            fresh=False,
        )

    def map(self, f: Callable[[Array], Array]) -> "State":
        """`f` of all four arrays, for what acts on positions alone."""
        variance1 = f(self.variance1)
        variance2 = variance1 if self.same else f(self.variance2)
        return self.replace(nngp=f(self.nngp), ntk=f(self.ntk), variance1=variance1, variance2=variance2)


@partial(jax.jit, static_argnames="need")
def input_state(x1: Array, x2: Array | None, need: str) -> State:
    """The state below the first layer: K⁰(x, x′) = x · x′ / n₀ and Θ⁰ = 0.

    Args:
        x1, x2: inputs (N1, ...) and (N2, ...); `x2=None` means that they are the same.
        need: what the network asks for: "vectors", or the "mean" over all positions and channels of images, or channels
            of equal positions ("diagonal") or of all pairs of positions ("full").

    Raises:
        TypeError: when inputs are not real floating-point arrays.
        ValueError: when `x1` and `x2` differ after the first axis, or have the wrong rank.
    """
    same = x2 is None
    x1, x2 = check_inputs(x1, x2, need)
    if need == "mean":
        x1, x2 = (x.reshape(len(x), prod(x.shape[1:])) for x in (x1, x2))
    features = x1.shape[-1]
    first, second, positions = "ac", "bc", ""
    if x1.ndim == 4:
        first, second, positions = ("ahwc", "bijc", "hwij") if need == "full" else ("ahwc", "bhwc", "hw")
    product = lambda formula, a, b: jnp.einsum(formula, a, b, precision="highest") / features
    own = lambda x: product(f"{first},{second.replace('b', 'a')}->{positions}a", x, x)
    nngp = product(f"{first},{second}->{positions}ab", x1, x2)
    variance1 = own(x1)
    variance2 = variance1 if same else own(x2)
    return State(nngp, jnp.zeros_like(nngp), variance1, variance2, features, gaussian=False, same=same)


def check_inputs(x1: Array, x2: Array | None, need: str) -> tuple[Array, Array]:
    """Both batches as arrays of the rank that is needed and of one shape, or an error that names the argument."""
    x1 = _check_input("x1", x1, need)
    x2 = x1 if x2 is None else _check_input("x2", x2, need)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"`x2` must have the shape of `x1` after its first axis, {x1.shape[1:]}, got {x2.shape[1:]}")
    return x1, x2


def at_equal_positions(k: Array, positions: int) -> Array:
    """(H, W, H, W, ...) → (H, W, ...), for `positions` = 4 of them; fewer stay as they are."""
    return jnp.einsum("hwhw...->hw...", k) if positions == 4 else k


def _at_positions(own: Array) -> tuple[Array, Array]:
    """The variances within (..., N), of the first position of each pair and of the second."""
    if own.ndim < 5:
        return own, own
    variance = at_equal_positions(own, 4)
    return variance[:, :, None, None], variance[None, None]


def _within_inputs(dual: Callable, own: Array) -> list[Array]:
    """(𝒯, 𝒯̇) of each input with itself, at one position or between two; at one, k11 is k12 is k22."""
    v = at_equal_positions(own, own.ndim - 1)
    at_one = dual(v, v, v)
    if own.ndim < 5:
        return list(at_one)
    positions = v.shape[0] * v.shape[1]
    one = jnp.eye(positions, dtype=bool).reshape(*own.shape[:4], 1)
    between = dual(v[:, :, None, None], own, v)
    return [jnp.where(one, k[:, :, None, None], k_between) for k, k_between in zip(at_one, between, strict=True)]


def _check_input(name: str, x: Array, need: str) -> Array:
    x = check_floating(name, x)
    if need == "vectors" and x.ndim != 2:
        hint = "put Flatten() before the first Dense" if x.ndim > 2 else "a single input is x[None]"
        raise ValueError(f"`{name}` must have shape (N, d), got {x.shape}; {hint}")
    if x.ndim < 2:
        raise ValueError(f"`{name}` must have shape (N, ...) with at least two axes, got {x.shape}; add the axis of N")
    if need in ("diagonal", "full") and x.ndim not in (2, 4):
        raise ValueError(f"`{name}` must have shape (N, H, W, C), got {x.shape}; grey images are x[..., None]")
    if 0 in x.shape[1:]:
        raise ValueError(f"`{name}` must hold at least one feature, got shape {x.shape}")
    return x
