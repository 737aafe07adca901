"""Networks whose layers scale with the width as an ABC says, in the weights that act: W^l and not w^l."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, PyTree

from lib.checks import check_params, check_scalar
from lib.scaling.exponents import ABC


def scaled_init(p: ABC, net: nn.Module, key: Array, x: Array, mean: float = 0.0) -> PyTree[Array]:
    """Weights of a fully connected network in the standard parameterisation, of the sizes that an ABC gives them.

    W^1 ~ n^{-(a_1+b_1)} N(0, σ_w²/d),  W^l ~ n^{-(a_l+b_l)} N(mean, σ_w²),  biases ~ N(0, σ_b²)

    for d inputs and width n: the first layer is W^1 = n^{-a_1} w^1/√d. `ABC.ntk`, `ABC.standard` and
    `ABC.maximal_update` leave hidden layers as they are.

    Args:
        p: exponents of as many layers as `net` has.
        net: such as `fully_connected(..., parameterization="standard")`, all of whose hidden layers have one width.
        key: of the draw. The same key gives the same Gaussians for every ABC.
        x: inputs, (N, ...).
        mean: of the Gaussians of all layers but the first; other than 0 for non-centred weights.

    Returns:
        Flax variables for `net.apply`.

    Raises:
        ValueError: for a network of other layers, other parameterisation, or another number of layers.

    Example:
        >>> from lib import fully_connected, tanh
        >>> net = fully_connected(100, 2, 1, tanh, 1.0, None, parameterization="standard")
        >>> params = scaled_init(ABC.integrable(2), net, jax.random.key(0), jnp.ones((1, 50)))
        >>> [f"{jnp.std(params['params'][name]['omega']):.1g}" for name in params["params"]]  # 1/√d, 1/n, 1/n
        ['0.1', '0.01', '0.01']

    Source: Yang & Hu 2021, definition 1.1; Hajjar, Chizat & Giraud 2021.
    """
    if wrong := [
        of
        for layer in getattr(net, "layers", ())
        if (of := getattr(layer, "parameterization", "standard")) != "standard"
    ]:
        raise ValueError(
            f'`net` must have parameterization="standard", in which weights act as they are, got {wrong[0]!r}'
        )
    check_scalar("mean", mean)
    params = net.init(key, x)
    names, n = layers_of(p, params)

    def scaled(layer: int, weights: Any) -> Any:
        if layer == 0:
            return weights * n ** -p.init[0]
        return (weights * n**0.5 + mean) * n ** -p.init[layer]

    inner = params["params"]
    return {"params": {name: {**inner[name], "omega": scaled(i, inner[name]["omega"])} for i, name in enumerate(names)}}


def scaled_sgd(
    p: ABC,
    params: PyTree[Array],
    learning_rate: float,
    first: ABC | None = None,
    method: Callable[..., optax.GradientTransformation] = optax.sgd,
) -> optax.GradientTransformation:
    """Gradient descent in which each layer has the rate that an ABC gives it: η n^{-(c_l + 2 a_l)} for W^l.

    The first layer's is divided by its d inputs, as W^1 = n^{-a_1} w^1/√d: with `ABC.ntk` and σ_w = 1 training is that
    of the NTK parameterisation. Biases of hidden layers have that rate times d, as their one input is 1. That of the
    readout is n times the readout's: it moves the outputs as much as all of its n weights together.

    Args:
        p: exponents of as many layers as the network has.
        params: of the network, by whose shapes layers and width are known.
        learning_rate: η.
        first: exponents of the rates in the first step alone, as `ABC.integrable_first_step`.
        method: makes an optimiser of a rate or a schedule; `optax.sgd`, also with momentum. The exponents are those of
            methods whose steps are linear in the gradient, not of Adam's.

    Returns:
        An Optax optimiser, for `train` and for Optax itself.

    Raises:
        ValueError: for parameters of other networks, or another number of layers.

    Example:
        >>> params = {"params": {"layers_1": {"omega": jnp.ones((5, 4))}, "layers_3": {"omega": jnp.ones((4, 1))}}}
        >>> optimizer = scaled_sgd(ABC.ntk(1), params, 0.1)
        >>> steps, _ = optimizer.update(params, optimizer.init(params))
        >>> [f"{layer['omega'][0, 0]:.3f}" for layer in steps["params"].values()]  # η/d, η/n
        ['-0.020', '-0.025']
    """
    check_scalar("learning_rate", learning_rate)
    then = layer_rates(p, params)
    start = then if first is None else layer_rates(first, params)
    labels = jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path), then)

    def of(early: float, rate: float) -> optax.GradientTransformation:
        schedule = lambda step: learning_rate * jnp.where(step == 0, early, rate)
        return method(learning_rate * rate if early == rate else schedule)

    leaves = zip(*map(jax.tree.leaves, (labels, start, then)), strict=True)
    return optax.partition({label: of(early, rate) for label, early, rate in leaves}, labels)


def layer_rates(p: ABC, params: PyTree[Array]) -> PyTree[float]:
    """What each array of a network's parameters has its learning rate multiplied by: κ, as a tree like `params`.

    Args:
        p, params: as for `scaled_sgd`, which says how biases are treated.

    Raises:
        ValueError: as `scaled_sgd`.

    Example:
        >>> params = {"params": {"layers_1": {"omega": jnp.ones((5, 4))}, "layers_3": {"omega": jnp.ones((4, 1))}}}
        >>> layer_rates(ABC.maximal_update(1), params)
        {'params': {'layers_1': {'omega': 0.8}, 'layers_3': {'omega': 0.25}}}
    """
    names, n = layers_of(p, params)
    of, kappa = params["params"], [n**-rate for rate in p.rates]
    own = [kappa[0] / len(of[names[0]]["omega"]), *kappa[1:]]
    rates = {}
    for layer, name in enumerate(names):
        bias = kappa[0] if layer < p.L else n * kappa[-1]
        rates[name] = {kind: own[layer] if kind == "omega" else bias for kind in of[name]}
    return {"params": rates}


def at_one_rate(
    rates: PyTree, apply_fn: Callable[[PyTree, Array], Array], params: PyTree[Array]
) -> tuple[Callable, PyTree]:
    """The same network in weights u that all learn at one rate, for whatever knows of one rate alone.

    W = √κ u with the rates κ of its layers: gradient descent in u at the rate η is that in W at the rates η κ. So
    `empirical_ntk` of the result is Σ_l κ_l Θ̂_l, the kernel by which the outputs move, and `linearize` and every filter
    apply.

    Args:
        rates: κ, positive, as of `layer_rates`.
        apply_fn: f(params, x).
        params: a tree like `rates`.

    Returns:
        f(u, x), and u.

    Example:
        >>> params = {"params": {"layers_1": {"omega": jnp.ones((1, 4))}, "layers_3": {"omega": jnp.ones((4, 1))}}}
        >>> f = lambda v, x: x @ v["params"]["layers_1"]["omega"] @ v["params"]["layers_3"]["omega"]
        >>> g, u = at_one_rate(layer_rates(ABC.ntk(1), params), f, params)
        >>> u["params"]["layers_3"]["omega"].ravel().tolist(), g(u, jnp.ones((1, 1))).item()
        ([2.0, 2.0, 2.0, 2.0], 4.0)
    """
    root = jax.tree.map(lambda rate: rate**0.5, rates)
    of = lambda u: jax.tree.map(lambda scale, leaf: scale * leaf, root, u)
    return lambda u, x: apply_fn(of(u), x), jax.tree.map(lambda scale, leaf: leaf / scale, root, params)


def layers_of(p: ABC, params: PyTree[Array]) -> tuple[list[str], int]:
    """The names of a fully connected network's layers in order, and their width n.

    Raises:
        ValueError: where they are not p's in number, hold other weights, differ in width, or have names without order.
    """
    check_params("params", params)
    inner = params["params"] if isinstance(params, dict) and set(params) == {"params"} else {}
    names = sorted(inner, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    shapes = [jnp.shape(inner[name]["omega"]) for name in names if "omega" in inner[name]]
    if not names or len(shapes) != len(names) or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"`params` must be those of dense layers alone, got {names or type(params).__name__}")
    if unnumbered := [name for name in names if not re.search(r"\d", name)]:
        raise ValueError(
            f"layers of `params` must have numbers in their names, which say their order, got {unnumbered}"
        )
    if len(names) != p.L + 1:
        raise ValueError(f"`params` hold {len(names)} layers, but `p` has exponents of {p.L + 1}")
    widths = {inputs for inputs, _ in shapes[1:]}
    if len(widths) != 1:
        raise ValueError(f"`params` must be of hidden layers of one width, got {sorted(widths)}")
    return names, widths.pop()
