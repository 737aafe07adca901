"""Exponents against the theorems in their authors' letters."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import ABC

quarters = st.integers(-6, 6).map(lambda k: k / 4)


@st.composite
def scalings(draw):
    """Any exponents with one c; half of them stable at the start, where regimes are decided."""
    L = draw(st.integers(1, 4))
    a = draw(st.tuples(*[quarters] * (L + 1)))
    if draw(st.booleans()):
        b = tuple(start - number for start, number in zip((0, *[0.5] * L), a, strict=True))
        b = (*b[:-1], b[-1] + draw(st.integers(0, 3)) / 4)
    else:
        b = draw(st.tuples(*[quarters] * (L + 1)))
    return ABC(a, b, draw(quarters))


def by_the_theorems(p):
    """Definition 3.2 and theorems 3.3-3.8 of Tensor Programs IV, letter by letter."""
    a, b, c, L = (None, *p.a), (None, *p.b), p.c[0], p.L
    r = min(a[L + 1] + b[L + 1], 2 * a[L + 1] + c) + c - 1 + min(2 * a[i] + (i == 1) for i in range(1, L + 1))
    stable = math.isclose(a[1] + b[1], 0, abs_tol=1e-12)
    stable &= all(math.isclose(a[i] + b[i], 0.5) for i in range(2, L + 1)) and a[L + 1] + b[L + 1] >= 0.5
    stable &= r >= 0 and 2 * a[L + 1] + c >= 1 and a[L + 1] + b[L + 1] + r >= 1
    if not stable:
        return r, "unstable"
    if a[L + 1] + b[L + 1] + r != 1 and 2 * a[L + 1] + c != 1:
        return r, "trivial"
    return r, "features" if r == 0 else "kernel"


@given(scalings(), quarters)
def test_regimes_are_those_of_the_theorems_and_a_shift_leaves_them(p, theta):
    r, regime = by_the_theorems(p)
    assert (p.r, p.regime()) == (pytest.approx(r, abs=1e-12), regime)
    moved = p.shift(theta)
    assert moved.regime() == regime and moved.r == pytest.approx(r, abs=1e-12)
    assert moved.init == pytest.approx(p.init) and moved.rates == pytest.approx(p.rates)
    assert moved.a != p.a or theta == 0


@pytest.mark.parametrize("L", [1, 2, 5])
def test_scalings_with_a_name(L):
    assert (ABC.ntk(L).r, ABC.ntk(L).regime()) == (0.5, "kernel")
    assert (ABC.standard(L).r, ABC.standard(L).regime()) == (0.5 if L > 1 else 1.5, "kernel")
    assert (ABC.maximal_update(L).r, ABC.maximal_update(L).regime()) == (0, "features")
    slow = ABC(ABC.standard(L).a, ABC.standard(L).b, 1.25)
    assert slow.regime() == "trivial"
    large = ABC(slow.a, slow.b, 0)
    assert large.regime() == "unstable"


def test_means_over_neurons_learn_features_with_one_hidden_layer_and_vanish_with_more():
    assert ABC.integrable(1).regime() == "features"
    assert ABC.integrable(1).rates == ABC.maximal_update(1).rates
    with pytest.raises(ValueError, match="`c` must be one number"):
        ABC.integrable(2).regime()
    deep = ABC.integrable(3)
    assert deep.init == (0, 1, 1, 1) and deep.rates == ABC.maximal_update(3).rates == (-1, 0, 0, 1)
    assert ABC(deep.a, deep.b, -1).regime() == "unstable"


@pytest.mark.parametrize("L", [2, 3, 6])
def test_the_large_first_step(L):
    first = ABC.integrable_first_step(L)
    assert first.c == (-(L + 1) / 2, *[-(L + 2) / 2] * (L - 1), -(L + 1) / 2)
    assert (first.a, first.b) == (ABC.integrable(L).a, ABC.integrable(L).b)
    squared = ABC.integrable_first_step(L, degree=2)
    assert squared.c[0] == -1 - (2**L - 2) / 2


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (((0,), (0,), 0), ValueError, "two layers at least, got 1 of `a`"),
        (((0, 1), (0,), 0), ValueError, "got 2 of `a`, 1 of `b`"),
        (((0, 1), (0, 0), (0,)), ValueError, "1 of `c`"),
        (((0, "1"), (0, 0), 0), TypeError, "`a` must be finite real numbers, got '1'"),
        (((0, 1), (0, math.nan), 0), TypeError, "`b` must be finite"),
        (((0, 1), (0, 0), True), TypeError, "`c` must be finite"),
    ],
)
def test_other_exponents_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        ABC(*arguments)


def test_a_network_has_a_hidden_layer():
    for make in (ABC.ntk, ABC.standard, ABC.maximal_update, ABC.integrable, ABC.integrable_first_step):
        with pytest.raises(ValueError, match="`L`"):
            make(0)
    with pytest.raises(TypeError, match="`theta`"):
        ABC.ntk(1).shift(math.inf)
