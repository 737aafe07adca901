"""Claims hold inside their band only; a record says what happened."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from lib.chapter.claims import ClaimError, Claims, claims_table, glue
from lib.chapter.dependencies import fingerprint
from lib.chapter.records import measured, recorded
from lib.chapter.scales import Scales


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


def test_a_claim_excludes_its_alternatives_or_fails(book):
    claims = Claims("figure_0")
    claims.check("both out", 1.0, 0.9, 1.1, against={"eq 13": 1.11, "untrained": 0.0})
    claims.check("one in", 1.0, high=2.0, against={"eq 13": 1.5, "untrained": 9.0})
    claims.check("on the edge", 1.0, high=2.0, against={"eq 13": jnp.asarray(2.0)})
    assert [row["holds"] for row in claims.rows] == [True, False, False]
    assert claims.rows[0]["against"] == {"eq 13": 1.11, "untrained": 0.0}
    with pytest.raises(ClaimError, match=r"one in = 1, ≤ 2; the band admits eq 13: 1\.5"):
        claims.save()


@pytest.mark.parametrize(
    ("value", "error", "wrong", "holds"),
    [
        (-1.07, 0.02, -0.5, True),  # within four standard errors
        (-1.09, 0.02, -0.5, False),
        (-1.001, 0.084, -0.5, False),  # a standard error above a sixth of the distance tells nothing
        (-1.001, 0.083, -0.5, True),
        (-1.0, 0.0, -0.5, True),
        (float("nan"), 0.01, -0.5, False),
    ],
)
def test_an_estimate_gains_nothing_by_its_noise(value, error, wrong, holds):
    claims = Claims("figure_0")
    claims.check_estimate("power", (value, error), -1, {"other": wrong, "far": 7.0}, source="eq 1")
    assert claims.rows[0]["holds"] == holds
    assert claims.rows[0]["source"] == "eq 1"


@pytest.mark.parametrize(
    ("estimate", "against", "names"),
    [
        ((1.0, 0.1), {}, "`against` of 'power' must name a wrong alternative"),
        ((1.0, -0.1), {"wrong": 2.0}, "the standard error of 'power' must be a number ≥ 0, got -0.1"),
        ((1.0, float("nan")), {"wrong": 2.0}, "the standard error of 'power'"),
        (([1.0, 2.0], 0.1), {"wrong": 2.0}, "`estimate` of 'power' must be one real number"),
        ((1.0, 0.1), {"wrong": float("nan")}, "must be finite numbers"),
    ],
)
def test_an_estimate_that_cannot_be_judged_is_refused(estimate, against, names):
    with pytest.raises(ValueError, match=names):
        Claims("figure_0").check_estimate("power", estimate, 1.0, against)


def test_a_row_says_what_it_rests_on_and_whether_its_band_was_changed():
    claims = Claims("figure_0")
    claims.check("plain", 1.0, high=2.0)
    claims.check("two ways", 0.0, high=1e-12, kind="identity")
    claims.check("gone", 1.0, high=2.0, kind="control", revised="set after a trial")
    claims.check("other", 1.0, high=2.0, kind="paper", against={"eq 13": 3})
    assert [row["kind"] for row in claims.rows] == ["theory", "identity", "control", "paper"]
    table = claims._repr_html_()
    for text in ("(an identity)", "(a control)", "≤ 2 (revised: set after a trial)", "eq 13: 3", "<td>–</td>"):
        assert text in table
    with pytest.raises(ValueError, match="`kind` of 'new' must be one of theory, paper, identity, control, got 'law'"):
        claims.check("new", 1.0, high=2.0, kind="law")
    with pytest.raises(ValueError, match="`against` of 'new' must be finite numbers, and is not for eq 13, eq 14"):
        claims.check("new", 1.0, high=2.0, against={"eq 13": np.nan, "eq 14": np.inf, "eq 15": 3})
    with pytest.raises(ValueError, match="`against` of 'new', 'eq 13', must be one real number, got shape"):
        claims.check("new", 1.0, high=2.0, against={"eq 13": np.ones(2)})


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


def test_a_recorded_run_comes_back_and_is_fresh_until_the_code_changes(book, monkeypatch):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    monkeypatch.setenv("BOOK_FINGERPRINT", fingerprint(notebook))
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


def test_the_table_of_claims_serves_any_rows():
    assert "<table" in claims_table([])
