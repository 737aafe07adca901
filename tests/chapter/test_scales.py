"""Scales set the same numbers; a budget is what a run takes."""

import jax
import pytest

from lib.chapter import scales
from lib.chapter.scales import Scales, budget


def test_budget_says_what_a_run_takes(capsys, monkeypatch):
    monkeypatch.setattr(scales, "matrix_rate", lambda: 1e10)
    budget(flops=3e12, memory=1e6)
    said = capsys.readouterr().out
    assert "3 Tflop and 1 MB" in said
    assert "about 5 min" in said


@pytest.mark.parametrize(
    ("flops", "said"),
    [
        (5e9, "needs 5 Gflop and 2.5 GB; a machine, 8 GB, multiplies matrices at 10 Gflop/s in float"),
        (5e9, ": about 1 s at best"),
        (4.2e11, "420 Gflop and 2.5 GB; a machine, 8 GB,"),
        (4.2e11, ": about 42 s at best"),
        (3e12, ": about 5 min at best"),
        (1.8e15, "1.8 Pflop"),
        (1.8e15, ": about 50 h at best"),
    ],
)
def test_budget_divides_operations_by_the_rate(flops, said, capsys, monkeypatch):
    """In seconds up to 100, in minutes up to 100, then in hours, at 1e10 operations a second."""
    monkeypatch.setattr(scales, "matrix_rate", lambda: 1e10)
    monkeypatch.setattr(scales, "device_memory", lambda: 8e9)
    monkeypatch.setattr(scales, "device", lambda: "a machine")
    budget(flops=flops, memory=2.5e9)
    assert said in capsys.readouterr().out


def test_the_rate_is_the_operations_of_a_product_over_its_best_time(monkeypatch):
    """On a clock of our own, where three products take 4, 2 and 8 seconds."""
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 28.0])
    monkeypatch.setattr(scales.time, "perf_counter", lambda: next(ticks))
    n = 1024 if jax.default_backend() == "cpu" else 4096
    assert scales.matrix_rate() == 2 * n**3 / 2.0


def test_a_run_that_cannot_fit_is_refused():
    with pytest.raises(MemoryError, match=r"`memory`: this run needs 1e\+03 EB and"):
        budget(flops=1, memory=1e21)
    for argument in ("flops", "memory"):
        with pytest.raises(ValueError, match=f"`{argument}` must be a positive number"):
            budget(**{"flops": 1, "memory": 1, argument: 0})


def test_scales_set_the_same_numbers():
    with pytest.raises(ValueError, match=r"`quick` lacks \['examples'\]"):
        Scales(paper=dict(width=2, examples=1), quick=dict(width=1))
    with pytest.raises(ValueError, match=r"`scale` must be one of \['paper', 'quick'\], got 'fast'"):
        Scales(paper=dict(width=2), quick=dict(width=1))["fast"]
