"""A record says where its numbers came from."""

import json
import os

import jax
import jax.numpy as jnp
import pytest

from lib.chapter import provenance
from lib.chapter.records import provenance_line


def test_provenance_names_what_made_the_numbers(book, monkeypatch):
    monkeypatch.setenv("BOOK_FINGERPRINT", "f00d")
    for name in provenance.switches(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1 ")
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "a place of the user's own")
    watch = provenance.Stopwatch()
    jax.jit(lambda x: x * 3.14159 + len(os.getcwd()))(jnp.ones(7)).block_until_ready()
    origin = provenance.origin_of_run(watch, seed=5)
    assert origin["fingerprint"] == "f00d"
    assert origin["versions"]["jax"] == jax.__version__
    assert origin["dtype"] == str(jnp.ones(()).dtype)
    assert origin["switches"] == {
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
    }
    assert set(origin["versions"]) >= {"python", "jax", "jaxlib", "equinox", "lineax", "optimistix", "ml-dtypes"}
    assert origin["seed"] == 5
    time = origin["wall_time"]
    assert time["total"] >= time["compile"] > 0
    assert time["run"] == pytest.approx(time["total"] - time["compile"], abs=2e-3)
    assert 1e7 < origin["peak_memory"]["host"] < 1e12
    assert json.loads(json.dumps(origin)) == origin
    line = provenance_line(origin)
    assert f"jax {jax.__version__}" in line
    assert "seed 5" in line


def test_a_run_by_hand_has_no_fingerprint(monkeypatch):
    monkeypatch.delenv("BOOK_FINGERPRINT", raising=False)
    assert provenance.origin_of_run(provenance.Stopwatch(), seed=0)["fingerprint"] is None
