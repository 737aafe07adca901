"""The unit tests, at once with JAX's 64-bit mode off and (shown after) on: python -m tools.unit [PYTEST ARGUMENT ...]

Most of their time goes into compiling: what was compiled is kept for the next time. In double precision programs
compile fast, not to be fast. An interruption ends both halves.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.processes import end_alike

ROOT = Path(__file__).resolve().parents[1]
BUILT = ("test_chapters", "test_long_runs", "test_site")  # of what is built, and not of the library
TESTS = ("tests", "lib", *(f"--ignore=tests/{name}.py" for name in BUILT))
KEPT = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "_build" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}
HALVES = ({"JAX_ENABLE_X64": "0"}, {"JAX_ENABLE_X64": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"})
PATIENCE = 10  # seconds in which an interrupted half may say what it did


def main(arguments: Sequence[str]) -> int:
    """0 where both halves passed, 1 where one failed, 130 where somebody interrupted."""
    end_alike()
    print("Unit tests, at once with JAX's 64-bit mode off and (shown after) on", flush=True)
    halves: list[subprocess.Popen] = []
    with tempfile.TemporaryFile() as log:
        try:
            for half, output in zip(HALVES, (None, log), strict=True):
                halves.append(_start(arguments or TESTS, half, output))
            failed = [half.wait() != 0 for half in halves]
        except KeyboardInterrupt:
            _end(halves)
            return 130
        log.seek(0)
        print(log.read().decode(errors="replace"), flush=True)
    return int(any(failed))


def _start(arguments: Sequence[str], half: dict[str, str], output: Any) -> subprocess.Popen:
    """In a process group of its own: a key that is pressed reaches us alone, and we pass it on to all that it runs."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    environment = os.environ | KEPT | half
    return subprocess.Popen(
        command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
    )


def _end(halves: list[subprocess.Popen]) -> None:
    """What was interrupted may say so; then whatever is left of it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for half in halves:
        if half.poll() is None:
            os.killpg(half.pid, signal.SIGINT)
    for half in halves:
        with suppress(subprocess.TimeoutExpired):
            half.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(half.pid, signal.SIGKILL)
        half.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
