"""Means over positions of an image."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from lib.checks import check_images, check_pair
from lib.infinite.kernel import State
from lib.networks.convolution import check_window, image_size, window_mean


class AveragePool(nn.Module):
    """The mean over a window of positions, channel by channel.

    K_pq ← mean_{a, b} K_{sp + a, sq + b}, with a and b over the window, and so for Θ

    Means of different positions are correlated, so that all pairs of positions must be known below: time and memory
    grow with the square of the number of pixels. Windows lie inside the image.

    Args:
        window: (height, width) in pixels.
        strides: s in pixels; left out, the window.

    Raises:
        ValueError, TypeError: for a field that is none of these, an `x` that is not a floating (N, H, W, C) array, a
            stride or a window larger than the image.

    Example:
        >>> AveragePool((2, 2))(jnp.ones((2, 5, 6, 3))).shape
        (2, 2, 3, 3)

    Source: Novak et al. 2019; Arora et al. 2019.
    """

    window: Any
    strides: Any = None

    def __post_init__(self):
        self.window = check_pair("window", self.window)
        self.strides = self.window if self.strides is None else check_pair("strides", self.strides)
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        x = check_images("AveragePool", x)
        check_window("AveragePool", x.shape[1:3], self.window, self.strides)
        return nn.avg_pool(x, self.window, self.strides, "VALID")

    @nn.nowrap
    def needs(self, above: str) -> str:
        """All pairs of positions."""
        return "full"

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """Both positions of a pair move alone: a mean over each window."""
        check_window("AveragePool", image_size("AveragePool", state), self.window, self.strides)

        def windows(k: Array) -> Array:
            for axis in range(4):
                k = window_mean(k, (axis,), self.window[axis % 2], self.strides[axis % 2])
            return k

        return state.map(windows)


class GlobalAveragePool(nn.Module):
    """The mean over all positions: (N, H, W, C) → (N, C).

    K ← mean over p, q of K_pq, and so for Θ. All pairs of positions must be known below.

    Raises:
        ValueError, TypeError: when `x` is not a floating (N, H, W, C) array.

    Example:
        >>> GlobalAveragePool()(jnp.ones((2, 5, 6, 3))).shape
        (2, 3)

    Source: Novak et al. 2019; Arora et al. 2019.
    """

    def __call__(self, x: Array) -> Array:
        return jnp.mean(check_images("GlobalAveragePool", x), axis=(1, 2))

    @nn.nowrap
    def needs(self, above: str) -> str:
        """All pairs of positions."""
        return "full"

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """A mean over each of the two positions."""
        image_size("GlobalAveragePool", state)
        return state.map(lambda k: jnp.mean(k, axis=(0, 1, 2, 3)))
