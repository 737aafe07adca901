"""The two halves of the unit tests: one that fails is enough, and nothing of them outlives an interruption."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import alive

from tools import unit

pytestmark = pytest.mark.once


@pytest.fixture
def start(tmp_path):
    """Starts both halves on a test of one's own, whose `half` is "0" or "1"."""
    started = []

    def start(body, background=False):
        test = tmp_path / "test_it.py"
        test.write_text(f"import os, time, pathlib\nhalf = os.environ['JAX_ENABLE_X64']\ndef test_it():\n    {body}\n")
        environment = os.environ | {"PYTHONPATH": str(unit.ROOT)}
        command = [sys.executable, "-m", "tools.unit", str(test)]
        if background:  # where shells have what runs behind them ignore the interrupt
            command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # which it hands on
        process.wait()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("pass", 0),
        ("assert half == '0'", 1),
        ("assert half == '1'", 1),
        # Added up, 128 and 128 are 256, which a shell takes for 0.
        ("os._exit(128)", 1),
    ],
)
def test_one_half_that_fails_is_enough(start, body, status):
    process = start(body)
    told = process.communicate()[0].decode()
    assert process.returncode == status, told
    passed = {"pass": 2, "os._exit(128)": 0}.get(body, 1)
    assert told.count("1 passed") == passed, told


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_both_halves_and_what_they_started(start, tmp_path, number, background):
    child = "import subprocess; p = subprocess.Popen(['sleep', '1000']); "
    process = start(
        f"{child}pathlib.Path(half + '.part').write_text(f'{{os.getpid()}} {{p.pid}}'); "
        "os.rename(half + '.part', half); time.sleep(1000)",
        background,
    )
    running = [tmp_path / "0", tmp_path / "1"]
    while not all(path.exists() for path in running):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 130
    for pid in (int(pid) for path in running for pid in path.read_text().split()):
        assert not alive(pid)
