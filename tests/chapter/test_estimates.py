"""The power of a width with its standard error, against NumPy's fit and against many repetitions of the whole."""

import numpy as np
import pytest

import lib
from lib.chapter.estimates import Estimate


def test_the_power_is_that_of_a_least_squares_line_between_logarithms():
    n, values = np.array([8, 16, 64, 100]), np.random.default_rng(0).lognormal(size=(4, 5))
    line = np.polyfit(np.log(n), np.log(values).mean(1), 1)
    assert lib.power_law(n, values).value == pytest.approx(line[0], rel=1e-12)


def test_the_error_is_what_the_power_scatters_by():
    """Of four hundred fits, with a scatter that differs from width to width."""
    rng = np.random.default_rng(0)
    n, spread = np.array([8.0, 16, 32, 128]), np.array([0.4, 0.1, 0.05, 0.2])
    fits = [
        lib.power_law(n, n[:, None] ** -1.5 * np.exp(spread[:, None] * rng.normal(size=(4, 6)))) for _ in range(400)
    ]
    powers, errors = np.array(fits).T
    assert powers.mean() == pytest.approx(-1.5, abs=5 * powers.std() / 20)
    assert np.sqrt((errors**2).mean()) == pytest.approx(powers.std(), rel=0.1)


def test_another_error_adds_in_squares():
    assert Estimate(1.0, 3.0).and_off(4.0) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("sizes", "values", "names"),
    [
        ([1, 2], [1.0, 2.0], "values"),
        ([1, 2], [[1.0], [2.0]], "repeats ≥ 2"),
        ([1, 2, 3], np.ones((2, 2)), "sizes"),
        ([0, 2], np.ones((2, 2)), "`sizes` must be positive"),
        ([1, 2], [[1, 1], [0, 1]], "`values` must be positive"),
        ([1, 2], [[1, 1], [np.nan, 1]], "`values` must be positive"),
        ([2, 2], np.ones((2, 2)), "`sizes` must differ"),
    ],
)
def test_what_has_no_power_is_refused_by_name(sizes, values, names):
    with pytest.raises(ValueError, match=names):
        lib.power_law(sizes, values)
