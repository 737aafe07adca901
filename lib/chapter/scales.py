"""The two scales of a chapter, and what a run at one of them takes."""

import html
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from lib.chapter.machine import device, device_memory


class Planned(Exception):
    """The chapter was to say what it needs, and not to run."""


class Scales(Mapping[str, SimpleNamespace]):
    """A chapter's numbers at each scale: shown, the table paper | quick; `scales[scale]` is one column as attributes.

    Raises:
        ValueError: where a scale lacks a number that another has, or an unknown scale is asked for.

    Example:
        >>> scales = Scales(paper=dict(width=2048, examples=256), quick=dict(width=512, examples=64))
        >>> scales["quick"].width
        512
    """

    def __init__(self, **scales: Mapping[str, Any]) -> None:
        names = {scale: set(numbers) for scale, numbers in scales.items()}
        for scale, own in names.items():
            if own != set().union(*names.values()):
                raise ValueError(
                    f"`{scale}` lacks {sorted(set().union(*names.values()) - own)}: every scale sets the same numbers"
                )
        self._scales = {scale: dict(numbers) for scale, numbers in scales.items()}

    def __getitem__(self, scale: str) -> SimpleNamespace:
        if scale not in self._scales:
            raise ValueError(f"`scale` must be one of {list(self._scales)}, got {scale!r}")
        return SimpleNamespace(**self._scales[scale])

    def __iter__(self):
        return iter(self._scales)

    def __len__(self) -> int:
        return len(self._scales)

    def __repr__(self) -> str:
        return "\n".join(
            f"{scale}: {', '.join(f'{k}={v}' for k, v in numbers.items())}" for scale, numbers in self._scales.items()
        )

    def _repr_html_(self) -> str:
        names = next(iter(self._scales.values()), {})
        return html_table(
            "scales",
            ["", *self._scales],
            [[name, *(str(numbers[name]) for numbers in self._scales.values())] for name in names],
        )


def budget(flops: float, memory: float) -> None:
    """Print what a run needs and, from the rate of matrix products on the device at hand, about how long it takes.

    Args:
        flops: floating-point operations in the whole run; a product of (n, k) and (k, m) has 2 n k m.
        memory: bytes held at the same time at the peak.

    Raises:
        ValueError: for a number that is not positive.
        MemoryError: where the device has less memory than that, before the run finds out.
        Planned: where the book's executor asks, by the variable BOOK_PLAN, what the chapter needs and no more.

    Example:
        >>> budget(flops=2e9, memory=1e6)  # doctest: +ELLIPSIS
        needs 2 Gflop and 1 MB; ...
    """
    for argument, amount in (("flops", flops), ("memory", memory)):
        if not amount > 0:
            raise ValueError(f"`{argument}` must be a positive number, got {amount!r}")
    if "BOOK_PLAN" in os.environ:
        Path(os.environ["BOOK_PLAN"]).write_text(json.dumps({"flops": float(flops), "memory": float(memory)}))
        raise Planned(f"needs {in_short(flops)}flop and {in_short(memory)}B")
    available, rate = device_memory(), matrix_rate()
    has = f"{in_short(available)}B" if available else "an unknown memory"
    if available and memory > available:
        needs = f"`memory`: this run needs {in_short(memory)}B and {device()} has {has}"
        raise MemoryError(f"{needs}; choose the smaller scale or a larger machine")
    seconds = flops / rate
    at = f"{device()}, {has}, multiplies matrices at {in_short(rate)}flop/s in {jnp.result_type(float)}"
    print(f"needs {in_short(flops)}flop and {in_short(memory)}B; {at}: about {about(seconds)} at best")


def html_table(name: str, heads: list[str], rows: list[list[str]]) -> str:
    """An HTML table of plain text, with `name` as its class."""
    # Notebooks and themes know from the class "dataframe" how to draw a table on a dark page.

    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<table class="dataframe {name}"><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table>'


def about(seconds: float) -> str:
    """A time in words: "12 s", "3 min", "5 h"."""
    units = (("s", 1, 100), ("min", 60, 6000), ("h", 3600, math.inf))
    unit, length, _ = next(unit for unit in units if seconds < unit[2])
    return f"{max(seconds, 1) / length:.0f} {unit}"


def matrix_rate() -> float:
    """Operations per second in a product large enough for the device, the best of three after compiling."""
    n = 1024 if jax.devices()[0].platform == "cpu" else 4096
    product, a = jax.jit(lambda a: jnp.matmul(a, a, precision="highest")), jnp.full((n, n), 0.5)
    product(a).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def in_short(amount: float) -> str:
    """A number with three digits and its SI prefix: 2.5e9 → "2.5 G"."""
    power = min(max(int(math.log10(amount) // 3), 0), 6)
    return f"{amount / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"
