"""The paper's values: found from any folder, and refused by name."""

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
    monkeypatch.setattr("lib.paper.__file__", str(tmp_path / "site-packages" / "lib" / "paper.py"))
    with pytest.raises(FileNotFoundError, match="run from a clone of the book"):
        paper_values("figure_3")
