"""How benchmarks time a call, on both sides: the peers' own Python runs this too, and has Python alone in common."""

import timeit
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> list[float]:
    """Of each of several calls that wait for their results, after one that compiles: for 2 s, from 3 to 300 of them."""
    call()
    once = timeit.timeit(call, number=1)
    return timeit.repeat(call, number=1, repeat=min(max(3, int(2 / once)), 300))
