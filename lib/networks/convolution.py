"""The convolutional layer, and how a window that moves over images acts on their covariances."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array

from lib.checks import check_images, check_pair, check_parameterization, check_precision, check_scalar, check_size
from lib.infinite.kernel import State
from lib.infinite.tiles import even_blocks
from lib.networks.layers import weigh, weigh_kernel

PADDINGS = ("SAME", "VALID", "CIRCULAR")
BLOCK = 2**22  # bytes of windows made at a time on a CPU, about what one of its cores keeps at hand


class Conv(nn.Module):
    """A convolution, h_p = Σ_o x_{sp + o} W_o + b, with Gaussian weights of variance σ_w² / n, n = height × width × C.

    K_pq ← σ_w² mean_o K_{sp + o, sq + o} + σ_b², with o over the window; Θ and parameterisations as in `Dense`

    Equal positions need only equal positions below: what is known of a network that ends in Flatten stays (H, W, N, N).

    Args:
        features: channels of the output, its width.
        window: (height, width) in pixels.
        strides: s, in pixels, (vertical, horizontal).
        padding: "SAME" and "CIRCULAR" keep ⌈size / stride⌉ positions, with zeros or the opposite edge around the image;
            "VALID" keeps those where the window lies inside.
        W_std: σ_w.
        b_std: σ_b; None for a layer without bias.
        parameterization: "ntk" or "standard".
        precision: of products of float32: "highest" keeps its digits on every device; "tensorfloat32", "bfloat16" and
            "default" are faster on some.

    Raises:
        ValueError, TypeError: for a field that is none of these, an `x` that is not a floating (N, H, W, C) array, a
            stride or a window larger than the image.

    Example:
        >>> import jax
        >>> layer = Conv(8, (3, 3), strides=(2, 2), W_std=1.4)
        >>> x = jnp.ones((2, 5, 6, 3))
        >>> params = layer.init(jax.random.key(0), x)
        >>> params["params"]["omega"].shape, layer.apply(params, x).shape
        ((3, 3, 3, 8), (2, 3, 3, 8))

    Source: Novak et al. 2019; Arora et al. 2019; Garriga-Alonso et al. 2019.
    """

    features: int
    window: Any
    strides: Any = (1, 1)
    padding: str = "SAME"
    W_std: Any = 1.0
    b_std: Any = None
    parameterization: str = "ntk"
    precision: str = "highest"

    def __post_init__(self):
        self.features = check_size("features", self.features)
        self.window = check_pair("window", self.window)
        self.strides = check_pair("strides", self.strides)
        if self.padding not in PADDINGS:
            raise ValueError(f"`padding` must be one of {PADDINGS}, got {self.padding!r}")
        self.W_std = check_scalar("W_std", self.W_std)
        self.b_std = None if self.b_std is None else check_scalar("b_std", self.b_std)
        check_parameterization(self.parameterization)
        check_precision(self.precision)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = check_images("Conv", x)
        convolve = _convolve_on_cpu if jax.default_backend() == "cpu" else _convolve
        return weigh(self, x, (*self.window, x.shape[3], self.features), partial(convolve, self, self.padded(x)))

    @nn.nowrap
    def padded(self, x: Array) -> Array:
        """Images (N, H, W, C) with what the window finds around them, so that it lies inside wherever it goes."""
        return _pad(x, [(1,), (2,)], self._pads(x.shape[1:3]), self.padding)

    @nn.nowrap
    def windows(self, padded: Array) -> Array:
        """What the window sees at each of its positions on a padded image (H, W, C): (H′, W′, n)."""
        for axis in (1, 0):  # of each row, then of the image
            size, stride = self.window[axis], self.strides[axis]
            stop = (padded.shape[axis] - size) // stride * stride + 1
            shifted = [lax.slice_in_dim(padded, o, o + stop, stride, axis) for o in range(size)]
            padded = jnp.concatenate(shifted, axis=2)
        return padded

    @nn.nowrap
    def needs(self, above: str) -> str:
        """Equal positions, or all pairs of them where those are asked for above."""
        return "full" if above == "full" else "diagonal"

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """Both positions of a pair move together: the mean over the window, then the weights."""
        pads = self._pads(image_size("Conv", state))
        axes = [(0, 2), (1, 3)] if len(state.positions()) == 4 else [(0,), (1,)]

        def windows(k: Array) -> Array:
            k = _pad(k, axes, pads, self.padding)
            for together, size, stride in zip(axes, self.window, self.strides, strict=True):
                k = window_mean(k, together, size, stride)
            return k

        fan_in = self.window[0] * self.window[1] * state.features
        return weigh_kernel(self, state.map(windows).replace(features=fan_in))

    @nn.nowrap
    def _pads(self, size: tuple[int, ...]) -> list[tuple[int, int]]:
        check_window("Conv", size, self.window if self.padding == "VALID" else (1, 1), self.strides)
        return list(lax.padtype_to_pads(size, self.window, self.strides, self.padding.replace("CIRCULAR", "SAME")))


def window_mean(k: Array, axes: tuple[int, ...], window: int, stride: int) -> Array:
    """The mean over a window that moves along all of `axes` at once."""
    positions = (k.shape[axes[0]] - window) // stride + 1
    total = jnp.zeros(())
    for offset in range(window):
        shifted = k
        for axis in axes:
            shifted = lax.slice_in_dim(shifted, offset, offset + (positions - 1) * stride + 1, stride, axis)
        total = shifted if offset == 0 else total + shifted
    return total / window


def image_size(layer: str, state: State) -> tuple[int, ...]:
    """(H, W) of what a layer is given, or an error that names the layer."""
    if not state.positions():
        raise ValueError(f"{layer} needs images, (N, H, W, C), but its input is vectors; Flatten() belongs above it")
    return state.positions()[:2]


def check_window(layer: str, size: tuple[int, ...], window: tuple[int, int], strides: tuple[int, int]) -> None:
    """An error where a window or a stride does not fit into images of (H, W)."""
    for name, value in (("window", window), ("strides", strides)):
        if value[0] > size[0] or value[1] > size[1]:
            raise ValueError(f"`{name}` {value} of {layer} must not be larger than its input's {tuple(size)} positions")


def _convolve(layer: Conv, padded: Array, omega: Array) -> Array:
    """Σ_o x_{sp + o} ω_o."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        padded, omega, layer.strides, "VALID", dimension_numbers=layout, precision=layer.precision
    )


def _convolve_on_cpu(layer: Conv, padded: Array, omega: Array) -> Array:
    """The same as products of matrices, which XLA differentiates within loops 15 times faster than convolutions."""
    weights = omega.reshape(-1, layer.features)
    return for_each_image(lambda windows: jnp.matmul(windows, weights, precision=layer.precision), layer, padded)


def for_each_image(f: Callable, layer: Conv, padded: Array, *others: Array) -> Array:
    """`f(windows, *others)` of every padded image: (N, ...).

    The windows of an image are many times the image: made for a few images at a time, and anew for derivatives, they
    stay in the processor's cache.
    """
    one = lambda given: f(layer.windows(given[0]), *given[1:])
    windows = jax.eval_shape(layer.windows, padded[0])
    count = max(1, BLOCK // (windows.size * windows.dtype.itemsize))
    if len(padded) <= count:
        return jax.vmap(one)((padded, *others))
    _, size = even_blocks(len(padded), count)
    again = jax.checkpoint(one, prevent_cse=False)
    return lax.map(again, (padded, *others), batch_size=None if size == 1 else size)  # XLA copies batches of one


def _pad(k: Array, axes: list, pads: list[tuple[int, int]], padding: str) -> Array:
    """Zeros, or the opposite edge, around each of the axes."""
    widths = [(0, 0)] * k.ndim
    for together, pad in zip(axes, pads, strict=True):
        for axis in together:
            widths[axis] = pad
    return jnp.pad(k, widths, mode="wrap" if padding == "CIRCULAR" else "constant")
