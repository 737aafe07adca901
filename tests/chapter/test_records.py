"""The paper's values: found from any folder, and refused by name."""

import numpy as np
import pytest

from lib import paper_values


def test_they_are_found_from_a_folder_outside_the_book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    series = paper_values("figure_3")["rmse_empirical"]
    assert len(series["t"]) == len(series["value"]) == 7


def test_the_empirical_kernel_is_nearer_at_every_time():
    """The paper's own claim, and a guard against swapped columns."""
    values = paper_values("figure_3")
    assert values["rmse_empirical"]["t"] == values["rmse_analytic"]["t"]
    pairs = zip(values["rmse_empirical"]["value"], values["rmse_analytic"]["value"], strict=True)
    assert all(near < far for near, far in pairs)


def test_an_unknown_figure_is_refused():
    with pytest.raises(ValueError, match="`figure` must be one of"):
        paper_values("figure_99")


def test_without_the_book_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "lib.chapter.records.__file__", str(tmp_path / "site-packages" / "lib" / "chapter" / "records.py")
    )
    with pytest.raises(FileNotFoundError, match="run from a clone of the book"):
        paper_values("figure_3")


def slopes(x, y):
    """Of y against x: over all points, and over the widths from 256 up."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    return [np.polyfit(x[from_], y[from_], 1)[0] for from_ in (x > 0, x >= 8)]


@pytest.mark.parametrize("panel", ["figure_1", "figure_s6 relu_1", "figure_s6 tanh_3"])
def test_printed_slopes_of_kernels_and_weights_are_those_of_the_points(panel):
    figure, *part = panel.split()
    values = paper_values(figure)[part[0]] if part else paper_values(figure)
    assert len(values["printed_slopes"]) >= 2
    for name, printed in values["printed_slopes"].items():
        np.testing.assert_allclose(slopes(np.log2(values["width"]), values[name]), printed, atol=0.015, err_msg=name)


def test_printed_slopes_of_the_plateau_are_those_of_the_points():
    fitted = 0
    for name, panel in paper_values("figure_s5").items():
        for curve, printed in panel.get("printed_slopes", {}).items() if isinstance(panel, dict) else []:
            found = slopes(np.log2(panel["width"]), np.log2(panel["rmse"][curve]))[: len(printed)]
            np.testing.assert_allclose(found, printed, atol=0.015, err_msg=f"{name}, {curve}")
            fitted += 1
    assert fitted == 5 + 4 + 2 + 8
