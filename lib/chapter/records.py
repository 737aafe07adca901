"""What runs have left: the record of a chapter at a scale, with the arrays behind its figure."""

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
