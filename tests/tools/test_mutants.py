"""Faults are put where they matter, tried by the tests that reach them, and not tried again."""

import json
import sys

import pytest

from tools import mutants, reach

pytestmark = pytest.mark.once


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes files of a small repository, in whose place the tool then works."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "PLACE", tmp_path / "_build" / "mutants")
    monkeypatch.setattr(mutants, "NOTICED", tmp_path / "tests" / "noticed.jsonl")

    def write(**files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_the_tests_that_reach_a_module_are_found_in_rooms_too(tree):
    root = tree(
        lib__init="",
        lib__room__one="",
        lib__room__two="from lib.room.one import f\n",
        lib__other="from lib.room import f as g\n",
        lib__last="import lib.other\n",
        tests__room__test_one="",
        tests__room__test_two="",
        tests__test_other="",
        tests__test_last="",
        tests__test_direct="from lib import f\n",
    )
    (root / "lib" / "init.py").unlink()
    (root / "lib" / "__init__.py").write_text("from lib.room import f\n")
    (root / "lib" / "room" / "__init__.py").write_text("from lib.room.one import f\n")
    own, further = reach.stages(root / "lib" / "room" / "one.py", root)
    names = lambda paths: {path.relative_to(root).as_posix() for path in paths}
    assert names(own) == {"lib/room/one.py", "tests/room/test_one.py"}
    assert names(further) == {
        *("lib/__init__.py", "lib/room/__init__.py", "lib/room/two.py", "lib/other.py"),
        *("tests/room/test_two.py", "tests/test_other.py", "tests/test_direct.py"),
    }
    assert names(further) == names(further) - {"tests/test_last.py"}, "it imports a module that imports it"
    of_the_room = [path.parent.name == "room" for path in further]
    assert of_the_room == sorted(of_the_room, reverse=True), "tests of the room first"


def test_the_librarys_own_modules_are_reached_by_their_tests():
    own, further = reach.stages(reach.ROOT / "lib" / "data" / "span.py")
    assert [path.name for path in own] == ["span.py", "test_span.py"]
    assert reach.ROOT / "lib" / "__init__.py" in further


FAULTS = '''"""A - B."""
import functools


@functools.cache
def f(x: "1 + 2", *, y: int | None = None) -> "3 - 4":
    """5 * 6."""
    if x < 0:
        raise ValueError(f"{x + 1} is not {7 - 8}")
    z: "9" = x - 10
    message = f"{z + 11}"
    return [*zip([z], [{**message}], strict=True)]
'''


def test_faults_are_in_code_that_computes(tree):
    module = tree(lib__one=FAULTS) / "lib" / "one.py"
    said = [mutants._say(mutant) for mutant in mutants.mutants(module)]
    assert sorted({line.split("  ")[0] for line in said}) == ["lib/one.py:10", "lib/one.py:8"]
    changed = sorted(line.split("  +")[1].replace(" ", "") for line in said)
    assert changed[:5] == ["ifnotx<0:", "ifx<-1:", "ifx<1:", "ifx<=0:", "ifx>0:"]
    assert changed[5:] == ['z:"9"=x+10', 'z:"9"=x-11', 'z:"9"=x-9']


def test_a_sample_is_the_same_for_the_same_seed(tree):
    module = tree(lib__one=FAULTS) / "lib" / "one.py"
    drawn = [mutants.sample([module], 3, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3
    assert len(mutants.sample([module], 100, 0)) == 8


def test_a_fault_is_tried_until_a_test_notices_and_what_is_known_is_not_tried_again(tree, monkeypatch, capsys):
    body = "def f(x, y):\n    return x + y\n\n\ndef g(x, y):\n    return x - y\n"
    test = "from lib.one import f, g\n\n\ndef test_f():\n    assert f(1, 2) == 3\n"
    root = tree(lib__one=body, tests__test_one=test)
    monkeypatch.setattr(sys, "argv", ["mutants", "lib/one.py"])
    mutants.main()
    said = capsys.readouterr().out
    assert said.count("SURVIVES") == 1
    assert "-    return x - y\n+    return x + y" in said
    assert "1 of 2 noticed, 50.0%" in said
    kept = root / "tests" / "noticed.jsonl", root / "_build" / "mutants" / "left.jsonl"
    judged = lambda: [len(file.read_text().splitlines()) for file in kept]
    assert judged() == [1, 2], "two faults, one tried twice"
    mutants.main()
    assert judged() == [1, 2]
    tree(tests__test_one=test + "\n\ndef test_g():\n    assert g(3, 1) == 2\n")
    mutants.main()
    assert "2 of 2 noticed, 100.0%" in capsys.readouterr().out
    assert judged() == [2, 2], "what survived is tried again, for the tests have changed"
    *_, last = kept[0].read_text().splitlines()
    assert json.loads(last)["noticed"] == "tests/test_one.py::test_g"
    assert (root / "lib" / "one.py").read_text() == body


def test_tests_that_fail_without_a_fault_say_nothing_and_the_others_are_heard(tree, monkeypatch, capsys):
    broken = "from lib.one import x, y\n\n\ndef test_w():\n    assert x == 5\n\n\n"
    root = tree(lib__one="x = 1\ny = 1\n", tests__test_one=broken + "def test_x():\n    assert x == 1\n")
    monkeypatch.setattr(sys, "argv", ["mutants", "lib/one.py"])
    mutants.main()
    assert "2 of 4 noticed, 50.0%" in capsys.readouterr().out, "those of y survive"
    judged = [json.loads(line) for line in (root / "tests" / "noticed.jsonl").read_text().splitlines()]
    assert {verdict["noticed"] for verdict in judged} == {"tests/test_one.py::test_x"}
