"""What the machine lends us is what we may use of it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lib.chapter import machine


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
        from lib.chapter.records import measured
        origin = measured("figure_0").provenance
        assert origin["peak_memory"] == {"host": None, "device": None}, origin
        print(provenance_line(origin))
    """
    environment = os.environ | {"PYTHONPATH": str(Path(machine.__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "an unknown memory" in said.stdout
    assert "memory unknown" in said.stdout


def test_the_machine_has_a_memory():
    assert 1e8 < machine.device_memory() < 1e14


@pytest.mark.parametrize(
    ("quota", "limit", "cores", "gigabytes"),
    [("max 100000", "max", 6, None), ("250000 100000", "3000000000", 2, 3), ("50000 100000", "1" + 18 * "0", 1, None)],
)
def test_a_container_has_the_cores_and_the_memory_that_it_may_use(
    quota, limit, cores, gigabytes, tmp_path, monkeypatch
):
    of_machine = machine.memory()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    assert machine.cores() == cores
    assert machine.memory() == (gigabytes * 10**9 if gigabytes else of_machine)
