"""The executor runs what has changed and only that; then every chapter runs at quick scale, and its claims hold."""

import json
import re
import subprocess
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from processes import alive
from small_book import CLAIM, COUNT, Book
from sphinx.errors import ExtensionError

from benchmarks import chapters as costs
from lib.chapter.claims import Claims
from lib.chapter.dependencies import fingerprint
from lib.chapter.provenance import Stopwatch, origin_of_run
from lib.chapter.records import Recorded
from tools import chapters, pages, results
from tools.chapters import Run, run

CHAPTERS = chapters.chapters()


@pytest.mark.timeout(1300)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_chapter_runs_and_its_claims_hold(chapter, capsys):
    with capsys.disabled():
        receipt = run(Run(chapter), say=f"\n  {chapter.name}")
    assert receipt["outcome"] == "ok", receipt["error"]
    assert receipt["peak_memory"] <= chapters.MEMORY
    if not chapter.has_parameters():
        return
    record = json.loads(Run(chapter).result.read_text(encoding="utf-8"))
    assert record["claims"]
    assert all(claim["holds"] for claim in record["claims"])
    telling = lambda claim: claim["against"] or claim["kind"] in ("identity", "control")
    assert not [claim["name"] for claim in record["claims"] if not telling(claim)], "a claim names what it excludes"
    assert record["provenance"]["fingerprint"] == fingerprint(chapter.notebook)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "_calibrate", lambda wanted, stop: 2.0)
    (tmp_path / "book").mkdir()
    (tmp_path / "lib" / "chapter").mkdir(parents=True)
    for used in ("claims", "other"):
        (tmp_path / "lib" / "chapter" / f"{used}.py").write_text("x = 1\n")
    (tmp_path / "_config.yml").touch()
    return Book(tmp_path)


def test_a_chapter_runs_once_for_each_state_of_its_code(book, monkeypatch):
    aside = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16", "PYTHONPATH": "elsewhere"}
    for name, value in aside.items():
        monkeypatch.setenv(name, value)
    wanted = book.write(
        "one",
        COUNT,
        "import lib.chapter.claims\nimport os",
        f"assert not set({list(aside)}) & set(os.environ)\nassert len(os.environ['BOOK_FINGERPRINT']) == 64",
    )
    assert run(wanted)["outcome"] == "ok"
    assert run(wanted)["outcome"] == "ok"
    assert book.count() == 1
    text = wanted.chapter.notebook.read_text()
    wanted.chapter.notebook.write_text(text.replace("# Title", "# Another title"))
    run(wanted)
    assert book.count() == 1, "prose is no reason to run again"
    (book.root / "lib" / "chapter" / "other.py").write_text("x = 2\n")
    run(wanted)
    assert book.count() == 1, "nor is a file that the chapter does not use"
    (book.root / "lib" / "chapter" / "claims.py").write_text("x = 2\n")
    run(wanted)
    assert book.count() == 2, "one that it uses is"
    run(wanted, again=True)
    assert book.count() == 3
    executed = json.loads(wanted.executed.read_text())
    assert "papermill" not in wanted.chapter.notebook.read_text(), "the book is never written to"
    shown = pages.with_outputs(json.loads(wanted.chapter.notebook.read_text()), executed)
    assert [cell.get("execution_count") for cell in shown["cells"]] == [None, 1, 3, 4, 5]


def test_a_failed_chapter_counts_as_failed_until_its_code_changes(book, capsys):
    wanted = book.write("bad", COUNT, "width = 2048\nraise ValueError('too wide')")
    for _ in range(2):
        receipt = run(wanted)
        assert (receipt["outcome"], receipt["error"].splitlines()[0]) == ("failed", "ValueError: too wide")
        assert re.search(r"cell cell-1 -+> \d+ ", receipt["error"])
    assert book.count() == 1
    assert "too wide" in wanted.executed.read_text(), "what it did is kept to be read"
    assert "ValueError: too wide" in capsys.readouterr().out
    assert chapters.run_all([wanted]) == [receipt]
    book.write("bad", COUNT, "width = 512")
    assert run(wanted)["outcome"] == "ok"
    assert book.count() == 2


def test_kernels_that_start_at_once_do_not_take_each_others_ports(book):
    """For they have none: on TCP a free port is found, and let go, by one process and taken by another."""
    connection = "import json\nfrom ipykernel.connect import get_connection_info\n"
    connection += "assert json.loads(get_connection_info())['transport'] == 'ipc'"
    assert run(book.write("one", connection))["outcome"] == "ok"


def test_programs_compile_fast_at_quick_scale_alone_and_a_users_flags_stay(book, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    fast = "['--xla_backend_optimization_level=1'] if scale == 'quick' else []"
    wanted = book.write(
        "one",
        f"import os\nfast = {fast}",
        "assert os.environ['XLA_FLAGS'].split() == [*fast, '--xla_force_host_platform_device_count=2']",
    )
    receipt = run(wanted)
    assert receipt["outcome"] == "ok"
    assert run(wanted._replace(scale="paper"))["outcome"] == "ok"
    assert wanted.done() == receipt
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert wanted.done() is None, "other flags compute other numbers"


def test_a_chapter_that_hangs_is_ended(book, monkeypatch):
    monkeypatch.setitem(chapters.LIMITS, "quick", (600, 6))
    receipt = run(book.write("slow", "import time\ntime.sleep(300)"))
    assert receipt["outcome"] == "timeout"


def test_two_run_at_once_and_those_that_read_their_results_after_both(book):
    """Each of two waits for what the other writes: one after another neither would end well."""
    meet = "import pathlib, time\npathlib.Path('{own}.met').touch()\n"
    meet += "while not pathlib.Path('{other}.met').exists():\n    time.sleep(0.1)"
    pair = [book.write(own, meet.format(own=own, other=other)) for own, other in (("one", "two"), ("two", "one"))]
    reader = book.write("a", "import pathlib\npathlib.Path('one.met').unlink()", book={"reads_results": True})
    assert chapters.run_all([reader, *pair]) == []


def test_an_interruption_ends_the_running_chapters_and_leaves_no_receipt(book, monkeypatch):
    endless = "import os, time\nwith open('part', 'w') as file:\n    file.write(str(os.getpid()))\n"
    endless += "os.rename('part', 'pid')\ntime.sleep(10**6)"
    slow = [book.write(name, endless) for name in ("one", "two")]
    bad, pid = book.write("bad", "1"), book.root / "book" / "pid"
    execute = chapters._execute

    def interrupted(wanted, *rest):
        if wanted == slow[0]:
            return execute(wanted, *rest)
        while not pid.exists():
            time.sleep(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(chapters, "_execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chapters.run_all([bad, *slow])
    assert not any(run.receipt.exists() for run in (bad, *slow))
    while alive(int(pid.read_text())):  # a kernel looks once a second whether its parent is there
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("cores", "gigabytes", "at_once"), [(1, 2, 2), (2, 64, 2), (8, 64, 4), (16, 64, 8), (16, 12, 3), (64, 4, 2)]
)
def test_a_larger_machine_runs_more_chapters_at_once(cores, gigabytes, at_once, monkeypatch):
    monkeypatch.setattr(chapters, "cores", lambda: cores)
    monkeypatch.setattr(chapters, "memory", lambda: int(gigabytes * 1e9))
    assert chapters.together("quick") == at_once
    assert chapters.together("paper") == 1


def test_what_a_chapter_costs_is_said_in_units_that_a_slow_machine_does_not_change(book):
    receipt = run(book.write("one", "1"))
    assert (receipt["cpu_seconds"] > 0, receipt["calibration"]) == (True, 2.0)
    fast = [receipt | {"cpu_seconds": 33.0}, receipt | {"cpu_seconds": 11.0}]
    slow = [receipt | {"cpu_seconds": 3 * r["cpu_seconds"], "calibration": 6.0} for r in fast]
    assert costs.table(fast)[-1] == costs.table(slow)[-1]
    assert costs.table(fast)[1].split() == ["one", "33.0", "16.5", "0.50"]
    assert "2 chapters cost 22 units; their mean, 11.0, is 0.67 of what is promised" in costs.table(fast)[-1]


def test_the_calibration_is_a_program_that_runs():
    assert chapters._calibrate(Run(CHAPTERS[0]), Event()) > 0
    assert chapters._calibrate(Run(CHAPTERS[0], "paper"), Event()) is None


def test_results_are_kept_only_when_they_are_good_and_of_this_code(book):
    wanted = book.write("good", CLAIM.format(name="good", value="seed + 1"))
    with pytest.raises(SystemExit, match="no results at quick scale"):
        results.record([wanted.chapter], "quick")
    run(wanted)
    (kept,) = results.record([wanted.chapter], "quick")
    assert json.loads(kept.read_text())["claims"][0]["value"] == 1
    record = json.loads(wanted.result.read_text())
    for fault, origin, claims in (
        ("a run by hand", {"fingerprint": None}, {}),
        ("the code has changed", {"fingerprint": "0" * 64}, {}),
        ("claims that do not hold: one", {}, {"holds": False}),
    ):
        broken = record | {
            "provenance": record["provenance"] | origin,
            "claims": [record["claims"][0] | claims],
        }
        wanted.result.write_text(json.dumps(broken))
        with pytest.raises(SystemExit, match=fault):
            results.record([wanted.chapter], "quick")
    assert json.loads(kept.read_text()) == record
    book.write("good", CLAIM.format(name="good", value="-1"))
    assert run(wanted._replace(scale="paper"))["outcome"] == "failed"
    (finding,) = results.record([wanted.chapter], "paper")
    assert not json.loads(finding.read_text())["claims"][0]["holds"], "at the paper's sizes it is a finding"


def test_one_changed_line_of_the_library_puts_the_banner_on_the_page(book, monkeypatch):
    """From the run to the page: recorded at paper scale, fresh; a line of lib changes, and the page says so."""
    wanted = book.write("kept", CLAIM.format(name="kept", value="1"))
    run(wanted._replace(scale="paper"))
    results.record([wanted.chapter], "paper")
    monkeypatch.setattr(pages, "ROOT", book.root)
    cells = lambda: [cell["id"] for cell in pages.with_provenance(wanted.chapter.read(), "kept")["cells"]]
    assert "book-banner" not in cells()
    code = book.root / "lib" / "chapter" / "claims.py"
    code.write_text("# a comment computes nothing\nx = 1\n")
    assert "book-banner" not in cells()
    code.write_text("x = 2\n")
    assert cells()[1] == "book-banner"


def test_a_failed_claim_fails_the_chapter_and_shows_in_the_intervals(book):
    wanted = book.write("claims", CLAIM.format(name="claims", value="0.5 - seed"))
    runs = [Run(wanted.chapter, seed=seed) for seed in range(2)]
    (failed,) = chapters.run_all(runs)
    assert failed["seed"] == 1
    assert failed["error"].startswith("ClaimError: 1 of 1 claims of claims do not hold")
    summary = results.intervals(wanted.chapter, "quick", 2)
    assert summary["claims"] == [{"name": "one", "values": [0.5, -0.5], "held": 1}]
    assert wanted.result.with_name("claims-seeds.json").exists()


def test_the_runs_of_several_seeds_share_what_was_compiled(book):
    """And where only one is asked for, nothing is kept: what that costs is no gain."""
    kept = "import jax\nfolder = jax.config.jax_compilation_cache_dir\nprint(jax.jit(lambda x: 2 * x)(1.0))\n"
    kept += "value = -1 if folder is None else len(__import__('os').listdir(folder)) - 1"
    wanted = book.write("kept", kept, CLAIM.format(name="kept", value="value"))
    assert chapters.run_all([Run(wanted.chapter, seed=seed) for seed in range(2)]) == []
    assert chapters.run_all([wanted], again=True)[0]["error"].startswith("ClaimError")


def test_a_tampered_record_is_made_again(book):
    wanted = book.write("tampered", COUNT, CLAIM.format(name="tampered", value=1))
    run(wanted)
    wanted.result.write_text(wanted.result.read_text().replace("1.0", "2.0"))
    run(wanted)
    assert book.count() == 2
    assert json.loads(wanted.result.read_text())["claims"][0]["value"] == 1


def test_what_reads_results_comes_last_and_runs_when_they_change(book):
    reader = book.write("a_reader", "1", parameters=False, book={"reads_results": True})
    book.write("b_chapter", "1")
    assert [chapter.name for chapter in chapters.chapters()] == ["b_chapter", "a_reader"]
    before = reader.key()
    reader.result.parent.mkdir(parents=True)
    (reader.result.parent / "b_chapter.json").write_text("{}")
    assert reader.key() != before


def test_a_page_refuses_the_run_of_other_code(book):
    wanted = book.write("one", "x = 1")
    source = json.loads(wanted.chapter.notebook.read_text())
    other = json.loads(wanted.chapter.notebook.read_text().replace("x = 1", "x = 2"))
    with pytest.raises(ExtensionError, match="the run of cell 'cell-0' had other code"):
        pages.with_outputs(source, other)
    renamed = json.loads(wanted.chapter.notebook.read_text().replace("cell-0", "cell-1"))
    with pytest.raises(ExtensionError, match="the run of cell 'cell-0' had other code"):
        pages.with_outputs(source, renamed)


def test_a_page_says_where_its_numbers_come_from_and_when_code_has_changed(monkeypatch):
    drawn = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}
    cells = [
        {"id": "title", "cell_type": "markdown", "metadata": {}, "source": "# One"},
        {"id": "ours", "cell_type": "code", "metadata": {}, "source": "", "outputs": [drawn]},
        {
            "id": "theirs",
            "cell_type": "code",
            "metadata": {"book": {"scale": "paper"}},
            "source": "",
            "outputs": [drawn],
        },
        {"id": "words", "cell_type": "code", "metadata": {}, "source": "", "outputs": []},
    ]
    origin = origin_of_run(Stopwatch(), seed=0)
    quick = Recorded("one", "quick", 0, [], origin | {"device": "a laptop"}, {"t": np.ones(1)}, fresh=True)
    claims = Claims("one")
    claims.check("the finding", 3.0, low=4)
    paper = quick._replace(scale="paper", claims=claims.rows, provenance=origin | {"device": "a GPU"}, arrays={})
    monkeypatch.setattr(pages, "measured", lambda name: quick)

    def texts(record):
        monkeypatch.setattr(pages, "recorded", lambda name: record)
        return {cell["id"]: cell["source"] for cell in pages.with_provenance({"cells": cells}, "one")["cells"]}

    page = texts(paper)
    assert list(page)[:6] == ["title", "ours", "ours-provenance", "theirs", "theirs-provenance", "words"]
    assert list(page)[6:] == ["book-paper", "book-foot"]
    assert "<td>the finding</td><td>3</td>" in page["book-paper"]
    assert "<td>NO</td>" in page["book-paper"]
    assert "book-paper" not in texts(None)
    assert "Quick scale" in page["ours-provenance"]
    assert "a laptop" in page["ours-provenance"]
    assert "</_build/results/quick/one.npz>" in page["ours-provenance"]
    assert "Paper scale" in page["theirs-provenance"]
    assert "a GPU" in page["theirs-provenance"]
    assert "npz" not in page["theirs-provenance"]
    assert "a laptop" in page["book-foot"]
    assert "a GPU" in page["book-foot"]
    assert list(texts(paper._replace(fresh=False)))[:2] == ["title", "book-banner"]
    assert "theirs-provenance" not in texts(None)
    assert "book-banner" not in texts(None)


def test_a_style_sheet_that_changed_has_sphinx_write_a_page_and_so_copy_it(tmp_path):
    (tmp_path / "styles").mkdir()
    (tmp_path / "html" / "_static").mkdir(parents=True)
    config = SimpleNamespace(html_static_path=["styles"], root_doc="book/index")
    app = SimpleNamespace(config=config, confdir=tmp_path, outdir=tmp_path / "html")
    env = SimpleNamespace(found_docs=set())
    outdated = lambda: pages.pages_with_a_new_run(app, env, set(), set(), set())
    for path in (tmp_path / "styles" / "book.css", tmp_path / "html" / "_static" / "book.css"):
        assert outdated() == ([] if path.parent.name == "styles" else ["book/index"])
        path.write_text("one")
    assert outdated() == []
    (tmp_path / "styles" / "book.css").write_text("two")
    assert outdated() == ["book/index"]


def test_names_are_known_and_unique(book):
    book.write("one", "1")
    with pytest.raises(SystemExit, match=r"no chapter \['two'\]; there are: one"):
        chapters.chapters("two")
    (book.root / "_toc.yml").write_text("root: book/one\nchapters: [{file: book/one}]\n")
    with pytest.raises(SystemExit, match=r"two chapters have one name: \['one'\]"):
        chapters.chapters()


def test_the_makefile_asks_for_a_name():
    told = subprocess.run(
        ("make", "chapter"), cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "make chapter NAME=figure_3" in told.stdout
