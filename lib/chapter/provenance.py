"""Where a number came from: the code, the machine and the time behind a run."""

import datetime
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lib import data

PACKAGES = (
    *("jax", "jaxlib", "ml-dtypes", "opt-einsum", "flax", "optax", "diffrax", "equinox", "lineax", "optimistix"),
    *("numpy", "scipy", "pillow", "matplotlib"),
)
UNSEEN = "CACHE|DEBUG|DUMP|LOG|TRACEBACK"  # in the name of a variable
CONTAINER = Path("/sys/fs/cgroup")


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


def device() -> str:
    """The default JAX device in words: platform, kind, how many."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"cpu: {_processor()}, {cores()} cores"
    return f"{first.platform}: {jax.device_count()} × {first.device_kind}"


def device_memory() -> int | None:
    """Bytes of memory of the default device; for a CPU those of `memory`."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit") or memory()


def cores() -> int:
    """The processor cores that we may use: of the machine, less what our affinity and our container leave out."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = next(_lines(CONTAINER / "cpu.max"), "max").partition(" ")
    return min(ours, max(1, int(quota) // int(period))) if quota.isdigit() else ours


def memory() -> int | None:
    """Bytes of main memory that we may use: of the machine, or of our container; None where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    container = next(_lines(CONTAINER / "memory.max"), "max")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(container)) if container.isdigit() else machine


@cache
def _code_only(source: str) -> str:
    """A Python source without comments, blank lines and strings that stand alone. By lines: so all versions agree."""
    lines, within, alone, statement, opened = source.split("\n"), set(), set(), [], []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, first, last = tokenize.tok_name[token.type], token.start[0], token.end[0]
        if kind == "COMMENT":
            lines[first - 1] = lines[first - 1][: token.start[1]].rstrip()
        elif kind == "FSTRING_START":  # before Python 3.12 an f-string is one STRING
            opened.append(first)
        elif kind in ("STRING", "FSTRING_END"):
            within.update(range((opened.pop() if kind == "FSTRING_END" else first) + 1, last + 1))
        if kind == "NEWLINE":
            if all(_is_plain_string(part) for part in statement):
                alone.update(range(statement[0].start[0], statement[-1].end[0] + 1))
            statement = []
        elif kind not in ("COMMENT", "NL", "INDENT", "DEDENT"):
            statement.append(token)
    return "\n".join(line for row, line in enumerate(lines, 1) if row not in alone and (row in within or line.strip()))


def _is_plain_string(token: tokenize.TokenInfo) -> bool:
    """Which computes nothing, as an f-string may."""
    return token.type == tokenize.STRING and "f" not in token.string.partition(token.string[-1])[0].lower()


def _lines(path: Path) -> Iterator[str]:
    return iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())


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


def _processor() -> str:
    named = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _peak_memory() -> dict[str, int | None]:
    try:
        import resource
    except ImportError:  # Windows
        host = None
    else:  # ru_maxrss counts kilobytes on Linux and bytes on macOS
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host": host, "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}
