"""Two branches, added."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array

from lib.infinite.kernel import State
from lib.networks.sequential import Sequential, check_layer

# What a layer may need, from the least to the most; "mean" of vectors is "vectors".
NEEDS = ("mean", "vectors", "diagonal", "full")


class Residual(nn.Module):
    """A block with a shortcut, shortcut(x) + inner(x).

    K ← K_shortcut + K_inner, and so for Θ: covariances of the branches vanish where one of them ends in weights

    Args:
        inner: a layer, or a Sequential of them.
        shortcut: the same; left out, x itself. Where `inner` changes the shape it is a projection to the new one.

    Raises:
        TypeError: when a branch is not a layer.
        ValueError: when branches differ in shape; for the infinite face also when neither ends in weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from lib.networks.activations import relu
        >>> from lib.networks.layers import Dense
        >>> net = Sequential((Dense(8), Residual(Sequential((relu, Dense(8)))), Dense(1)))
        >>> net.kernel(jnp.ones((2, 3))).ntk.shape
        (2, 2)

    Source: He et al. 2016; Garriga-Alonso et al. 2019.
    """

    inner: Any
    shortcut: Any = None

    def __post_init__(self):
        self.inner = _branch("inner", self.inner)
        self.shortcut = Sequential(()) if self.shortcut is None else _branch("shortcut", self.shortcut)
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        inner, shortcut = self.inner(x), self.shortcut(x)
        _check_shapes(inner.shape[1:], shortcut.shape[1:])
        return shortcut + inner

    @nn.nowrap
    def needs(self, above: str) -> str:
        """What either branch needs."""
        return max(self.inner.needs(above), self.shortcut.needs(above), key=NEEDS.index)

    @nn.nowrap
    def kernel_step(self, state: State) -> State:
        """The sum over branches."""
        inner, shortcut = (branch.kernel_step(state.replace(fresh=None)) for branch in (self.inner, self.shortcut))
        _check_shapes(*((*branch.positions()[:2], branch.features) for branch in (inner, shortcut)))
        if not (inner.fresh or shortcut.fresh):
            raise ValueError(
                "Residual has no infinite face, because neither branch ends in weights, and their covariance is not 0. "
                "Put a layer with weights at the end of `inner`, or use the empirical kernel"
            )
        # Relative to what is around the block: fresh if both are, unchanged if a linear function of x is among them.
        fresh = {inner.fresh, shortcut.fresh}
        return inner.replace(
            nngp=shortcut.nngp + inner.nngp,
            ntk=shortcut.ntk + inner.ntk,
            variance1=shortcut.variance1 + inner.variance1,
            variance2=shortcut.variance2 + inner.variance2,
            gaussian=shortcut.gaussian and inner.gaussian,
            fresh=False if False in fresh else state.fresh if None in fresh else True,
        )


def _branch(name: str, layer: Any) -> Sequential:
    layer = check_layer(name, layer)
    return layer if isinstance(layer, Sequential) else Sequential((layer,))


def _check_shapes(inner: tuple[int, ...], shortcut: tuple[int, ...]) -> None:
    if inner != shortcut:
        raise ValueError(
            f"`shortcut` must have the shape of `inner`, {inner} without N, got {shortcut}; "
            "a projection, such as Conv(features, (1, 1), strides) or Dense(features), changes it"
        )
