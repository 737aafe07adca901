"""Programs that run beside us: started as a group, watched, interrupted so that they save, and ended as one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import psutil


def end_alike() -> None:
    """However we are told to end, by a key, a closed terminal or `kill`, it is a KeyboardInterrupt."""
    # Where a shell started us in the background the first is ignored, by us and by all that we start.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows lacks the last
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)


def start(
    program: str, *arguments: str, environment: dict[str, str], log: Any = subprocess.DEVNULL
) -> subprocess.Popen:
    """A program of this folder, in a process group of its own."""
    command = [sys.executable, str(Path(__file__).with_name(program)), *arguments]
    return subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def wait(process: subprocess.Popen, limit: float, say: str, stop: Event, patience: float = 0) -> tuple[int, Any, float]:
    """Exit status, resource usage and seconds of a process; shows that it lives, and ends it past the limit.

    Interrupted ourselves, we interrupt it and leave it some seconds to save what it has done.
    """
    begun, told = time.monotonic(), 0.0
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            elapsed = time.monotonic() - begun
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage, elapsed
            if elapsed > limit:
                os.killpg(process.pid, signal.SIGKILL)
            if elapsed - told > 60:
                told = elapsed
                print(f"{say}  running, {elapsed:.0f} s", flush=True)
            if stop.wait(0.2):
                raise KeyboardInterrupt
    except BaseException:
        if patience:
            _interrupt(process, patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _interrupt(process: subprocess.Popen, patience: float) -> None:
    """Interrupt the kernels of a process, and wait for what comes of it."""
    with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
        for child in psutil.Process(process.pid).children(recursive=True):
            if any("ipykernel" in word for word in child.cmdline()):
                child.send_signal(signal.SIGINT)
        process.wait(patience)
