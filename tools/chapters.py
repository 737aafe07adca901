"""Run the chapters: each once for each state of its code, several at a time, in the order of the table of contents.

python -m tools.chapters [NAME ...] [--scale quick|paper] [--seeds K] [--again]
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from lib.chapter.dependencies import fingerprint
from lib.chapter.machine import cores, memory
from lib.chapter.provenance import switches
from tools.processes import end_alike, start, wait

ROOT = Path(__file__).resolve().parents[1]
# Seconds: for one cell, and for the whole chapter, which also ends a kernel that hangs without running a cell.
LIMITS = {"quick": (600, 1200), "paper": (None, math.inf)}
# Seconds that a run has to save what it has done, once it is to end.
PATIENCE = {"quick": 0, "paper": 60}
MEMORY = 4e9  # bytes that a chapter may take at quick scale
# XLA compiles faster at LLVM's first level of optimisation; these runs are too short to gain from the third, its own.
CLAIMS = "ClaimError: "  # how a chapter ends that ran to its end, and found a claim that does not hold
COMPILE_FAST = {"quick": ["--xla_backend_optimization_level=1"], "paper": []}


class Chapter(NamedTuple):
    """A notebook of the book."""

    notebook: Path

    @property
    def name(self) -> str:
        return self.notebook.stem

    def read(self) -> dict[str, Any]:
        return json.loads(self.notebook.read_text(encoding="utf-8"))

    def has_parameters(self) -> bool:
        return any("parameters" in cell["metadata"].get("tags", []) for cell in self.read()["cells"])

    def reads_results(self) -> bool:
        """Whether the notebook shows other chapters' results, which its metadata says."""
        return self.read()["metadata"].get("book", {}).get("reads_results", False)


class Run(NamedTuple):
    """One execution of a chapter, and where its traces lie."""

    chapter: Chapter
    scale: str = "quick"
    seed: int = 0

    @property
    def stem(self) -> str:
        return self.chapter.name if self.seed == 0 else f"{self.chapter.name}-seed{self.seed}"

    @property
    def executed(self) -> Path:
        return ROOT / "_build" / "chapters" / self.scale / f"{self.stem}.ipynb"

    @property
    def receipt(self) -> Path:
        return self.executed.with_suffix(".json")

    @property
    def result(self) -> Path:
        return ROOT / "_build" / "results" / self.scale / f"{self.stem}.json"

    @property
    def kept(self) -> Path:
        """Where a long run keeps its parts: for each state of its code and of JAX's switches a folder of its own."""
        home = ROOT / "_build" / "paper" / self.stem
        state = [fingerprint(self.chapter.notebook), switches(_environment(self))]
        return home / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]

    def key(self) -> str:
        """What the page depends on: the chapter's fingerprint, JAX's switches, and the recorded results it shows."""
        digest = hashlib.sha256(fingerprint(self.chapter.notebook).encode())
        digest.update(json.dumps(switches(_environment(self))).encode())
        kept = ROOT / "book" / "results"
        shown = (
            list(kept.rglob("*.json")) if self.chapter.reads_results() else list(kept.rglob(f"{self.chapter.name}.*"))
        )
        if self.chapter.reads_results():
            shown += self.result.parent.glob("*.json")
        for path in sorted(shown):
            digest.update(path.relative_to(ROOT).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def done(self) -> dict[str, Any] | None:
        """The receipt of this run, failed or not, where one was made from the code as it is now.

        At paper scale a failure is none but that of a claim: what broke off, by a full disk say, is to go on.
        """
        if not (self.receipt.exists() and self.executed.exists()):
            return None
        receipt = json.loads(self.receipt.read_text(encoding="utf-8"))
        broke_off = self.scale == "paper" and not (receipt["outcome"] == "ok" or CLAIMS in receipt["error"])
        current = receipt["key"] == self.key() and _record(self.result) == receipt["record"]
        return receipt if current and not broke_off else None


def chapters(*names: str) -> list[Chapter]:
    """The notebooks of the table of contents, or those named, in its order; those that read others' results last.

    Raises:
        SystemExit: for a name that is not in the table of contents, or two chapters of one name.
    """
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    notebooks = [Chapter(ROOT / f"{file}.ipynb") for file in _files(contents) if (ROOT / f"{file}.ipynb").exists()]
    known = [chapter.name for chapter in notebooks]
    if len(set(known)) < len(known):
        raise SystemExit(f"two chapters have one name: {sorted(name for name in set(known) if known.count(name) > 1)}")
    if not set(names) <= set(known):
        raise SystemExit(f"no chapter {sorted(set(names) - set(known))}; there are: {', '.join(known)}")
    return sorted((c for c in notebooks if not names or c.name in names), key=Chapter.reads_results)


def run(
    wanted: Run,
    again: bool = False,
    say: str = "",
    quiet: bool = False,
    stop: Event | None = None,
    compiled: str = "",
) -> dict[str, Any]:
    """Execute a chapter unless its run is there already, and return the receipt: outcome, time, memory, error.

    Prints a line that starts with `say`; with `quiet`, only where something was executed. Once `stop` is set, a run
    that goes on is ended, leaves no receipt and raises KeyboardInterrupt. Programs that XLA compiled are kept in the
    folder `compiled`, if one is named, and taken from there.

    A failed run is kept to be read, and counts as failed until the code changes or `again` asks for another.
    """
    wanted.executed.parent.mkdir(parents=True, exist_ok=True)
    with _alone(wanted, say, stop or Event()):
        receipt = None if again else wanted.done()
        known = receipt is not None
        if receipt is None:
            receipt = _execute(wanted, say, stop or Event(), compiled)
        if not (known and quiet):
            _report(say, receipt, known)
    return receipt


@contextlib.contextmanager
def _alone(wanted: Run, say: str, stop: Event) -> Iterator[None]:
    """No other process runs the same; where one does, we say so and wait."""
    lock = FileLock(wanted.receipt.with_suffix(".lock"))
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        print(f"{say}  waits for another process, which runs it", flush=True)
    while not lock.is_locked:
        if stop.wait(0.5):
            raise KeyboardInterrupt
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()


def together(scale: str) -> int:
    """How many chapters run at once: one for every two cores and 4 GB, but two at least; at paper scale one alone.

    What takes a chapter its time at quick scale is compilation, and that keeps one core busy.
    """
    return max(2, min(cores() // 2, int((memory() or 0) // MEMORY))) if scale == "quick" else 1


def run_all(wanted: list[Run], again: bool = False, quiet: bool = False) -> list[dict[str, Any]]:
    """`run` several at once, and last what reads the others' results; returns the receipts of those that failed.

    A chapter's runs of several seeds compile once: that is half of what each costs.
    """
    width, stop = max((len(w.stem) for w in wanted), default=0), Event()
    says = {w: f"{i:>3}/{len(wanted)}  {w.stem:<{width}}" for i, w in enumerate(wanted, 1)}
    receipts = []
    with TemporaryDirectory() as folder:
        compiled = folder if len({w.seed for w in wanted}) > 1 else ""
        for reading in (False, True):
            now = [w for w in wanted if w.chapter.reads_results() == reading]
            with ThreadPoolExecutor(min((together(w.scale) for w in wanted), default=1)) as pool:
                try:
                    receipts += pool.map(lambda w: run(w, again, says[w], quiet, stop, compiled), now)
                except BaseException:
                    stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise
    return [receipt for receipt in receipts if receipt["outcome"] != "ok"]


def _execute(wanted: Run, say: str, stop: Event, compiled: str) -> dict[str, Any]:
    for trace in (wanted.receipt, wanted.result, wanted.result.with_suffix(".npz")):
        trace.unlink(missing_ok=True)
    key, partial = wanted.key(), wanted.executed.with_suffix(".partial.ipynb")
    cell_limit, limit = LIMITS[wanted.scale]
    settings = _settings(wanted, partial) | {"execution_timeout": cell_limit}
    if sys.stdout.isatty():
        print(f"{say}  started", flush=True)
    with open(log := wanted.receipt.with_suffix(".log"), "wb") as file:
        environment = _environment(wanted) | ({"BOOK_KEPT": str(wanted.kept)} if wanted.scale == "paper" else {})
        if compiled:
            environment |= {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        process = start("execute.py", json.dumps(settings), environment=environment, log=file)
        status, usage, elapsed = wait(process, limit, say, stop, PATIENCE[wanted.scale])
    if partial.exists():
        partial.replace(wanted.executed)
    receipt = {
        "chapter": wanted.chapter.name,
        "scale": wanted.scale,
        "seed": wanted.seed,
        "key": key,
        "outcome": "ok" if status == 0 else "timeout" if elapsed > limit else "failed",
        "elapsed": round(elapsed, 2),
        "cpu_seconds": _seconds(usage),
        "calibration": _calibrate(wanted, stop) if status == 0 else None,
        # The largest of papermill and the kernel it waited for, in kilobytes on Linux and bytes on macOS.
        "peak_memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "error": None if status == 0 else _error(wanted.executed, log) or f"it ended without a word, status {status}",
        "record": _record(wanted.result),
    }
    wanted.receipt.write_text(json.dumps(receipt, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return receipt


def _settings(wanted: Run, output: Path) -> dict[str, Any]:
    """What papermill is asked for."""
    return {
        "input_path": str(wanted.chapter.notebook),
        "output_path": str(output),
        "parameters": {"scale": wanted.scale, "seed": wanted.seed} if wanted.chapter.has_parameters() else {},
        "kernel_name": "python3",
        "cwd": str(wanted.chapter.notebook.parent),
        "progress_bar": False,
        "start_timeout": 120,
    }


def _calibrate(wanted: Run, stop: Event) -> float | None:
    """CPU seconds of the calibration program, beside what else runs now. Paper scale, for a GPU, has no such unit."""
    if wanted.scale != "quick":
        return None
    process = start("calibrate.py", environment=_environment(wanted))
    status, usage, _ = wait(process, LIMITS["quick"][0], f"{wanted.stem}: calibration", stop)
    return _seconds(usage) if status == 0 else None


def ask(wanted: Run, answer: Path) -> dict[str, Any]:
    """What a chapter needs, {"flops", "memory", "error"}: it runs as far as its `lib.budget`, which writes it there."""
    asked, log = answer.with_name("asked.ipynb"), answer.with_suffix(".log")
    with log.open("wb") as file:
        environment = _environment(wanted) | {"BOOK_PLAN": str(answer)}
        process = start("execute.py", json.dumps(_settings(wanted, asked)), environment=environment, log=file)
        wait(process, LIMITS["quick"][1], wanted.stem, Event())
    if answer.exists():
        return json.loads(answer.read_text(encoding="utf-8")) | {"error": ""}
    return {"flops": None, "memory": None, "error": _error(asked, log) or "it says nothing of what it needs"}


def _seconds(usage: Any) -> float:
    return round(usage.ru_utime + usage.ru_stime, 2)


def _environment(wanted: Run) -> dict[str, str]:
    """Ours, less what would change a chapter's numbers and whatever a user's own Jupyter and IPython would add."""
    aside = {"PYTHONPATH", "BOOK_KEPT", "BOOK_PLAN", *switches(os.environ)} - {"XLA_FLAGS", "JAX_PLATFORMS"}
    ours = {name: value for name, value in os.environ.items() if name not in aside}
    if together(wanted.scale) > 1:  # of two on one accelerator neither may take all of its memory at its start
        ours["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return ours | {
        "XLA_FLAGS": " ".join([*COMPILE_FAST[wanted.scale], ours.get("XLA_FLAGS", "")]),
        "BOOK_FINGERPRINT": fingerprint(wanted.chapter.notebook),
        "IPYTHONDIR": str(ROOT / "_build" / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _error(executed: Path, log: Path) -> str:
    """What the chapter raised, in which cell and line, else the end of what the runner said."""
    if executed.exists():
        for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    frames = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))
                    line = re.search(r"^-+> .*", frames, re.MULTILINE)
                    where = f"{cell.get('id')} {line[0] if line else ''}".strip()
                    return f"{output['ename']}: {output['evalue']}\n  cell {where}"
    return log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]


def _record(result: Path) -> str | None:
    """A hash of the record that a chapter left, by which a later change to it is noticed."""
    return hashlib.sha256(result.read_bytes()).hexdigest() if result.exists() else None


def _report(say: str, receipt: dict[str, Any], known: bool) -> None:
    when = (
        "unchanged since its last run"
        if known
        else f"{receipt['elapsed']:.1f} s, {receipt['peak_memory'] / 1e9:.1f} GB"
    )
    print(f"{say}  {receipt['outcome']:<7}  {when}", flush=True)
    if receipt["outcome"] != "ok":
        where = Run(chapters(receipt["chapter"])[0], receipt["scale"], receipt["seed"]).executed.relative_to(ROOT)
        print(f"{receipt['error']}\nits notebook as far as it came: {where}", flush=True)


def _files(contents: Any) -> Iterator[str]:
    """The documents of a table of contents, in reading order."""
    if isinstance(contents, dict):
        for key, value in contents.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from _files(value)
    elif isinstance(contents, list):
        for entry in contents:
            yield from _files(entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters, by the stem of their notebook; default: all"
    )
    parser.add_argument("--scale", choices=LIMITS, default="quick")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="run with the seeds 0 to K - 1")
    parser.add_argument("--again", action="store_true", help="run even what has not changed")
    wanted = parser.parse_args()
    end_alike()
    runs = [Run(c, wanted.scale, seed) for c in chapters(*wanted.names) for seed in range(wanted.seeds)]
    failed = run_all(runs, wanted.again)
    raise SystemExit(f"{len(failed)} failed: {', '.join(r['chapter'] for r in failed)}" if failed else 0)


if __name__ == "__main__":
    main()
