"""What each chapter costs at quick scale, in units that a slow or busy machine does not change: `make times`.

A unit is the CPU time of one run of the calibration program (tools/calibrate.py), which compiles and runs one network
right after the chapter, beside whatever else the machine does then. The promise is a minute on two cores for a chapter
that runs alone, and half of that in the mean over the book.

python -m benchmarks.chapters [--total]
"""

import argparse
from typing import Any

from tools.chapters import Run, chapters

PROMISE = 33  # units: the program takes 3.6 CPU seconds where a minute on two cores was promised


def table(receipts: list[dict[str, Any]]) -> list[str]:
    """A line for each chapter, and one for the book."""
    units = [receipt["cpu_seconds"] / receipt["calibration"] for receipt in receipts]
    width = max(len(receipt["chapter"]) for receipt in receipts)
    lines = [f"{'':{width}}  CPU s  units  of the promise"]
    for receipt, cost in zip(receipts, units, strict=True):
        lines.append(f"{receipt['chapter']:{width}}  {receipt['cpu_seconds']:5.1f}  {cost:5.1f}  {cost / PROMISE:6.2f}")
    mean = sum(units) / len(units)
    return [
        *lines,
        f"{len(units)} chapters cost {sum(units):.0f} units; their mean, {mean:.1f}, is {2 * mean / PROMISE:.2f} "
        "of what is promised (`make times` lists them)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", action="store_true", help="the last line alone")
    total = parser.parse_args().total
    receipts = [Run(chapter).done() for chapter in chapters() if chapter.has_parameters()]
    measured = [receipt for receipt in receipts if receipt and receipt["outcome"] == "ok" and receipt["calibration"]]
    if not measured:
        raise SystemExit("no chapter has run: `make chapters` runs them")
    print("\n".join(table(measured)[-1 if total else 0 :]))


if __name__ == "__main__":
    main()
