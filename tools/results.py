"""Keep results: `record` promotes runs to book/results, `intervals` reruns chapters over seeds.

python -m tools.results record [NAME ...] [--scale quick|paper]
python -m tools.results intervals [NAME ...] [--scale quick|paper] [--seeds K]
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from lib.chapter.dependencies import fingerprint
from tools.chapters import LIMITS, ROOT, Chapter, Run, chapters, run_all
from tools.processes import end_alike


def record(wanted: list[Chapter], scale: str) -> list[Path]:
    """Copy the results of runs at a scale to book/results, and return what was written.

    Raises:
        SystemExit: where there is nothing to keep, or for a result that was made by hand, by other code than there is
            now, or at quick scale with a claim that does not hold. Then nothing is copied.
    """
    results = [run.result for run in (Run(chapter, scale) for chapter in wanted) if run.result.exists()]
    faults = [fault for chapter in wanted if (fault := _fault(chapter, scale))]
    if faults or not results:
        raise SystemExit("\n".join(faults) or f"no results at {scale} scale: run the chapters first")
    kept = ROOT / "book" / "results" / scale
    kept.mkdir(parents=True, exist_ok=True)
    written = []
    for result in results:
        (kept / f"{result.stem}.npz").unlink(missing_ok=True)
        for path in (result, result.with_suffix(".npz"), result.with_name(f"{result.stem}-seeds.json")):
            if path.exists():
                written.append(Path(shutil.copyfile(path, kept / path.name)))
    return written


def intervals(chapter: Chapter, scale: str, seeds: int) -> dict[str, Any]:
    """The values of each claim over the seeds 0 to `seeds` - 1, from the runs' results; also written beside them."""
    runs = [Run(chapter, scale, seed) for seed in range(seeds)]
    records = [json.loads(run.result.read_text(encoding="utf-8")) for run in runs if run.result.exists()]
    claims = {}
    for claim in (claim for record in records for claim in record["claims"]):
        row = claims.setdefault(claim["name"], {"name": claim["name"], "values": [], "held": 0})
        row["values"].append(claim["value"])
        row["held"] += claim["holds"]
    summary = {
        "chapter": chapter.name,
        "scale": scale,
        "seeds": [record["seed"] for record in records],
        "fingerprint": fingerprint(chapter.notebook),
        "claims": list(claims.values()),
    }
    if records:
        path = runs[0].result.with_name(f"{chapter.name}-seeds.json")
        path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _fault(chapter: Chapter, scale: str) -> str | None:
    """Why the result of a chapter may not be kept; None where it may, or where there is none."""
    result = Run(chapter, scale).result
    if not result.exists():
        return None
    record = json.loads(result.read_text(encoding="utf-8"))
    made_by = record["provenance"]["fingerprint"]
    repeat = f"run `make chapter NAME={chapter.name} SCALE={scale}`"
    if made_by is None:
        return f"{chapter.name}: a run by hand, of which nobody knows the code; {repeat}"
    if made_by != fingerprint(chapter.notebook):
        return f"{chapter.name}: the code has changed since this run; {repeat}"
    broken = [claim["name"] for claim in record["claims"] if not claim["holds"]]
    if broken and scale == "quick":
        return f"{chapter.name}: claims that do not hold: {', '.join(broken)}"
    return None  # at the paper's sizes a claim that fails is a finding, and is recorded as one


def _table(summary: dict[str, Any]) -> str:
    lines = [f"{summary['chapter']}, {summary['scale']} scale, seeds {summary['seeds']}"]
    for claim in summary["claims"]:
        values = [value for value in claim["values"] if value is not None]
        spread = f"{min(values):.4g} to {max(values):.4g}" if values else "no finite value"
        lines.append(f"  held {claim['held']} of {len(claim['values'])}  {claim['name']}: {spread}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "intervals"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--scale", choices=LIMITS, default="quick")
    parser.add_argument("--seeds", type=int, default=5)
    wanted = parser.parse_args()
    found = chapters(*wanted.names)
    if wanted.action == "record":
        for path in record(found, wanted.scale):
            print(path.relative_to(ROOT))
        return
    end_alike()
    # What claims nothing leaves no result, and has nothing that a seed could move.
    found = [chapter for chapter in found if chapter.has_parameters()]
    failed = run_all([Run(chapter, wanted.scale, seed) for chapter in found for seed in range(wanted.seeds)])
    for chapter in found:
        print(_table(intervals(chapter, wanted.scale, wanted.seeds)))
    raise SystemExit(f"{len(failed)} of the runs failed" if failed else 0)


if __name__ == "__main__":
    main()
