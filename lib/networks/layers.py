"""Flax layers that know their infinite face.

Each layer is called on features, and has two more methods: `needs(above)`, what it must be told of its input's
covariance for what is asked of its output, and `kernel_step(state)`, from the state below it to the state above.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from lib.checks import check_floating, check_parameterization, check_precision, check_scalar, check_size
from lib.infinite.kernel import State, at_equal_positions


class Dense(nn.Module):
    """A fully connected layer, h = x W + b, with Gaussian weights of variance σ_w² / n for n inputs.

    "ntk":       W = σ_w ω / √n, b = σ_b β, with ω, β ~ N(0, 1) trained
                 K ← σ_w² K + σ_b²,  Θ ← σ_w² K + σ_b² + σ_w² Θ
    "standard":  W = ω ~ N(0, σ_w² / n), b = β ~ N(0, σ_b²), trained
                 K ← σ_w² K + σ_b²,  Θ ← n K + 1 + σ_w² Θ

    Args:
        features: outputs of the layer, its width.
        W_std: σ_w; √2 keeps the variance of a deep ReLU network.
        b_std: σ_b; None for a layer without bias, 0 for one that starts at zero.
        parameterization: "ntk" or "standard".
        precision: of products of float32: "highest" keeps its digits on every device; "tensorfloat32", "bfloat16" and
            "default" are faster on some.

    Raises:
        ValueError, TypeError: for a field that is none of these, or an `x` that is not a floating (N, n) array.

    Example:
        >>> import jax
        >>> layer = Dense(3, W_std=1.5, b_std=0.1)
        >>> params = layer.init(jax.random.key(0), jnp.ones((2, 5)))
        >>> params["params"]["omega"].shape, layer.apply(params, jnp.ones((2, 5))).shape
        ((5, 3), (2, 3))

    Source: Lee et al. 2019, eqs 1, S26-S29 and S36.
    """

    features: int
    W_std: Any = 1.0
    b_std: Any = None
    parameterization: str = "ntk"
    precision: str = "highest"

    def __post_init__(self):
        self.features = check_size("features", self.features)
        self.W_std = check_scalar("W_std", self.W_std)
        self.b_std = None if self.b_std is None else check_scalar("b_std", self.b_std)
        check_parameterization(self.parameterization)
        check_precision(self.precision)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _check_vectors(x)
        return weigh(self, x, (x.shape[1], self.features), lambda omega: jnp.matmul(x, omega, precision=self.precision))

    @nn.nowrap
    def needs(self, above: str) -> str:
        """Vectors, whatever is above."""
        return "vectors"

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """Eqs S26 and S29."""
        if state.positions():
            raise ValueError(
                f"Dense needs vectors, but its input has positions {state.positions()[:2]}; "
                "put Flatten() or GlobalAveragePool() before it"
            )
        return weigh_kernel(self, state)


class Flatten(nn.Module):
    """One vector per example: (N, H, W, C) → (N, H W C). On vectors it does nothing.

    K(x, x′) ← mean over positions p of K_pp(x, x′), and so for Θ. Weights above it see all positions, each with weights
    of its own, so that covariances between different positions need not be known.

    Example:
        >>> Flatten()(jnp.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    def __call__(self, x: Array) -> Array:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    @nn.nowrap
    def needs(self, above: str) -> str:
        """The mean over positions, which of inputs is one product of matrices."""
        return "mean"

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """The mean over positions; of inputs it has been taken where the state was made."""
        if not state.positions():
            return state
        flat = state.map(lambda k: jnp.mean(at_equal_positions(k, len(state.positions())), axis=(0, 1)))
        height, width = state.positions()[:2]
        return flat.replace(features=height * width * state.features, gaussian=False)


def weigh(layer: Any, x: Array, shape: tuple[int, ...], product: Any) -> Array:
    """h = x W + b of a layer with the fields of Dense, whose weights ω have `shape` and act on x by `product(ω)`."""
    standard = layer.parameterization == "standard"
    W_scale = jnp.asarray(layer.W_std / math.prod(shape[:-1]) ** 0.5, x.dtype)
    omega = _parameter(layer, "omega", W_scale if standard else 1, shape, x)
    h = product(omega) if standard else product(omega) * W_scale
    if layer.b_std is None:
        return h
    b_scale = jnp.asarray(layer.b_std, x.dtype)
    beta = _parameter(layer, "beta", b_scale if standard else 1, shape[-1:], x)
    return h + (beta if standard else b_scale * beta)


def weigh_kernel(layer: Any, state: State) -> State:
    """Eqs S26 and S29, where `state` is that of the n inputs of one weighted sum.

    Gradients in the standard parameterisation lack the factors σ_w²/n and σ_b² that scale the others.
    """
    W_var = jnp.asarray(layer.W_std, state.nngp.dtype) ** 2
    b_var = jnp.asarray(0 if layer.b_std is None else layer.b_std, state.nngp.dtype) ** 2
    affine = lambda k: W_var * k + b_var
    nngp = affine(state.nngp)
    if layer.parameterization == "standard":
        own = state.features * state.nngp + (0 if layer.b_std is None else 1)
    else:
        own = nngp
    return state.replace(
        nngp=nngp,
        ntk=own + W_var * state.ntk,
        variance1=affine(state.variance1),
        variance2=affine(state.variance2),
        features=layer.features,
        gaussian=True,
        fresh=True,
    )


def _parameter(layer: Any, name: str, std: Any, shape: tuple[int, ...], x: Array) -> Array:
    if layer.has_variable("params", name) and (found := jnp.shape(layer.get_variable("params", name))) != shape:
        raise ValueError(
            f"`params` of {layer.name or type(layer).__name__} hold {name} of shape {found}, but `x` of shape "
            f"{x.shape} and a width of {layer.features} need {shape}; were they made for other inputs or another "
            "network?"
        )
    return layer.param(name, nn.initializers.normal(std), shape, x.dtype)


def _check_vectors(x: Array) -> Array:
    """`x` as (N, n) floating-point numbers."""
    x = check_floating("x", x)
    if x.ndim != 2:
        raise ValueError(f"Dense needs `x` of shape (N, n), got {x.shape}; images need Flatten() before it")
    return x
