"""Chapters at the paper's own sizes, in as many sittings as it takes, the cheapest first and at low priority.

python -m tools.paper [NAME ...] [--budget MINUTES] [--plan]

A chapter keeps its parts in _build/paper as they end, and long trainings every few minutes. However a sitting ends, by
its budget, Ctrl-C, kill -9 or the mains, the same command goes on from there: on another machine too, where
_build/paper is copied to it.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from lib import storage
from lib.chapter.keeping import sittings
from lib.chapter.scales import about, in_short
from tools.chapters import ROOT, Run, ask, chapters, run
from tools.processes import end_alike

PLAN = ROOT / "_build" / "paper" / "plan.json"


class Machine(NamedTuple):
    """What there is: operations a second in products of matrices, at best, and bytes of memory, where that is known."""

    rate: float
    memory: int | None

    def holds(self, need: dict[str, Any]) -> bool:
        return self.memory is None or need["error"] or need["memory"] <= self.memory


def machine() -> Machine:
    """Of this machine, measured by a process that ends: of an accelerator it would hold on to the memory."""
    script = "from lib.chapter.scales import device_memory, matrix_rate; print(matrix_rate(), device_memory() or '')"
    home = Path(__file__).resolve().parents[1]
    rate, *memory = subprocess.check_output([sys.executable, "-c", script], text=True, cwd=home).split()
    return Machine(float(rate), int(memory[0]) if memory else None)


def with_paper_scale(*names: str) -> list[Run]:
    """The runs at paper scale of all chapters that have one, or of those named."""
    has = lambda chapter: chapter.has_parameters() and "lib.budget(" in "".join(map(str, chapter.read()["cells"]))
    runs = [Run(chapter, "paper") for chapter in chapters(*names)]
    if missing := [wanted.stem for wanted in runs if names and not has(wanted.chapter)]:
        raise SystemExit(f"no paper scale: {', '.join(missing)}")
    return [wanted for wanted in runs if has(wanted.chapter)]


def needs(wanted: Run) -> dict[str, Any]:
    """Operations and memory, as the chapter itself says when it is run up to its `lib.budget`; kept for its code."""
    known = {}
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # unreadable: each chapter is asked again
        known = dict(json.loads(PLAN.read_text(encoding="utf-8")))
    if known.get(wanted.stem, {}).get("code") != wanted.kept.name:
        print(f"asking {wanted.stem} what it needs", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            said = ask(wanted, Path(folder) / "needs.json")
        known[wanted.stem] = {"code": wanted.kept.name, **said}
        storage.write_whole(PLAN, json.dumps(known, indent=1).encode())
    return known[wanted.stem]


def progress(wanted: Run) -> str:
    """What is done of a run, in words."""
    if receipt := wanted.done():
        return "done" if receipt["outcome"] == "ok" else f"failed: {receipt['error'].splitlines()[0]}"
    parts = [path.parent.name for path in wanted.kept.glob("*/result.msgpack")]
    for path in wanted.kept.glob(f"*/{storage.FILE}"):
        with contextlib.suppress(ValueError, KeyError, OSError):
            found = storage.header(path)
            step, steps, seconds = found["step"], found["run"]["steps"], found["seconds"]
            left = f", {about(seconds / step * (steps - step))} left" if 0 < step < steps else ""
            parts.append(f"{path.parent.name} {step / max(steps, 1):.0%}{left}")
    past = sittings(wanted.kept)
    spent = (
        f"{about(sum(s['seconds'] for s in past))} in {len(past)} sitting{'s' * (len(past) > 1)}"
        if past
        else "not begun"
    )
    return "; ".join([spent, *sorted(parts)])


def table(plan: dict[Run, dict[str, Any]], here: Machine) -> list[str]:
    """The plan, a line for each run."""
    lines = [f"{'chapter':<28} {'operations':>12} {'memory':>10} {'at best':>9}  done"]
    for wanted, need in plan.items():
        sizes, state = ["?", "?", "?"], need["error"]
        state = state.splitlines()[0] if state else ""
        if not state:
            sizes = [f"{in_short(need['flops'])}flop", f"{in_short(need['memory'])}B", about(need["flops"] / here.rate)]
            state = progress(wanted) + ("" if here.holds(need) else "; more memory than there is")
        lines.append(f"{wanted.stem:<28} {sizes[0]:>12} {sizes[1]:>10} {sizes[2]:>9}  {state}")
    return lines


def sit(plan: dict[Run, dict[str, Any]], here: Machine, minutes: float | None) -> list[dict[str, Any]]:
    """Run what is not done and fits, for so many minutes; returns the receipts of what failed."""
    stop, failed = threading.Event(), []
    timer = threading.Timer(60 * (minutes or 0), stop.set)
    if minutes is not None:
        timer.daemon = True
        timer.start()
    for i, (wanted, need) in enumerate(plan.items(), 1):
        say = f"{i:>3}/{len(plan)}  {wanted.stem}"
        if not here.holds(need):
            continue  # as the plan has said
        try:
            receipt = run(wanted, say=say, stop=stop)
        except KeyboardInterrupt:
            print(f"{say}  stopped: {progress(wanted)}\nThe same command goes on from here.", flush=True)
            if stop.is_set():
                break
            raise SystemExit(130) from None
        failed += [receipt] if receipt["outcome"] != "ok" else []
    timer.cancel()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters, by the stem of their notebook; default: all"
    )
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES", help="end this sitting after so long; default: never"
    )
    parser.add_argument("--plan", action="store_true", help="say what each chapter needs and has done, and run none")
    wanted = parser.parse_args()
    if wanted.budget is not None and not 0 < wanted.budget < math.inf:
        parser.error(f"--budget must be a number of minutes above 0, got {wanted.budget}")
    end_alike()
    os.nice(19)
    asked, here = {run: needs(run) for run in with_paper_scale(*wanted.names)}, machine()
    plan = dict(sorted(asked.items(), key=lambda of: of[1]["flops"] or math.inf))
    print("\n".join(table(plan, here)), flush=True)
    if not wanted.plan:
        failed = sit(plan, here, wanted.budget)
        raise SystemExit(f"{len(failed)} failed: {', '.join(r['chapter'] for r in failed)}" if failed else 0)


if __name__ == "__main__":
    main()
