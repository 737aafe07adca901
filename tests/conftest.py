"""What the unit tests share: double precision, the reference's numbers, what happens around each test."""

import json
import os
from pathlib import Path

import jax
import jaxtyping
import pytest


@pytest.fixture
def x64():
    """Double precision for one test, whatever the suite runs in, and programs that compile fast, not to be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    before = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    jax.config.update("jax_disable_most_optimizations", before == "1")


@pytest.fixture(scope="session")
def reference():
    """Numbers of an independent implementation (see the file's own "about")."""
    return json.loads((Path(__file__).parent / "reference_values.json").read_text(encoding="utf-8"))


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty book, with us in one of its folders."""
    (tmp_path / "_config.yml").touch()
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "code.py").write_text('"""What."""\n\ndef f(x):\n    # Why.\n    return x + 1\n')
    (tmp_path / "requirements.txt").write_text(
        "jax==0.10.2 \\\n    --hash=sha256:00\nruff==0.17.6 \\\n    --hash=sha256:01\n"
    )
    folder = tmp_path / "book" / "experiments"
    folder.mkdir(parents=True)
    cells = [{"cell_type": "code", "id": "a", "source": ["from lib.code import f\n", "y = 2"], "metadata": {}}]
    (folder / "figure_0.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.chdir(folder)
    return tmp_path


@pytest.fixture(autouse=True)
def shapes_are_checked_except_where_errors_are_expected(request):
    """A test of an error message passes what the annotations forbid: there the library must speak, not the checker.

    Such a test calls `pytest.raises`, and so `raises` is among the names that its code looks up.
    """
    code = getattr(getattr(request, "function", None), "__code__", None)
    jaxtyping.config.update("jaxtyping_disable", code is not None and "raises" in code.co_names)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def programs_are_forgotten():
    """Compiled programs go with the module that needed them once they take gigabytes; until then some are shared."""
    yield
    from lib.chapter.machine import peak_memory  # not before the checks of shapes and types have been put into it

    if peak_memory()["host"] > 4e9:
        jax.clear_caches()


def pytest_collection_modifyitems(config, items):
    """What asks for double precision, or is marked `once`, is the same in both halves of the suite: it runs in one.

    Which one goes by its module, in turn, so that the halves take equally long.
    """
    half = os.environ.get("JAX_ENABLE_X64")
    once = lambda item: item.get_closest_marker("once") or "x64" in getattr(item, "fixturenames", ())
    asking = [item for item in items if once(item)]
    modules = list(dict.fromkeys(item.module for item in asking))
    elsewhere = {"0": modules[::2], "1": modules[1::2]}.get(half, [])
    twins = [item for item in asking if item.module in elsewhere]
    config.hook.pytest_deselected(items=twins)
    items[:] = [item for item in items if item not in twins]


def pytest_pycollect_makeitem(collector, name, obj):
    """Leave alone what a test module only imports: the library has functions named `test_...`."""
    return [] if getattr(obj, "__module__", "").partition(".")[0] == "lib" else None
