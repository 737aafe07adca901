"""Layers one after another: the network that has both faces."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array

from lib.checks import check_floating
from lib.infinite.kernel import Kernel, State, check_inputs, input_state
from lib.infinite.tiles import in_tiles, tile_edge
from lib.networks.activations import Activation
from lib.networks.parts import NUMBERS, put_together, take_apart


class Sequential(nn.Module):
    """Layers one after another: a network with a finite face (`init`, `apply`) and an infinite one (`kernel`).

    f(x) = layer_n(… layer_2(layer_1(x)))

    A layer that stands in two places is two layers, with weights of their own: the infinite face assumes independence.

    Args:
        layers: layers and activations, in order. Other Flax modules are welcome; only `kernel` refuses them.

    Raises:
        TypeError: for anything else, such as a bare `jnp.tanh` (`activation(jnp.tanh)` makes it one) or a string.

    Example:
        >>> import jax
        >>> from lib.networks.activations import relu
        >>> from lib.networks.layers import Dense
        >>> net = Sequential((Dense(64, W_std=1.5), relu, Dense(2)))
        >>> x = jax.numpy.ones((3, 5))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (3, 2)
        >>> net.kernel(x).ntk.shape
        (3, 3)

    Source: Lee et al. 2019, eqs 1, S25-S29.
    """

    layers: Any

    def __post_init__(self):
        if not isinstance(self.layers, Sequence):
            raise TypeError(
                f"`layers` must be a sequence of layers, got {type(self.layers).__name__}; write Sequential((…,))"
            )
        self.layers = tuple(check_layer(f"layers[{i}]", layer) for i, layer in enumerate(self.layers))
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x

    @nn.nowrap
    def kernel(self, x1: Array, x2: Array | None = None) -> Kernel:
        """The NNGP and NTK of the network as its widths go to infinity.

        Pure, and traceable by `jax.jit` and `jax.grad`. Compiled layer by layer, once for layers that differ in W_std,
        b_std and their like alone. To round-off, but for the tangent kernel of ReLU between inputs that are parallel or
        nearly so, which has half the digits: 1e-8 in float64, 1e-4 in float32.

        Args:
            x1: inputs, (N1, ...).
            x2: inputs, (N2, ...); left out it is `x1`, and the diagonal is exact.

        Returns:
            Kernel(nngp, ntk), each (N1, N2), in the inputs' dtype.

        Raises:
            ValueError: when shapes do not fit, or some layer has no infinite face; the message names it.
            TypeError: when inputs are not floating-point numbers.

        Source: Lee et al. 2019, eqs S25-S29.
        """
        x1 = check_floating("x1", x1)
        x2 = None if x2 is None else check_floating("x2", x2)
        need = self.needs("vectors")
        check_inputs(x1, x2, need)
        edge = tile_edge(x1, need)
        sizes = [len(x) for x in (x1, x2) if x is not None]
        if max(sizes) <= edge or min(sizes) == 0:
            return self._tile(x1, x2)
        return _in_tiles(*take_apart(self, NUMBERS), x1, x2, edge)

    @nn.nowrap
    def _tile(self, x1: Array, x2: Array | None = None) -> Kernel:
        """The kernel of all pairs at once, of inputs that have been checked."""
        state = self.kernel_step(input_state(x1, x2, self.needs("vectors")))
        if state.positions():
            raise ValueError(
                f"{_place(len(self.layers) - 1, self.layers[-1])} leaves positions {state.positions()[:2]}; "
                "put Flatten() or GlobalAveragePool() above it"
            )
        return Kernel(state.nngp, state.ntk)

    @nn.nowrap
    def needs(self, above: str) -> str:
        """What the first layer needs, from the last layer down."""
        for i, layer in reversed(list(enumerate(self.layers))):
            if not hasattr(layer, "needs"):
                raise ValueError(f"{_place(i, layer)} has no infinite face; `net.apply` and the empirical kernel do")
            above = layer.needs(above)
        return above

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """The layers' steps, from the first up."""
        for i, layer in enumerate(self.layers):
            if not state.gaussian and getattr(layer, "nonlinear", False):
                raise ValueError(
                    f"{_place(i, layer)} has no infinite face, because its input is not Gaussian: a nonlinearity must "
                    "follow a layer with weights. Put a Dense before it, or use the empirical kernel"
                )
            state = _step(*take_apart(layer, NUMBERS), state)
        return state


# One program for all layers, or networks, that differ in W_std, b_std and their like alone. Each layer has its own: the
# time in which many are compiled together grows as their number squared, and a hundred of ReLU take minutes.
@partial(jax.jit, static_argnames="layer")
def _step(layer: Any, numbers: list, state: State) -> State:
    """The step of a layer that was taken apart."""
    return put_together(layer, numbers).kernel_step(state)


@partial(jax.jit, static_argnames=("net", "edge"))
def _in_tiles(net: Any, numbers: list, x1: Array, x2: Array | None, edge: int) -> Kernel:
    """The kernel of a network that was taken apart, tile by tile."""
    return in_tiles(put_together(net, numbers)._tile, x1, x2, edge)


def check_layer(name: str, layer: Any) -> Any:
    """The layer, as an instance of its own, or an error that names the argument."""
    if isinstance(layer, Activation):
        return layer
    if isinstance(layer, nn.Module):
        return layer.clone(parent=None, name=None)
    if isinstance(layer, type):
        hint = f"make an instance of it, {layer.__name__}(…)"
    elif callable(layer):
        hint = "activation(phi) makes one of a scalar function phi"
    else:
        hint = "import it from lib, as in relu"
    raise TypeError(f"`{name}` must be a layer or an activation, got {layer!r}; {hint}")


def _place(i: int, layer: Any) -> str:
    return f"layers[{i}] ({layer.name if isinstance(layer, Activation) else type(layer).__name__})"
