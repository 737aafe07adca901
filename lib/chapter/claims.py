"""Claims that can fail, and the record a chapter leaves of them."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from lib.chapter.dependencies import book_root
from lib.chapter.keeping import Sitting
from lib.chapter.provenance import Stopwatch, origin_of_run
from lib.chapter.scales import html_table
from lib.storage import write_whole

# What a row rests on: theory, the paper's own number, that two ways lead to one number, or an effect that must be gone.
KINDS = ("theory", "paper", "identity", "control")


class ClaimError(AssertionError):
    """A chapter's measured number lies outside the band that its claim states."""


class Claims:
    """The claims of one chapter: each a number, the band it must lie in, the paper's number and its source.

    Made at the top of a chapter (its clock starts here), shown as a table, saved at the end. Saving writes
    `_build/results/<scale>/<chapter>.json` under the book's root and then raises if a claim does not hold.

    Args:
        chapter: the notebook's stem, for example "figure_3".
        scale: "quick" or "paper", as the chapter's parameters cell has it.
        seed: a whole number ≥ 0; runs with a seed other than 0 are kept apart as `<chapter>-seed<k>`.

    Raises:
        ValueError: for an empty or path-like chapter name, or a negative seed.

    Example:
        >>> claims = Claims("figure_3")
        >>> claims.check("RMSE of f and f_lin on test inputs", 0.11, high=0.15, paper=0.121, source="Figure 3, right")
        >>> print(claims)
        figure_3 at quick scale, seed 0
          holds  RMSE of f and f_lin on test inputs = 0.11, ≤ 0.15, paper 0.121 (Figure 3, right)
    """

    def __init__(self, chapter: str, *, scale: str = "quick", seed: int = 0) -> None:
        for argument, name in (("chapter", chapter), ("scale", scale)):
            if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
                raise ValueError(
                    f"`{argument}` must be a plain name such as the notebook's stem 'figure_3', got {name!r}"
                )
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be a whole number ≥ 0, got {seed!r}")
        self.chapter, self.scale, self.seed = chapter, scale, seed
        self.rows: list[dict[str, Any]] = []
        self._stopwatch, self._sitting = Stopwatch(), Sitting()

    def check(
        self,
        name: str,
        value: ArrayLike,
        low: float | None = None,
        high: float | None = None,
        paper: float | str | None = None,
        source: str = "",
        kind: str = "theory",
        against: Mapping[str, ArrayLike] | None = None,
        revised: str = "",
    ) -> None:
        """Record low ≤ value ≤ high. A failed claim raises only in `save`, so that one run shows all of them.

        A claim tells right from wrong: `against` names what it excludes, and what the same statistic gives for that in
        this run. An alternative that lies in the band fails the claim as a value outside does.

        Args:
            name: says what was measured; unique within the chapter.
            value: one number. NaN and infinities never hold.
            low: the band's lower end, or None.
            high: the band's upper end, or None. At least one end is needed: a claim that cannot fail is none.
            paper: what the paper has, or None.
            source: where the paper has it, or where the band comes from.
            kind: what the row rests on: "theory"; the "paper", whose own number it repeats; an "identity", two ways to
                one number; or a "control", in which an assumption is gone and the effect with it.
            against: wrong alternatives by name, each with its number.
            revised: why the band was set or changed after a first look; empty where it was set before the run.

        Raises:
            ValueError: for a value that is not one number, a band that is missing, empty or NaN, a repeated name, an
                unknown kind, or an alternative without a finite number.
        """
        if kind not in KINDS:
            raise ValueError(f"`kind` of {name!r} must be one of {', '.join(KINDS)}, got {kind!r}")
        if low is None and high is None:
            raise ValueError(f"{name!r} needs `low` or `high`: without a band a claim cannot fail")
        number = _real(f"`value` of {name!r}", value)
        low, high = (None if end is None else float(end) for end in (low, high))
        if not (-math.inf if low is None else low) <= (math.inf if high is None else high):
            raise ValueError(f"the band of {name!r} must have `low` ≤ `high`, got low={low}, high={high}")
        if any(row["name"] == name for row in self.rows):
            raise ValueError(f"{name!r} is already claimed; a `name` must be unique within a chapter")
        instead = {wrong: _real(f"`against` of {name!r}, {wrong!r},", of) for wrong, of in (against or {}).items()}
        if unknown := [wrong for wrong, of in instead.items() if not math.isfinite(of)]:
            raise ValueError(f"`against` of {name!r} must be finite numbers, and is not for {', '.join(unknown)}")
        row = {
            "name": name,
            "value": number,
            "low": low,
            "high": high,
            "paper": paper if paper is None or isinstance(paper, str) else float(paper),
            "source": source,
            "kind": kind,
            "against": instead,
            "revised": revised,
        }
        self.rows.append(row | {"holds": _within(row, number) and not _admitted(row)})

    def check_estimate(
        self,
        name: str,
        estimate: tuple[float, float],
        expected: float,
        against: Mapping[str, ArrayLike],
        paper: float | str | None = None,
        source: str = "",
        revised: str = "",
    ) -> None:
        """`check` that an estimate lies within four standard errors of the number expected.

        It gains nothing by its noise: where a standard error exceeds a sixth of the distance to the nearest wrong
        alternative, it cannot tell that from what is expected, and the row fails.

        Args:
            estimate: (value, standard error), as of `power_law`.
            expected: what theory or the paper gives for it.
            against: as in `check`; at least one.
            name, paper, source, revised: as in `check`.

        Raises:
            ValueError: as `check`; without an alternative; and for an error that is no number ≥ 0.
        """
        value, error = (_real(f"`estimate` of {name!r}", part) for part in estimate)
        if not against:
            raise ValueError(f"`against` of {name!r} must name a wrong alternative, from which the estimate is told")
        if not 0 <= error < math.inf:
            raise ValueError(f"the standard error of {name!r} must be a number ≥ 0, got {error}")
        apart = min(abs(_real(f"`against` of {name!r}, {of!r},", wrong) - expected) for of, wrong in against.items())
        within = 4 * error if 6 * error <= apart else 0.0
        self.check(name, value, expected - within, expected + within, paper, source, against=against, revised=revised)

    def save(self, **arrays: ArrayLike) -> None:
        """Write the record, and the arrays behind the figure beside it as .npz; then raise for every claim that failed.

        Raises:
            ValueError: where nothing was claimed.
            TypeError: for an array of Python objects.
            ClaimError: listing every claim that does not hold.
        """
        if not self.rows:
            raise ValueError("nothing to save: a chapter makes at least one claim, by `check`")
        solid = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in solid.items():
            if array.dtype.hasobject:
                raise TypeError(
                    f"`{name}` must be an array of numbers, got Python objects; are its rows of unequal length?"
                )
        folder = book_root() / "_build" / "results" / self.scale
        stem = self.chapter if self.seed == 0 else f"{self.chapter}-seed{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.npz").unlink(missing_ok=True)
        if solid:
            np.savez_compressed(folder / f"{stem}.npz", allow_pickle=False, **solid)
        rows = [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in self.rows]
        record = {"chapter": self.chapter, "scale": self.scale, "seed": self.seed, "claims": rows}
        record["provenance"] = origin_of_run(self._stopwatch, self.seed) | {"sittings": self._sitting.end()}
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(folder / f"{stem}.json", text.encode())
        failed = [row for row in self.rows if not row["holds"]]
        if failed:
            raise ClaimError(
                "\n".join(
                    [
                        f"{len(failed)} of {len(self.rows)} claims of {self.chapter} do not hold:",
                        *map(_sentence, failed),
                    ]
                )
            )

    def __str__(self) -> str:
        return "\n".join([f"{self.chapter} at {self.scale} scale, seed {self.seed}", *map(_sentence, self.rows)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return claims_table(self.rows)


def glue(name: str, value: ArrayLike | str) -> None:
    """Give a number of the run to the chapter's prose, which quotes it by {glue:text}`name:.3f`.

    The record is the one of MyST-NB's own `glue`, which is not there where a chapter runs without the site's packages.
    """
    from IPython.display import display

    prefix = "application/papermill.record/"
    text = value if isinstance(value, str) else repr(np.asarray(value).item())
    display({f"{prefix}text/plain": text}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})


def claims_table(rows: list[dict[str, Any]]) -> str:
    """The HTML table of claims, as chapters and the scorecard show it."""
    heads = ["claim", "measured", "must be", "excludes", "paper", "source", "holds"]
    return html_table("claims", heads, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    band = _band(row) + (f" (revised: {row['revised']})" if row["revised"] else "")
    excludes = _alternatives(row["against"]) or {"identity": "(an identity)", "control": "(a control)"}.get(
        row["kind"], "–"
    )
    paper, verdict = _number(row["paper"]), "yes" if row["holds"] else "NO"
    return [row["name"], _number(row["value"]), band, excludes, paper, row["source"], verdict]


def _real(what: str, value: ArrayLike) -> float:
    """One number as a Python float, or an error that names it."""
    if np.size(value) != 1 or np.iscomplexobj(value):
        raise ValueError(f"{what} must be one real number, got shape {np.shape(value)}; reduce it first")
    return float(np.asarray(value).item())


def _within(row: Mapping[str, Any], number: float) -> bool:
    """Whether a number lies in the band of a row."""
    low, high = row["low"], row["high"]
    return math.isfinite(number) and (low is None or low <= number) and (high is None or number <= high)


def _admitted(row: Mapping[str, Any]) -> dict[str, float]:
    """The wrong alternatives that the band of a row does not exclude."""
    return {wrong: of for wrong, of in row["against"].items() if _within(row, of)}


def _alternatives(against: Mapping[str, float]) -> str:
    return "; ".join(f"{wrong}: {_number(of)}" for wrong, of in against.items())


def _sentence(row: Mapping[str, Any]) -> str:
    paper = "" if row["paper"] is None else f", paper {_number(row['paper'])}"
    source = f" ({row['source']})" if row["source"] else ""
    verdict = "holds" if row["holds"] else "FAILS"
    admits = f"; the band admits {_alternatives(_admitted(row))}" if _admitted(row) else ""
    return f"  {verdict}  {row['name']} = {_number(row['value'])}, {_band(row)}{paper}{source}{admits}"


def _band(row: Mapping[str, Any]) -> str:
    low, high = row["low"], row["high"]
    if low is None or high is None:
        return f"≤ {high:.4g}" if low is None else f"≥ {low:.4g}"
    return f"{low:.4g} to {high:.4g}"


def _number(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.4g}"
