"""Inputs written in the span of the data, which makes dense first layers cheap and changes no law."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from lib.checks import as_array, check_parameterization


def in_span(
    *inputs: Real[np.ndarray, "_ *shape"], parameterization: str = "ntk"
) -> tuple[Float[np.ndarray, "_ m"], ...]:
    """Inputs in an orthonormal basis of their common span.

    "ntk":       x ↦ √(m/n) Qᵀx, which keeps x·x′/n
    "standard":  x ↦ Qᵀx, which keeps x·x′

    with the columns of Q (n, m) an orthonormal basis.

    A dense first layer sees its inputs through x W with Gaussian W, whose law no rotation changes, and weights
    orthogonal to all data never matter nor move. So a network on these m columns has the outputs, the training and the
    kernels (in distribution; the infinite ones exactly) of one on the original n, such as the 3,072 of a CIFAR image,
    if its first layer is scaled as that on n inputs. In the NTK parameterisation, W = σ_w ω/√m, the factor √(m/n) of
    the columns does it. In the standard one it would shrink the gradients, x, as well: columns keep their length, and
    the variance σ_w²/n of the weights has to be kept by hand, with W_std √(m/n) in the place of W_std there.

    Args:
        inputs: arrays (N_i, ...) of one kind, such as the training and test images together.
        parameterization: that of the first layer. Inputs do not know it: say "standard" for such a network.

    Returns:
        For each, an array (N_i, m) with m = min(Σ N_i, n), of its dtype if that is floating, as coordinates are: those
        of integers, such as the bytes of an image, are in JAX's default precision.

    Raises:
        ValueError: when the inputs' shapes differ beyond their first axis, or are those of no numbers, or for another
            `parameterization`.
        TypeError: when an input does not hold integers or real floating-point numbers.

    Example:
        >>> train, test = in_span(np.ones((2, 8, 8, 3)), np.eye(192).reshape(192, 8, 8, 3)[:5])
        >>> train.shape, test.shape
        ((2, 7), (5, 7))

    Source: the rotation invariance of Gaussian weights, Lee et al. 2019, eq 1.
    """
    check_parameterization(parameterization)
    dtypes = [_dtype(x) for x in inputs]
    shapes = {np.shape(x)[1:] for x in inputs}
    if len(shapes) != 1:
        raise ValueError(f"`inputs` must agree in all but their first axis, got shapes {[np.shape(x) for x in inputs]}")
    if any(np.ndim(x) < 2 for x in inputs) or 0 in shapes.pop():
        raise ValueError(
            "`inputs` must have shape (N, ...) with at least one number in each example, got shapes "
            f"{[np.shape(x) for x in inputs]}"
        )
    rows = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in inputs])
    coordinates = np.asarray(np.linalg.qr(rows.T, mode="r")).T  # (N, m): of rowsᵀ = QR, R holds Qᵀ rowsᵀ
    m, n = coordinates.shape[1], rows.shape[1]
    if parameterization == "ntk":
        coordinates = coordinates * np.sqrt(m / n)
    ends = np.cumsum([len(x) for x in inputs])[:-1]
    return tuple(part.astype(dtype) for part, dtype in zip(np.split(coordinates, ends), dtypes, strict=True))


def _dtype(x: Any) -> Any:
    """That of the coordinates of an input."""
    kept = x.dtype if isinstance(x, np.ndarray | np.generic) else as_array("inputs", x).dtype
    if jnp.issubdtype(kept, jnp.floating):
        return kept
    if not jnp.issubdtype(kept, jnp.integer):
        raise TypeError(f"`inputs` must hold integers or real floating-point numbers, got {kept}")
    return jnp.asarray(0.0).dtype
