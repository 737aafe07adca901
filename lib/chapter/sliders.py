"""A figure that the reader moves, with no kernel and no network behind it."""

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

_PAGE = """
<div class="slider" id="{name}">
<img src="{first}" alt="{alt}" style="width: 100%; background: white">
<label>{label} <input type="range" min="0" max="{last}" value="{start}" aria-label="{label}" style="width: 60%">
<output>{shown}</output></label>
<script>(() => {{
  const slider = document.getElementById("{name}"), frames = {frames}, values = {values};
  slider.querySelector("input").addEventListener("input", event => {{
    slider.querySelector("img").src = frames[event.target.value];
    slider.querySelector("output").textContent = values[event.target.value];
  }});
}})();</script>
</div>
"""


def slider(
    draw: Callable[[Any], Any],
    values: Sequence[Any],
    *,
    name: str,
    label: str,
    alt: str,
    start: int = 0,
    show: Callable[[Any], str] = "{:.3g}".format,
) -> Any:
    """Draws a figure for each value and lets the reader choose among them.

    The caption and number come from the cell's metadata, as for any figure. The frames are pictures inside the page, so
    it works wherever the page is read: on a site, offline, in a saved notebook. A dozen are a few hundred kilobytes.

    Args:
        draw: `draw(value)` → a matplotlib figure, all of the same size.
        values: what the slider runs over, in order.
        name: unique within the page.
        label: what is moved, such as "time t".
        alt: the picture in words, for readers who do not see it.
        start: index of the value shown first.
        show: how a value is written beside the slider.

    Returns:
        An `IPython.display.HTML`.

    Raises:
        ValueError: when `values` is empty or `start` is not an index of it.
    """
    from IPython.display import HTML

    if not 0 <= start < len(values):
        raise ValueError(f"`start` must be an index of the {len(values)} `values`, got {start}")
    frames, texts = [_picture(draw(value)) for value in values], [show(value) for value in values]
    return HTML(
        _PAGE.format(
            name=html.escape(name, quote=True),
            first=frames[start],
            alt=html.escape(alt, quote=True),
            label=html.escape(label, quote=True),
            last=len(values) - 1,
            start=start,
            shown=html.escape(texts[start]),
            frames=json.dumps(frames),
            values=json.dumps(texts),
        )
    )


def _picture(fig: Any) -> str:
    """The figure as a data: address."""
    import matplotlib.pyplot as plt  # only here: it takes most of a second to import

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=110)
    plt.close(fig)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
