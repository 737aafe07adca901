"""Numbers with their standard errors, from independent networks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float

    def and_off(self, error: float) -> "Estimate":
        """The same number with another, independent error beside its own."""
        return Estimate(self.value, float(np.hypot(self.error, error)))


def power_law(sizes: ArrayLike, values: ArrayLike) -> Estimate:
    """The power p of values ∝ sizes^p: a least-squares line between logarithms.

    The standard error is that of independent values at each size, from their scatter there. It says nothing of a bend
    of the line, as a next order brings.

    Args:
        sizes: (n,), positive, at least two of them different.
        values: (n, repeats), positive, with two repeats at least.

    Raises:
        ValueError: for other shapes or numbers.

    Example:
        >>> round(power_law(np.array([1, 10]), np.array([[1, 1], [100, 100]])).value, 9)
        2.0
    """
    n, v = np.asarray(sizes, float), np.asarray(values, float)
    if n.ndim != 1 or v.ndim != 2 or len(n) != len(v) or v.shape[1] < 2:
        raise ValueError(
            f"`values` must be (sizes, repeats ≥ 2) and `sizes` one for each row, got {v.shape}, {n.shape}"
        )
    for name, of in (("sizes", n), ("values", v)):
        if not (np.isfinite(of).all() and (of > 0).all()):
            raise ValueError(f"`{name}` must be positive numbers, got {of.min()} to {of.max()}")
    lever = np.log(n) - np.log(n).mean()
    if not lever.any():
        raise ValueError(f"`sizes` must differ, got {n.tolist()}")
    lever, logs = lever / (lever @ lever), np.log(v)
    return Estimate(float(lever @ logs.mean(1)), float(np.sqrt(lever**2 @ logs.var(1, ddof=1) / v.shape[1])))
