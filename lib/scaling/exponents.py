"""abc-parameterisations: every scaling of a network with its width, as exponents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.checks import check_size


@dataclass(frozen=True)
class ABC:
    """Exponents of the width n, one for each of the L + 1 layers of weights:

    W^l = n^{-a_l} w^l,  w^l ~ N(0, n^{-2 b_l}) trained,  at the rate η n^{-c_l}

    and for the first layer, of d inputs, W^1 = n^{-a_1} w^1/√d.

    Only a + b and c + 2a matter for what a network does: `init` and `rates` give them, as those of W^l itself.

    Args:
        a: L + 1 numbers, from the first layer to the readout.
        b: L + 1 numbers.
        c: one number for all layers, or L + 1.

    Raises:
        ValueError: for fewer than two layers, or tuples of different lengths.
        TypeError: for anything but finite real numbers.

    Example:
        >>> ABC.ntk(2)
        ABC(a=(0.0, 0.5, 0.5), b=(0.0, 0.0, 0.0), c=(0.0, 0.0, 0.0))
        >>> ABC.ntk(2).regime(), ABC.maximal_update(2).regime()
        ('kernel', 'features')

    Source: Yang & Hu 2021 (Tensor Programs IV), definition 1.1; Hajjar, Chizat & Giraud 2021.
    """

    a: Any
    b: Any
    c: Any

    def __post_init__(self):
        c = self.c if isinstance(self.c, Sequence) else [self.c] * len(self.a)
        parts = {"a": self.a, "b": self.b, "c": c}
        if len(self.a) < 2 or len({len(part) for part in parts.values()}) > 1:
            lengths = ", ".join(f"{len(part)} of `{name}`" for name, part in parts.items())
            raise ValueError(f"an ABC needs one number a layer, for two layers at least, got {lengths}")
        for name, part in parts.items():
            object.__setattr__(self, name, tuple(_number(name, number) for number in part))

    @property
    def L(self) -> int:
        """Hidden layers."""
        return len(self.a) - 1

    @property
    def init(self) -> tuple[float, ...]:
        """a + b: the weights W^l start with a standard deviation of order n^{-(a_l + b_l)}."""
        return tuple(a + b for a, b in zip(self.a, self.b, strict=True))

    @property
    def rates(self) -> tuple[float, ...]:
        """c + 2a: the weights W^l are trained at a rate of order n^{-(c_l + 2 a_l)}."""
        return tuple(c + 2 * a for a, c in zip(self.a, self.c, strict=True))

    def shift(self, theta: float) -> "ABC":
        """The same network otherwise written: (a, b, c) ↦ (a + θ, b - θ, c - 2θ) changes no trajectory."""
        by = _number("theta", theta)
        moved = ((self.a, by), (self.b, -by), (self.c, -2 * by))
        return ABC(*(tuple(number + step for number in part) for part, step in moved))

    @property
    def r(self) -> float:
        """How fast features stop moving: what a step changes in the last hidden layer is of order n^{-r}.

        r = min(a_{L+1} + b_{L+1}, 2 a_{L+1} + c) + c - 1 + min_{l ≤ L} (2 a_l + 1{l = 1})

        Raises:
            ValueError: where layers have different c, for which nobody has proved a classification.

        Source: Yang & Hu 2021, definition 3.2.
        """
        inner = min(rate + (layer == 0) for layer, rate in enumerate(self._equal_rates()[:-1]))
        # Written in c + 2a and a + b, which a shift leaves as they are.
        return min(self.init[-1], self.rates[-1]) + inner - 1

    def regime(self) -> str:
        """What training does as the width goes to infinity.

        "unstable":  numbers in the network vanish or grow with the width, at the start or in training
        "trivial":   stable, and the function never moves
        "kernel":    stable, and the function moves as a linear model does, by a kernel that stays
        "features":  stable, and what the hidden layers compute moves too

        Raises:
            ValueError: as `r`.

        Example:
            >>> ABC((0, 0, 0), (0, 0.5, 0.5), 1).regime(), ABC((0, 0, 0), (0, 0.5, 0.5), 0).regime()
            ('kernel', 'unstable')

        Source: Yang & Hu 2021, theorems 3.3, 3.4, 3.6 and 3.8, for tanh and smoothed GELU.
        """
        r, readout, rate = self.r, self.init[-1], self.rates[-1]
        expected = (0.0, *[0.5] * (self.L - 1))
        starts = all(_equal(found, wanted) for found, wanted in zip(self.init[:-1], expected, strict=True))
        if not (starts and _least(readout, 0.5) and _least(r, 0) and _least(rate, 1) and _least(readout + r, 1)):
            return "unstable"
        if not (_equal(readout + r, 1) or _equal(rate, 1)):
            return "trivial"
        return "features" if _equal(r, 0) else "kernel"

    def _equal_rates(self) -> tuple[float, ...]:
        if not all(_equal(c, self.c[0]) for c in self.c):
            raise ValueError(f"`c` must be one number for all layers here, got {self.c}")
        return self.rates

    @classmethod
    def ntk(cls, L: int) -> "ABC":
        """The NTK parameterisation, in which networks become linear models."""
        return cls((0, *[0.5] * _layers(L)), (0,) * (L + 1), 0)

    @classmethod
    def standard(cls, L: int) -> "ABC":
        """Weights of variance 1 / (inputs), trained as they are, at the largest stable rate, of order 1/n."""
        return cls((0,) * (_layers(L) + 1), (0, *[0.5] * L), 1)

    @classmethod
    def maximal_update(cls, L: int) -> "ABC":
        """µP: every layer moves as much as it can (theorem 5.6 of Yang & Hu)."""
        return cls((-0.5, *[0] * (_layers(L) - 1), 0.5), (0.5,) * (L + 1), 0)

    @classmethod
    def integrable(cls, L: int) -> "ABC":
        """Sums over neurons are means, of weights of order one: the mean-field scaling at every depth."""
        return cls((0, *[1] * _layers(L)), (0,) * (L + 1), (-1, *[-2] * (L - 1), -1))

    @classmethod
    def integrable_first_step(cls, L: int, degree: float = 1) -> "ABC":
        """`integrable` with rates so large that one step from its stationary start moves every layer.

        Args:
            L: hidden layers.
            degree: p of an activation with φ(sx) = s^p φ(x), near 0 for a smooth one: 1 for ReLU and tanh.

        Source: Hajjar, Chizat & Giraud 2021, for p = 1: c = -(L+1)/2 outside, -(L+2)/2 between.
        """
        s = sum(_number("degree", degree) ** j for j in range(1, _layers(L)))
        later = cls.integrable(L)
        return cls(later.a, later.b, (-1 - s / 2, *[-(3 + s) / 2] * (L - 1), -1 - s / 2))


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"`{name}` must be finite real numbers, got {value!r}")
    return float(value)


def _layers(L: int) -> int:
    return check_size("L", L)


def _equal(x: float, y: float) -> bool:
    """As exponents are: small fractions, with rounding."""
    return math.isclose(x, y, abs_tol=1e-9)


def _least(x: float, bound: float) -> bool:
    return x > bound or _equal(x, bound)
