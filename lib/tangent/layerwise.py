"""The finite-width tangent kernel, layer by layer, without the Jacobian."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from lib.checks import check_examples
from lib.networks.convolution import Conv, for_each_image
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn, is_module
from lib.tangent.coupling import COUPLED, acts_on_batch
from lib.tangent.jacobians import check_batches, inner_products, resized
from lib.tangent.taps import Factors, NotLayered, backprop, weighted_layers


def empirical_ntk_by_layer(
    net: Network, params: PyTree, x1: PyTree, x2: PyTree | None = None
) -> dict[str, Float[Array, "n1 n2 k k"]]:
    """The share of every layer in the finite-width tangent kernel; their sum is `empirical_ntk`.

    Θ̂_l(x, x′)_ab = Σ_pq (σ_w²/n x_p·x′_q + σ_b²) δ_ap·δ′_bq,  δ_ap = ∂f_a/∂h_p

    with p and q over the positions of a convolution, where x_p are the n inputs within the window at p; a dense layer
    has one. In the standard parameterisation σ_w²/n and σ_b² are 1. Without a bias the second term is missing.

    Args:
        net: a network whose parameters are all those of Dense and Conv.
        params: θ.
        x1: inputs, (N1, ...).
        x2: inputs, (N2, ...); left out it is `x1`.

    Returns:
        Θ̂_l (N1, N2, K, K) of each layer, by its name in `params`, from the first up.

    Raises:
        TypeError: when `net` is not a Flax module, or parameters or outputs are not real floating-point numbers.
        ValueError: when parameters act elsewhere than in Dense and Conv, or examples on each other; when `x1` and `x2`
            differ in anything but their first axis, or `net` does not return (N, K).

    Example:
        >>> from lib import fully_connected, relu
        >>> net, x = fully_connected(64, 1, 2, relu, W_std=1.4, b_std=0.1), jnp.eye(3)
        >>> layers = empirical_ntk_by_layer(net, net.init(jax.random.key(0), x), x)
        >>> {name: theta.shape for name, theta in layers.items()}
        {'layers_1': (3, 3, 2, 2), 'layers_3': (3, 3, 2, 2)}

    Source: Lee et al. 2019, eq 4, by the chain rule; Novak et al. 2022.
    """
    if not is_module(net):
        raise TypeError(f"`net` must be a Flax module, whose layers can be told apart, got {type(net).__name__}")
    outputs = check_batches(net, params, x1, x2).shape[1]
    n1, n2 = check_examples("x1", x1), check_examples("x2", x1 if x2 is None else x2)
    try:
        if acts_on_batch(net, params, x1):
            raise NotLayered(COUPLED)
        layers = weighted_layers(net, params, resized(x1, max(n1, 1)))
    except NotLayered as error:
        raise ValueError(f"`net` has no kernel by layer, because {error}; `empirical_ntk` takes it whole") from error
    if n1 * n2 == 0:
        return {name: jnp.zeros((n1, n2, outputs, outputs), call.output.dtype) for name, call in layers.items()}
    apply_fn = as_apply_fn(net)
    one = layer_factors(apply_fn, params, x1)
    two = None if x2 is None else layer_factors(apply_fn, params, x2)
    share = lambda layer, name: layer_ntk(layer, one[name], two and two[name]).transpose(1, 3, 0, 2)
    return {name: share(call.layer, name) for name, call in layers.items()}


@jax.jit
def layer_factors(apply_fn: ApplyFn, params: PyTree, x: PyTree) -> dict[str, Factors]:
    """What `backprop` gives for every layer, by its name."""
    return backprop(apply_fn, params, x)


@partial(jax.jit, static_argnums=(0, 1))
def sum_of_layers(layers: tuple, memory: int, one: dict, two: dict | None) -> Float[Array, "n1 n2 k k"]:
    """Θ̂ of the (name, layer) in `layers`."""
    shares = [layer_ntk(layer, one[name], two and two[name], memory) for name, layer in layers]
    return reduce(jnp.add, shares).transpose(1, 3, 0, 2)


@partial(jax.jit, static_argnums=(0, 3))
def layer_ntk(layer: Any, one: Factors, two: Factors | None, memory: int = 2**30) -> Float[Array, "k n1 k n2"]:
    """The share of one layer, Dense or Conv; outputs first, so that products of matrices need no transposition.

    Args:
        layer: with the fields of Dense, and without parameters and scales.
        one, two: what `backprop` gives for two batches; `two=None` means that they are the same.
        memory: bytes that the work on a convolution's weights may take.
    """
    (x1, delta1, (W_var, b_var)), (x2, delta2, _) = one, one if two is None else two
    if not isinstance(layer, Conv):
        covariance = W_var * inner_products(x1, x2) + b_var
        return covariance[None, :, None] * inner_products(delta1, delta2)

    images1, images2 = layer.padded(x1), layer.padded(x2)
    patches = jax.eval_shape(partial(_patches, layer), images1[0])  # (P, n)
    delta1, delta2 = (delta.reshape(*delta.shape[:2], patches.shape[0], -1) for delta in (delta1, delta2))
    positions, inputs = patches.shape
    by_positions, by_gradients = _operations(len(x1), len(x2), len(delta1), positions, inputs, layer.features)
    row = (len(delta1) * positions) ** 2 * len(x2) * delta1.dtype.itemsize
    if by_positions < by_gradients and row <= memory:
        own = _by_positions(layer, (images1, delta1), (images2, delta2))
    else:
        own = _by_gradients(layer, (images1, delta1), None if two is None else (images2, delta2), memory)
    if layer.b_std is None:
        return W_var * own
    return W_var * own + b_var * inner_products(delta1.sum(2), delta2.sum(2))


def _operations(n1: int, n2: int, outputs: int, positions: int, inputs: int, features: int) -> tuple[int, int]:
    """Multiplications of a convolution's share, by pairs of positions and by the gradients of each example."""
    by_positions = n1 * n2 * positions**2 * (inputs + outputs**2 * (features + 1))
    by_gradients = outputs * inputs * features * ((n1 + n2) * positions + n1 * n2 * outputs)
    return by_positions, by_gradients


def _by_positions(layer: Conv, one: tuple, two: tuple) -> Array:
    """Σ_pq (x_p·x′_q) (δ_ap·δ′_bq), one example of the first batch after the other."""
    patches = partial(_patches, layer)
    x2, delta2 = jax.vmap(patches)(two[0]), two[1]

    def row(example: tuple) -> Array:  # (K, K, N2)
        covariance = _product("pi,mqi->pmq", patches(example[0]), x2)
        return _product("pmq,kpmlq->klm", covariance, _product("kpo,lmqo->kpmlq", example[1], delta2))

    return lax.map(row, (one[0], one[1].swapaxes(0, 1))).swapaxes(0, 1)


def _by_gradients(layer: Conv, one: tuple, two: tuple | None, memory: int) -> Array:
    """⟨G_a, G′_b⟩ with G_a = Σ_p δ_ap x_pᵀ, for as many features at a time as fit into memory."""
    batches = [one] if two is None else [one, two]
    outputs, dtype = len(one[1]), one[1].dtype
    inputs = jax.eval_shape(partial(_patches, layer), one[0][0]).shape[1]
    each = outputs * inputs * dtype.itemsize * sum(len(images) for images, _ in batches)  # bytes for one feature
    divisors = [c for c in range(1, layer.features + 1) if layer.features % c == 0]
    chunk = max((c for c in divisors if c * each <= memory), default=1)

    def gradients(images: Array, deltas: Array) -> Array:  # (N K, chunk n)
        gradient = lambda windows, delta: _product("ap,pi->ai", delta, windows.reshape(delta.shape[1], -1))
        return for_each_image(gradient, layer, images, deltas).reshape(len(images) * outputs, -1)

    def add(total: Array, deltas: list[Array]) -> tuple[Array, None]:
        g = [gradients(images, delta) for (images, _), delta in zip(batches, deltas, strict=True)]
        return total + inner_products(g[0], g[-1]), None

    chunks = [_in_chunks(delta, chunk) for _, delta in batches]
    n1, n2 = (len(images) for images, _ in (batches[0], batches[-1]))
    total, _ = lax.scan(add, jnp.zeros((n1 * outputs, n2 * outputs), dtype), chunks)
    return total.reshape(n1, outputs, n2, outputs).transpose(1, 0, 3, 2)


def _in_chunks(delta: Array, chunk: int) -> Array:
    """(K, N, P, features) → (chunks, N, K chunk, P)."""
    outputs, n, positions, _ = delta.shape
    parts = delta.reshape(outputs, n, positions, -1, chunk).transpose(3, 1, 0, 4, 2)
    return parts.reshape(-1, n, outputs * chunk, positions)


def _patches(layer: Conv, padded: Array) -> Array:
    """What the window sees at each of its P positions on one padded image: (P, n)."""
    windows = layer.windows(padded)
    return windows.reshape(-1, windows.shape[2])


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, precision="highest")
