"""Numbers to hold a run against: what earlier runs have left, and what the paper's figures show."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.chapter.dependencies import book_root, fingerprint

# Of a claim recorded before claims said what they exclude.
UNSAID = {"kind": "theory", "against": {}, "revised": ""}


class Recorded(NamedTuple):
    """One run of a chapter: its claims, the arrays behind its figure, and whether today's code is what made it."""

    chapter: str
    scale: str
    seed: int
    claims: list[dict[str, Any]]
    provenance: dict[str, Any]
    arrays: dict[str, np.ndarray]
    fresh: bool


def recorded(chapter: str, scale: str = "paper") -> Recorded | None:
    """The run kept in book/results for a chapter at a scale, or None where there is none."""
    return _read(Path("book") / "results" / scale, chapter)


def measured(chapter: str, scale: str = "quick") -> Recorded | None:
    """The latest run on this machine of a chapter at a scale, or None where there is none."""
    return _read(Path("_build") / "results" / scale, chapter)


def _read(folder: Path, chapter: str) -> Recorded | None:
    path = book_root() / folder / f"{chapter}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    record["claims"] = [UNSAID | row for row in record["claims"]]
    arrays = {}
    if path.with_suffix(".npz").exists():
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
            arrays = dict(stored)
    notebook = next((book_root() / "book").rglob(f"{chapter}.ipynb"), None)
    return Recorded(
        **record,
        arrays=arrays,
        fresh=notebook is not None and fingerprint(notebook) == record["provenance"]["fingerprint"],
    )


def paper_values(figure: str) -> dict[str, Any]:
    """What a figure of the paper shows, read from book/reference/paper_values.json.

    Args:
        figure: by the final version's numbering, such as "figure_3".

    Returns:
        Its settings, its series as lists of numbers, and a `provenance` tag: FIG for points digitised from the paper's
        vector graphics.

    Raises:
        FileNotFoundError: when neither the working folder nor `lib` itself lies inside a copy of the book.
        ValueError: for a figure that is not there.

    Example:
        >>> paper_values("figure_3")["settings"]["width"]
        2048

    Source: Lee et al. 2019, its figures.
    """
    roots = (book_root(), Path(__file__).resolve().parents[2])
    path = next((p for root in roots if (p := root / "book" / "reference" / "paper_values.json").exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"book/reference/paper_values.json is neither under {roots[0]} nor beside the library in {roots[1]}; "
            "run from a clone of the book with `pip install -e .`"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    figures = [name for name in values if name != "about"]
    if figure not in figures:
        raise ValueError(f"`figure` must be one of {figures}, got {figure!r}")
    return values[figure]


def provenance_line(provenance: Mapping[str, Any]) -> str:
    """One line of text for the foot of a figure: commit, versions, device, dtype, seed, time and memory."""
    commit = (provenance["commit"] or "no commit")[:10] + (" with changes" if provenance["dirty"] else "")
    versions = ", ".join(
        f"{name} {provenance['versions'][name]}" for name in ("jax", "flax", "optax") if name in provenance["versions"]
    )
    seconds, memory = provenance["wall_time"], provenance["peak_memory"]["device"] or provenance["peak_memory"]["host"]
    time = f"{seconds['total']:.1f} s, of which {seconds['compile']:.1f} s compiling"
    if len(sittings := provenance.get("sittings", [])) > 1:
        time = f"{sum(s['seconds'] for s in sittings) / 3600:.2g} h in {len(sittings)} sittings"
    return " · ".join(
        [
            commit,
            versions,
            " and ".join(dict.fromkeys([*(s["device"] for s in provenance.get("sittings", [])), provenance["device"]])),
            provenance["dtype"],
            f"seed {provenance['seed']}",
            time,
            f"{memory / 1e9:.2g} GB" if memory else "memory unknown",
            provenance["date"][:10],
        ]
    )
