"""Filters made of filters: one after another, averaged over their steps, or with decay toward the first weights."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from lib.checks import as_numbers, as_real
from lib.training.filters import Filter, check_filter, floating, not_negative


def then(first: Filter, second: Filter) -> Filter:
    """One optimiser after another: `second` starts from rest where `first` has come.

    g = g₁ g₂,  h = h₁ + g₁ h₂

    For descent this is a change of the learning rate. Momentum restarts at 0 in between, so the product of two heavy
    balls of i steps is not the heavy ball of 2i steps; nor does a product describe decay, which pulls to the weights
    before `first`.

    Args:
        first, second: filters whose times have shapes that broadcast.

    Returns:
        The filter.

    Raises:
        TypeError: when `first` or `second` is no Filter.

    Example:
        >>> from lib.training.filters import descent
        >>> then(descent(1.0, 1), descent(0.5, 1)).residual(jnp.array([0.5])).item()  # (1 − 0.5)(1 − 0.25)
        0.375

    Source: Lee et al. 2019, eq 9: f − y is all that the flow remembers.
    """
    check_filter("first", first)
    check_filter("second", second)
    return Filter(Partial(_then_residual, first, second), Partial(_then_response, first, second))


def averaged(filter: Filter, weights: Float[Array, " i"] | Sequence[float] | None = None) -> Filter:
    """The average of an optimiser's iterates: outputs and weights are linear in g and h, so these are averaged.

    g = Σ_i w_i g_i / Σ_i w_i,  h = Σ_i w_i h_i / Σ_i w_i

    `averaged(descent(η, jnp.arange(i)))` is Polyak's average of the first i iterates; there g = h_i/(ηi).

    Args:
        filter: made with an array of steps or times, of which the last axis is averaged: memory for all of them.
        weights: w (i,), one for each entry of that axis, such as 0.9^(i−j) for an exponential average; left out,
            all equal.

    Returns:
        The filter; its functions map (n,) to (..., n), the last axis of the steps gone.

    Raises:
        TypeError: when `filter` is no Filter, or `weights` are no real numbers.
        ValueError: when `filter` was made with a single step, or with none, or `weights` have another length.

    Example:
        >>> from lib.training.filters import descent
        >>> averaged(descent(0.5, jnp.arange(3))).residual(jnp.ones(1)).item()  # (1 + ½ + ¼)/3
        0.5833333...

    Source: Polyak & Juditsky 1992 (`polyak1992averaging`).
    """
    check_filter("filter", filter)
    steps = jax.eval_shape(filter.residual, jax.ShapeDtypeStruct((1,), jnp.float32)).shape[:-1]
    if not steps or steps[-1] == 0:
        raise ValueError("`filter` must be made with an array of steps to be averaged, such as jnp.arange(100)")
    weights = jnp.ones(steps[-1]) if weights is None else as_real("weights", weights)
    if weights.shape != steps[-1:]:
        raise ValueError(f"`weights` must have shape {steps[-1:]}, the last axis of the steps, got {weights.shape}")
    return Filter(Partial(_average, weights, filter.residual), Partial(_average, weights, filter.response))


def decayed(filter: Filter, decay: ArrayLike) -> Filter:
    """An optimiser whose loss includes ½ µ |θ − θ₀|²: decay toward the weights at initialisation.

    h(λ) = h₀(λ + µ),  g(λ) = (µ + λ g₀(λ + µ))/(λ + µ)

    `decayed(flow(t), µ)` has g = (µ + λ e^{−(λ+µ)t})/(λ + µ), h = (1 − e^{−(λ+µ)t})/(λ + µ), and at t = ∞ it is the
    posterior mean with noise variance µ. Decay toward 0, as of `optax.add_decayed_weights`, is no filter: it also
    changes the outputs at initialisation.

    Args:
        filter: the optimiser (g₀, h₀) without decay: flow, descent, heavy ball, Nesterov.
        decay: µ, in units of the total loss.

    Returns:
        The filter.

    Raises:
        TypeError: when `filter` is no Filter, or `decay` no real number.
        ValueError: when `decay` is below 0.

    Example:
        >>> from lib.training.filters import flow
        >>> decayed(flow(jnp.inf), 1.0).response(jnp.array([0.0, 1.0])).tolist()  # 1/(λ + µ)
        [1.0, 0.5]

    Source: kernel ridge regression as a flow, Hu et al. 2020 (`hu2020noisy`).
    """
    check_filter("filter", filter)
    mu = as_numbers("decay", decay, least=0)
    return Filter(Partial(_decayed_residual, filter, mu), Partial(_decayed_response, filter, mu))


@floating
def _then_residual(first: Filter, second: Filter, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    return first.residual(eigenvalues) * second.residual(eigenvalues)


@floating
def _then_response(first: Filter, second: Filter, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    return first.response(eigenvalues) + first.residual(eigenvalues) * second.response(eigenvalues)


@floating
def _average(
    weights: Float[Array, " i"], function: Callable[[Array], Array], eigenvalues: Float[Array, " n"]
) -> Float[Array, "*t n"]:
    values = function(eigenvalues)
    share = weights.astype(values.dtype)
    return jnp.einsum("i,...in->...n", share / share.sum(), values, precision="highest")


@floating
def _decayed_residual(filter: Filter, decay: ArrayLike, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    # = (µ + λ g₀)/(λ + µ), without a division by 0
    mu = jnp.asarray(decay, eigenvalues.dtype)
    total = not_negative(eigenvalues) + mu
    return filter.residual(total) + mu * filter.response(total)


@floating
def _decayed_response(filter: Filter, decay: ArrayLike, eigenvalues: Float[Array, " n"]) -> Float[Array, "*t n"]:
    return filter.response(not_negative(eigenvalues) + jnp.asarray(decay, eigenvalues.dtype))
