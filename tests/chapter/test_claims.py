"""Claims hold inside their band only; a record says what happened; a fingerprint changes with what matters."""

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.chapter import provenance, scales
from lib.chapter.claims import (
    ClaimError,
    Claims,
    Scales,
    budget,
    claims_table,
    glue,
    measured,
    provenance_line,
    recorded,
)


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
    cells = [{"cell_type": "code", "id": "a", "source": ["x = 1\n", "y = 2"], "metadata": {}}]
    (folder / "figure_0.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.chdir(folder)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "low", "high", "holds"),
    [
        (1.0, 1.0, 2.0, True),
        (2.0, 1.0, 2.0, True),
        (0.999, 1.0, 2.0, False),
        (2.001, 1.0, 2.0, False),
        (0.5, None, 1.0, True),
        (1.5, None, 1.0, False),
        (1.5, 1.0, None, True),
        (0.5, 1.0, None, False),
        (np.nan, 0.0, None, False),
        (np.inf, 0.0, None, False),
        (-np.inf, None, 0.0, False),
        (np.array([[1.5]]), 1, 2, True),
        (jnp.float32(1.5), 1, 2, True),
    ],
)
def test_a_claim_holds_inside_its_band(value, low, high, holds):
    claims = Claims("figure_0")
    claims.check("value", value, low, high)
    assert claims.rows[0]["holds"] is holds


def test_saving_writes_the_record_under_the_root_and_then_raises_for_every_failure(book):
    claims = Claims("figure_0", scale="paper")
    claims.check("good", 1.0, high=2.0)
    claims.check("too large", 3.0, high=2.0, paper=1.9, source="Figure 0")
    claims.check("not a number", jnp.nan, low=0)
    with pytest.raises(ClaimError, match="2 of 3 claims of figure_0 do not hold") as failure:
        claims.save(t=np.arange(3), f=jnp.ones((2, 2)))
    assert "FAILS  too large = 3, ≤ 2, paper 1.9 (Figure 0)" in str(failure.value)
    assert "not a number = nan" in str(failure.value)
    assert "good" not in str(failure.value)
    record = json.loads((book / "_build" / "results" / "paper" / "figure_0.json").read_text())
    assert list(record) == ["chapter", "scale", "seed", "claims", "provenance"]
    assert [row["holds"] for row in record["claims"]] == [True, False, False]
    assert record["claims"][2]["value"] is None
    with np.load(book / "_build" / "results" / "paper" / "figure_0.npz") as arrays:
        assert arrays["t"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in (book / "_build" / "results" / "paper").iterdir()) == [
        "figure_0.json",
        "figure_0.npz",
    ]


def test_seeds_are_kept_apart_and_old_arrays_do_not_outlive_their_record(book):
    folder = book / "_build" / "results" / "quick"
    for seed, arrays in ((0, {"t": np.arange(2)}), (3, {}), (0, {})):
        claims = Claims("figure_0", seed=seed)
        claims.check("one", 1, low=0)
        claims.save(**arrays)
    assert sorted(path.name for path in folder.iterdir()) == ["figure_0-seed3.json", "figure_0.json"]


def test_provenance_names_what_made_the_numbers(book, monkeypatch):
    monkeypatch.setenv("BOOK_FINGERPRINT", "f00d")
    for name in provenance.switches(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1 ")
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "a place of the user's own")
    watch = provenance.Stopwatch()
    jax.jit(lambda x: x * 3.14159 + len(os.getcwd()))(jnp.ones(7)).block_until_ready()
    origin = provenance.provenance(watch, seed=5)
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


@pytest.mark.once
def test_the_library_runs_where_the_system_does_not_say_what_it_has(book):
    """As on Windows, which has no `resource`, no `sysconf` and no affinity."""
    script = """
        import os, sys
        sys.modules["resource"] = None
        del os.sysconf, os.sched_getaffinity
        from lib import Claims, budget, provenance_line
        budget(flops=1e9, memory=1e18)
        claims = Claims("figure_0")
        claims.check("one", 1, low=0)
        claims.save()
        from lib.chapter.claims import measured
        origin = measured("figure_0").provenance
        assert origin["peak_memory"] == {"host": None, "device": None}, origin
        print(provenance_line(origin))
    """
    environment = os.environ | {"PYTHONPATH": str(Path(provenance.__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "an unknown memory" in said.stdout
    assert "memory unknown" in said.stdout


def test_a_run_by_hand_has_no_fingerprint(monkeypatch):
    monkeypatch.delenv("BOOK_FINGERPRINT", raising=False)
    assert provenance.provenance(provenance.Stopwatch(), seed=0)["fingerprint"] is None


def test_the_fingerprint_changes_with_what_the_numbers_depend_on(book):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    code, pins = book / "lib" / "code.py", book / "requirements.txt"
    before = provenance.fingerprint(notebook)

    def after(path, old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        changed = provenance.fingerprint(notebook)
        path.write_text(text)
        return changed

    assert after(notebook, "y = 2", "y = 3") != before
    assert after(code, "x + 1", "x - 1") != before
    assert after(pins, "0.10.2", "0.10.3") != before
    assert after(code, "What.", "Something else.\n\nAt length.") == before
    assert after(code, "# Why.", "# Because.") == before
    assert after(pins, "0.17.6", "0.17.7") == before
    (book / "lib" / "data").mkdir()
    (book / "lib" / "data" / "images.npz").write_bytes(b"pixels")
    assert provenance.fingerprint(notebook) != before


@pytest.mark.parametrize(
    ("source", "code"),
    [
        # What stands in a string is no comment, no blank line and no docstring.
        (
            'x = """\n# not a comment\n\n  "nor a docstring"\n"""  # but this\n',
            'x = """\n# not a comment\n\n  "nor a docstring"\n"""',
        ),
        ("x = 'a # b'  # c\n\n\ny = 2\n", "x = 'a # b'\ny = 2"),
        ('x = f"""{1}\n# {x:#x}\n\n{\n\n2}"""\n\ny = 2', 'x = f"""{1}\n# {x:#x}\n\n{\n\n2}"""\ny = 2'),
        ("x = (  # why\n    # and how\n\n    'a'\n    'b'\n)", "x = (\n    'a'\n    'b'\n)"),
        # A string that stands alone computes nothing, unless it is an f-string; what shares its line may.
        ('"""What."""\nx = 1', "x = 1"),
        ('def f(x):\n    r"""What.\n\n    # How.\n    """  # why\n    return x', "def f(x):\n    return x"),
        ("class A:\n    x = 1\n    'What x is.' \\\n    'And why.'\n", "class A:\n    x = 1"),
        ('def f(x): "Doc."; return x', 'def f(x): "Doc."; return x'),
        ('def f(x):\n    "Doc."; return x', 'def f(x):\n    "Doc."; return x'),
        ("f'{print()}'", "f'{print()}'"),
        ("Rf'{print()}'", "Rf'{print()}'"),
        ("b'f' b'f'\nx = 1", "x = 1"),
    ],
)
def test_only_comments_docstrings_and_blank_lines_are_no_code(source, code):
    assert provenance._code_only(source) == code


@pytest.mark.parametrize(
    "source",
    ['TABLE = """\n# {}\n"""\n', 'def f(x): "Doc."; return x + {}\n'],
    ids=["a hash line in a string", "code on the docstring's line"],
)
def test_what_looks_like_a_comment_but_is_code_counts(book, source):
    notebook, code = book / "book" / "experiments" / "figure_0.ipynb", book / "lib" / "code.py"
    prints = []
    for number in (1, 2):
        code.write_text(source.format(number))
        prints.append(provenance.fingerprint(notebook))
    assert prints[0] != prints[1]


def test_fingerprints_may_be_taken_in_several_threads(book):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    (book / "lib" / "long.py").write_text(
        "\n".join(f"def f{i}(x): return [x + j for j in range({i})]" for i in range(2000))
    )
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(provenance.fingerprint, [notebook] * 8))) == 1


def test_a_recorded_run_comes_back_and_is_fresh_until_the_code_changes(book, monkeypatch):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    monkeypatch.setenv("BOOK_FINGERPRINT", provenance.fingerprint(notebook))
    claims = Claims("figure_0")
    claims.check("one", 1, low=0)
    claims.save(t=np.arange(3))
    assert recorded("figure_0", "quick") is None
    (book / "book" / "results").mkdir()
    (book / "_build" / "results" / "quick").rename(book / "book" / "results" / "quick")
    assert measured("figure_0") is None
    run = recorded("figure_0", "quick")
    assert run.fresh
    assert run.claims[0]["value"] == 1
    assert run.arrays["t"].tolist() == [0, 1, 2]
    notebook.write_text(notebook.read_text().replace("y = 2", "y = 3"))
    assert not recorded("figure_0", "quick").fresh


def test_the_root_is_the_nearest_folder_with_both_files(book):
    assert provenance.book_root() == book
    (book / "_toc.yml").unlink()
    assert provenance.book_root() == book / "book" / "experiments"


def test_tables_show_plain_text(book):
    claims = Claims("figure_0")
    claims.check("a < b & c", 0.123456, 0.1, 0.2, paper="≈ 0.12", source="eq. (5)")
    claims.check("other", 5, high=2)
    table = claims._repr_html_()
    for text in (
        "a &lt; b &amp; c",
        "<td>0.1235</td>",
        "0.1 to 0.2",
        "≈ 0.12",
        "eq. (5)",
        "<td>yes</td>",
        "<td>NO</td>",
    ):
        assert text in table
    table = Scales(paper=dict(width=2048), quick=dict(width=64))._repr_html_()
    assert "<th></th><th>paper</th><th>quick</th>" in table
    assert "<td>width</td><td>2048</td><td>64</td>" in table


def test_glue_leaves_the_record_that_the_prose_quotes(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options["metadata"])))
    glue("rmse", jnp.float32(0.25))
    glue("name", "words")
    prefix = "application/papermill.record/"
    assert shown[0] == ({f"{prefix}text/plain": "0.25"}, {"scrapbook": {"name": "rmse", "mime_prefix": prefix}})
    assert shown[1][0] == {f"{prefix}text/plain": "words"}


def test_budget_says_what_a_run_takes(capsys, monkeypatch):
    monkeypatch.setattr(scales, "_matrix_rate", lambda: 1e10)
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
    monkeypatch.setattr(scales, "_matrix_rate", lambda: 1e10)
    monkeypatch.setattr(scales, "device_memory", lambda: 8e9)
    monkeypatch.setattr(scales, "device", lambda: "a machine")
    budget(flops=flops, memory=2.5e9)
    assert said in capsys.readouterr().out


def test_the_rate_is_the_operations_of_a_product_over_its_best_time(monkeypatch):
    """On a clock of our own, where three products take 4, 2 and 8 seconds."""
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 28.0])
    monkeypatch.setattr(scales.time, "perf_counter", lambda: next(ticks))
    n = 1024 if jax.default_backend() == "cpu" else 4096
    assert scales._matrix_rate() == 2 * n**3 / 2.0


def test_the_machine_has_a_memory():
    assert 1e8 < provenance.device_memory() < 1e14


@pytest.mark.parametrize(
    ("quota", "limit", "cores", "gigabytes"),
    [("max 100000", "max", 6, None), ("250000 100000", "3000000000", 2, 3), ("50000 100000", "1" + 18 * "0", 1, None)],
)
def test_a_container_has_the_cores_and_the_memory_that_it_may_use(
    quota, limit, cores, gigabytes, tmp_path, monkeypatch
):
    machine = provenance.memory()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)
    monkeypatch.setattr(provenance, "CONTAINER", tmp_path)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    assert provenance.cores() == cores
    assert provenance.memory() == (gigabytes * 10**9 if gigabytes else machine)


def test_a_run_that_cannot_fit_is_refused():
    with pytest.raises(MemoryError, match=r"`memory`: this run needs 1e\+03 EB and"):
        budget(flops=1, memory=1e21)
    for argument in ("flops", "memory"):
        with pytest.raises(ValueError, match=f"`{argument}` must be a positive number"):
            budget(**{"flops": 1, "memory": 1, argument: 0})


def test_a_claim_that_cannot_fail_is_refused():
    claims = Claims("figure_0")
    with pytest.raises(ValueError, match="needs `low` or `high`"):
        claims.check("free", 1.0)
    with pytest.raises(ValueError, match="must have `low` ≤ `high`"):
        claims.check("empty", 1.0, low=2, high=1)
    with pytest.raises(ValueError, match="must have `low` ≤ `high`"):
        claims.check("NaN", 1.0, high=np.nan)
    for value in (np.ones(3), 1j):
        with pytest.raises(ValueError, match="must be one real number"):
            claims.check("not a number", value, low=0)
    claims.check("one", 1, low=0)
    with pytest.raises(ValueError, match="'one' is already claimed"):
        claims.check("one", 2, low=0)


def test_a_record_needs_a_name_a_seed_and_something_to_say(book):
    for name in ("", "../figure_0", "a/b"):
        with pytest.raises(ValueError, match="`chapter` must be a plain name"):
            Claims(name)
    with pytest.raises(ValueError, match="`scale` must be a plain name"):
        Claims("figure_0", scale="..")
    for seed in (-1, 0.5):
        with pytest.raises(ValueError, match="`seed` must be a whole number"):
            Claims("figure_0", seed=seed)
    with pytest.raises(ValueError, match="nothing to save"):
        Claims("figure_0").save()
    claims = Claims("figure_0")
    claims.check("one", 1, low=0)
    with pytest.raises(TypeError, match="`ragged` must be an array of numbers"):
        claims.save(ragged=np.array([[1], [1, 2]], dtype=object))
    assert not (book / "_build").exists()


def test_scales_set_the_same_numbers():
    with pytest.raises(ValueError, match=r"`quick` lacks \['examples'\]"):
        Scales(paper=dict(width=2, examples=1), quick=dict(width=1))
    with pytest.raises(ValueError, match=r"`scale` must be one of \['paper', 'quick'\], got 'fast'"):
        Scales(paper=dict(width=2), quick=dict(width=1))["fast"]


def test_the_table_of_claims_serves_any_rows():
    assert "<table" in claims_table([])
