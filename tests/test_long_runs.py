"""Long runs in many sittings: planned, stopped, killed, resumed, and recorded as if nothing had happened."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from filelock import FileLock
from small_book import COUNT, Book

import lib
from lib.chapter.keeping import sittings
from tools import chapters, paper
from tools.chapters import run

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]

LONG = """import jax, jax.numpy as jnp, numpy as np, optax
import lib
from lib.training import sittings
sittings.PACE = 0.01
claims = lib.Claims('{name}', scale=scale, seed=seed)
lib.budget(flops={flops}, memory=1e6)
x = jnp.linspace(-1, 1, 6).reshape(3, 2)
net = lib.fully_connected(4, 1, 1, lib.relu, 1.5, 0.1)
loss = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
def member(i):
    with open('count', 'a') as file:
        file.write(f'{{i}} ')
    params, folder = net.init(jax.random.key(i), x), lib.checkpoint(f'training {{i}}')
    run = lib.train(net, params, loss, optax.adam(1e-3), x, x[:, :1] ** 2, {steps}, checkpoint=folder, every=0)
    return {{'f': net.apply(run.params, x)}}
f = np.stack([lib.kept(f'member {{i}}', member, i)['f'] for i in range(3)])
claims.check('mean', f.mean(), low=-10)
claims.save(f=f)"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(paper, "PLAN", tmp_path / "_build" / "paper" / "plan.json")
    (tmp_path / "book").mkdir()
    (tmp_path / "lib").symlink_to(Path(lib.__file__).parent)
    (tmp_path / "_config.yml").touch()
    return Book(tmp_path)


def long_chapter(book, name="long", steps=100_000, flops=1e9):
    return book.write(name, LONG.format(name=name, steps=steps, flops=flops))._replace(scale="paper")


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["paper", *arguments])
    monkeypatch.setattr(os, "nice", lambda by: by)
    status = None
    try:
        paper.main()
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().out


def test_the_plan_says_what_each_chapter_needs_and_runs_none(book, monkeypatch, capsys):
    long_chapter(book, "large", flops=2e15)
    long_chapter(book, "small", flops=3e9)
    book.write("other", COUNT)
    book.write("broken", "raise ValueError('no data')", "lib.budget(flops=1, memory=1)")
    status, said = call(monkeypatch, capsys, "--plan")
    lines = [line.split() for line in said.splitlines() if not line.startswith("asking")]
    assert status is None
    assert [line[0] for line in lines] == ["chapter", "small", "large", "broken"], "the cheapest first"
    assert lines[1][1:5] == ["3", "Gflop", "1", "MB"] and lines[1][-2:] == ["not", "begun"]
    assert lines[2][1:3] == ["2", "Pflop"]
    assert "no data" in " ".join(lines[3])
    assert not (book.root / "book" / "count").exists()
    assert "asking" not in call(monkeypatch, capsys, "--plan")[1], "asked once for each state of the code"
    assert call(monkeypatch, capsys, "other") == ("no paper scale: other", "")


def test_stopped_killed_and_resumed_it_leaves_the_record_of_one_sitting(book, monkeypatch):
    """Stopped politely, killed with all its processes, run to the end: members that were done are not done again."""
    wanted = long_chapter(book)
    whole = run(long_chapter(book, "whole"))
    assert whole["outcome"] == "ok"
    (book.root / "book" / "count").unlink()
    once = lambda after: next(iter(wanted.kept.glob(after)), None)
    for begun, end in (
        ("training 0/*.msgpack", "stop"),
        ("member 0/*.msgpack", "kill"),
        ("training 2/*.msgpack", "stop"),
    ):
        stop = Event()

        def watch(begun=begun, end=end, stop=stop):
            while not once(begun):
                time.sleep(0.01)
            if end == "stop":
                return stop.set()
            for child in psutil.Process().children(recursive=True):
                child.send_signal(signal.SIGKILL)

        Thread(target=watch, daemon=True).start()
        if end == "stop":
            with pytest.raises(KeyboardInterrupt):
                run(wanted, stop=stop)
        else:
            assert run(wanted)["outcome"] == "failed"
            assert not wanted.done(), "what broke off is to go on"
        assert "in " in paper.progress(wanted) and "sitting" in paper.progress(wanted)
    assert run(wanted)["outcome"] == "ok"
    assert paper.progress(wanted) == "done"
    assert run(wanted, quiet=True)["outcome"] == "ok"
    counts = (book.root / "book" / "count").read_text().split()
    assert counts[0] == "0" and sorted(set(counts)) == ["0", "1", "2"] and counts.count("0") == 2
    records = [json.loads(r.result.read_text()) for r in (wanted, wanted._replace(chapter=whole_chapter(book)))]
    assert records[0]["claims"] == records[1]["claims"]
    arrays = [r.result.with_suffix(".npz").read_bytes() for r in (wanted, wanted._replace(chapter=whole_chapter(book)))]
    assert arrays[0] == arrays[1]
    assert len(records[0]["provenance"]["sittings"]) == 4 == len(sittings(wanted.kept))
    assert "in 4 sittings" in lib.provenance_line(records[0]["provenance"])
    assert not [path for path in wanted.kept.rglob("*") if path.name.endswith(".partial")]


def whole_chapter(book):
    return chapters.chapters("whole")[0]


def test_a_sitting_ends_with_its_budget_and_the_same_command_goes_on(book, monkeypatch, capsys):
    """On a slow machine too: the time is up once there is something that was kept."""
    wanted, given = long_chapter(book, steps=60_000_000), []

    def timer(seconds, end):
        def watch():
            while not list(wanted.kept.glob("training 0/*.msgpack")):
                time.sleep(0.01)
            end()

        given.append(seconds)
        return Thread(target=watch)

    monkeypatch.setattr(Thread, "cancel", lambda self: None, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(paper.threading, "Timer", timer)
        status, said = call(monkeypatch, capsys, "--budget", "0.25")
    assert given == [15.0]
    assert status == 0
    assert "The same command goes on from here." in said
    assert not wanted.receipt.exists()
    before = paper.progress(wanted)
    assert "in 1 sitting" in before
    assert "training 0" in before
    long_chapter(book, steps=60_000)
    assert call(monkeypatch, capsys)[0] == 0
    assert call(monkeypatch, capsys, "--plan")[1].split()[-1] == "done"


SITTING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell that is not interactive starts what runs in its background
from pathlib import Path
from tools import chapters, paper
chapters.ROOT, paper.PLAN, os.nice = Path(sys.argv.pop(1)), Path(sys.argv.pop(1)), lambda by: by
paper.main()"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_a_sitting_is_told_to_end_nothing_goes_on_without_it(book, number):
    """And where it could save, it has; the next sitting finds nothing in use."""
    wanted = long_chapter(book, steps=60_000_000)
    command = [sys.executable, "-c", SITTING, str(book.root), str(paper.PLAN)]
    home = {"cwd": Path(paper.__file__).parents[1]}
    sitting = psutil.Popen(command, stdout=-1, stderr=-2, **home)
    while not list(wanted.kept.glob("training 0/*.msgpack")):
        assert sitting.poll() is None
        time.sleep(0.01)
    all_of_it = sitting.children(recursive=True)
    assert any("ipykernel" in " ".join(child.cmdline()) for child in all_of_it)
    sitting.send_signal(number)
    said = sitting.communicate()[0].decode()
    assert not psutil.wait_procs(all_of_it, timeout=60)[1]
    if number != signal.SIGKILL:
        assert sitting.returncode == 130 and "The same command goes on from here." in said
    assert "left" in paper.progress(wanted)
    long_chapter(book, steps=60_000)  # other code, to be done sooner
    assert run(wanted)["outcome"] == "ok"


def test_a_chapter_that_breaks_off_is_told_and_begun_again_and_a_failed_claim_is_a_result(book, monkeypatch, capsys):
    head = "import lib\nclaims = lib.Claims('one', scale=scale, seed=seed)\nlib.budget(flops=1e9, memory=1e6)\n"
    broken = head + "open('count', 'a').write('0 ')\nraise OSError('No space left on device')"
    book.write("one", broken)
    for _ in range(2):
        status, said = call(monkeypatch, capsys)
        assert status == "1 failed: one"
        assert "OSError: No space left on device" in said
    assert (book.root / "book" / "count").read_text() == "0 0 "
    book.write("one", head + "open('count', 'a').write('1 ')\nclaims.check('mean', 3.0, low=4)\nclaims.save()")
    for _ in range(2):
        assert call(monkeypatch, capsys)[0] == "1 failed: one"
    assert (book.root / "book" / "count").read_text() == "0 0 1 "
    assert "failed: ClaimError: 1 of 1 claims of one do not hold" in call(monkeypatch, capsys, "--plan")[1]


def test_a_second_sitting_says_that_it_waits(book, capsys):
    wanted = long_chapter(book, steps=9)
    stop = Event()
    wanted.executed.parent.mkdir(parents=True)
    with FileLock(wanted.receipt.with_suffix(".lock")):
        Thread(target=lambda: (time.sleep(1), stop.set())).start()
        with pytest.raises(KeyboardInterrupt):
            run(wanted, say="1/1  long", stop=stop)
    assert "1/1  long  waits for another process, which runs it" in capsys.readouterr().out
    assert not wanted.kept.exists()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_a_budget_is_a_number_of_minutes(book, monkeypatch, capsys, minutes):
    assert call(monkeypatch, capsys, f"--budget={minutes}")[0] == 2


@pytest.mark.parametrize("note", ["", "[1]", '"text"'])
def test_a_plan_that_cannot_be_read_is_asked_for_again(book, monkeypatch, capsys, note):
    long_chapter(book)
    paper.PLAN.parent.mkdir(parents=True)
    paper.PLAN.write_text(note)
    assert "asking long what it needs" in call(monkeypatch, capsys, "--plan")[1]
