"""Where a number came from: the commit, the versions, the machine and the time behind a run."""

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lib import data
from lib.chapter.dependencies import PACKAGES
from lib.chapter.machine import device, peak_memory

UNSEEN = "CACHE|DEBUG|DUMP|LOG|TRACEBACK"  # in the name of a variable


class Stopwatch:
    """Seconds since it was made, and how many of them XLA spent compiling.

    Example:
        >>> watch = Stopwatch()
        >>> watch.read()["total"] >= 0
        True
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._compilations: list[float] = []
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        # Tracing and lowering events nest, and would count a function twice; this one does not.
        if event.endswith("/backend_compile_duration"):
            self._compilations.append(duration_secs)

    def read(self) -> dict[str, float]:
        """Seconds so far: {"total", "compile", "run"}, where run = total - compile."""
        total, compiling = time.perf_counter() - self._start, sum(self._compilations)
        return {"total": total, "compile": compiling, "run": total - compiling}


def origin_of_run(stopwatch: Stopwatch, seed: int) -> dict[str, Any]:
    """Everything needed to judge and to repeat a run, as JSON-ready values.

    Args:
        stopwatch: started when the run began.
        seed: the run's seed.

    Returns:
        commit, dirty, versions, switches, device, dtype, seed, wall_time (s), peak_memory (bytes), data, fingerprint,
        date. `commit` and `dirty` are None outside a git checkout of the book, `fingerprint` is None unless the book's
        executor ran the chapter.
    """
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **_versions()},
        "switches": switches(os.environ),
        "device": device(),
        "dtype": str(jnp.result_type(float)),
        "seed": seed,
        "wall_time": {part: round(seconds, 3) for part, seconds in stopwatch.read().items()},
        "peak_memory": peak_memory(),
        "data": data.checksum(),
        "fingerprint": os.environ.get("BOOK_FINGERPRINT"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def switches(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment's variables by which JAX and XLA compute other numbers, and not only faster, longer or aloud.

    Example:
        >>> switches({"JAX_ENABLE_X64": "1", "JAX_COMPILATION_CACHE_DIR": "kept", "HOME": "here", "XLA_FLAGS": " "})
        {'JAX_ENABLE_X64': '1'}
    """
    return {
        name: value.strip()
        for name, value in sorted(environment.items())
        if re.match("JAX_|XLA_FLAGS$|NVIDIA_TF32_", name) and not re.search(UNSEEN, name) and value.strip()
    }


def _commit() -> tuple[str | None, bool | None]:
    """HEAD of the checkout this library lies in, and whether what a number depends on differs from it."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(home), *arguments), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(
            git("status", "--porcelain", "--", "lib", "book", "requirements.txt", ":!book/results")
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None  # no git program, or a repository without a commit


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
    return {package: metadata.version(package) for package in PACKAGES if package in installed}
