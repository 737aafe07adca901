"""The figures' shared style: one look, legible in grey, on a dark page and on a phone."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Dark to light, so that the order survives a grey printer; told apart by the colour-blind (after Okabe and Ito).
COLORS = ("#1b1b1b", "#0063a6", "#dd6a2b", "#009e73", "#cc79a7", "#e69f00")
NETWORK = dict(color=COLORS[0], linestyle="-", linewidth=2.4, alpha=0.55)
EMPIRICAL = dict(color=COLORS[1], linestyle="--", linewidth=1.6)
ANALYTIC = dict(color=COLORS[2], linestyle=":", linewidth=1.9)
PAPER = dict(color="#9a9a9a", linestyle="none", marker="o", markersize=5, markerfacecolor="white", zorder=1)


def figure(rows: int = 1, columns: int = 1, height: float = 2.7, **subplots) -> tuple[Figure, list[Axes]]:
    """A figure of panels in the book's style, and its axes in reading order, lettered (a), (b), … when several.

    Networks are drawn solid, the linear model with Θ̂ dashed, with Θ dotted, the paper's points as pale circles
    (`NETWORK`, `EMPIRICAL`, `ANALYTIC`, `PAPER`): a line's meaning never hangs on colour alone. The background is
    opaque white, so that dark pages show the figure on a card.

    Args:
        rows, columns: panels.
        height: inches of each row; the width is that of the page.
        subplots: passed on to `matplotlib.pyplot.subplots`.

    Returns:
        The figure and a flat list of its axes.

    Example:
        >>> fig, (left, right) = figure(1, 2)
        >>> left.get_title(loc="left")
        '(a)'
    """
    plt.draw_if_interactive()  # loads a notebook's backend here: inside, its "interactive" would be undone on leaving
    with mpl.rc_context(_STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(7.0, height * rows), layout="constrained", squeeze=False, **subplots
        )
        panels = list(axes.flat)
        if len(panels) > 1:
            for letter, ax in zip("abcdefghijklmnop", panels, strict=False):
                ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return fig, panels


def label_axes(panels: Sequence[Axes], labels: Sequence[tuple[str, str, str]]) -> None:
    """Title, x label and y label of each panel.

    Args:
        panels: axes, as `figure` returns them.
        labels: for each, (title, x label, y label).
    """
    for ax, (title, x, y) in zip(panels, labels, strict=True):
        ax.set(title=title, xlabel=x, ylabel=y)


_STYLE: Any = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "lines.linewidth": 1.7,
}
