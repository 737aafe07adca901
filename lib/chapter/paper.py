"""The numbers that the paper's figures show, to draw and judge ours against."""

import json
from pathlib import Path
from typing import Any

from lib.chapter.dependencies import book_root


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
