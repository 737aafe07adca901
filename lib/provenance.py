"""Where a number came from: the code, the machine and the time behind a run."""

import ast
import datetime
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp

from lib import data

PACKAGES = ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "scipy", "matplotlib")
# The parser of CPython 3.11 fails when two threads are in it.
PARSING = Lock()
CONTAINER = Path("/sys/fs/cgroup")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


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


def provenance(stopwatch: Stopwatch, seed: int) -> dict[str, Any]:
    """Everything needed to judge and to repeat a run, as JSON-ready values.

    Args:
        stopwatch: started when the run began.
        seed: the run's seed.

    Returns:
        commit, dirty, versions, device, dtype, seed, wall_time (s), peak_memory (bytes), data, fingerprint, date.
        `commit` and `dirty` are None outside a git checkout of the book, `fingerprint` is None unless the book's
        executor ran the chapter.
    """
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device(),
        "dtype": str(jnp.result_type(float)),
        "seed": seed,
        "wall_time": {part: round(seconds, 3) for part, seconds in stopwatch.read().items()},
        "peak_memory": _peak_memory(),
        "data": data.checksum(),
        "fingerprint": os.environ.get("BOOK_FINGERPRINT"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def book_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` that holds _config.yml and _toc.yml, else `start` (default: here)."""
    start = (start or Path.cwd()).resolve()
    return next(
        (p for p in (start, *start.parents) if (p / "_config.yml").exists() and (p / "_toc.yml").exists()), start
    )


def fingerprint(notebook: Path) -> str:
    """SHA-256 of all that a chapter's numbers depend on, apart from scale and seed.

    These are its code cells, the library's code (not its comments and docstrings), the embedded data, the pinned
    versions of the packages that compute, and the reference values in book/reference. A recorded run is fresh while
    this is what it was.
    """
    root = book_root(notebook.parent)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    digest = hashlib.sha256()
    for cell in cells:
        if cell["cell_type"] == "code":
            digest.update(f"{cell.get('id')}\0{''.join(cell['source'])}\0".encode())
    for path in sorted((root / "lib").rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0{_code_only(path.read_text(encoding='utf-8'))}\0".encode())
    for path in (*sorted((root / "lib" / "data").glob("*.npz")), *sorted((root / "book" / "reference").glob("*.json"))):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for line in _lines(root / "requirements.txt"):
        if line.partition("==")[0] in PACKAGES:
            digest.update(line.rstrip(" \\").encode() + b"\0")
    return digest.hexdigest()


def device() -> str:
    """The default JAX device in words: platform, kind, how many."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"cpu: {_processor()}, {cores()} cores"
    return f"{first.platform}: {jax.device_count()} × {first.device_kind}"


def device_memory() -> int:
    """Bytes of memory of the default device; for a CPU those of `memory`."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit") or memory()


def cores() -> int:
    """The processor cores that we may use: of the machine, less what our affinity and our container leave out."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = next(_lines(CONTAINER / "cpu.max"), "max").partition(" ")
    return min(ours, max(1, int(quota) // int(period))) if quota.isdigit() else ours


def memory() -> int:
    """Bytes of main memory that we may use: of the machine, or of our container."""
    container = next(_lines(CONTAINER / "memory.max"), "max")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(container)) if container.isdigit() else machine


def _code_only(source: str) -> str:
    """The lines of a Python source that are code. By lines, so that every Python version agrees."""
    lines = source.splitlines()
    with PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno or node.body[0].lineno
            if not lines[first][: node.body[0].col_offset].strip():
                lines[first:last] = [""] * (last - first)
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _lines(path: Path) -> Iterator[str]:
    return iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())


def _commit() -> tuple[str | None, bool | None]:
    """HEAD of the checkout this library lies in, and whether what a number depends on differs from it."""
    home = Path(__file__).resolve().parents[1]
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
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    return {package: metadata.version(package) for package in PACKAGES if package in installed}


def _processor() -> str:
    named = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _peak_memory() -> dict[str, int | None]:
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host": host, "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}
