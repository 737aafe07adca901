"""How benchmarks time a call, on both sides: the peers' own Python runs this too, and has Python alone in common."""

import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> list[float]:
    """Of each of several calls that wait for their results, after one that compiles: of short ones more, up to 300."""
    call()
    times = []
    while len(times) < 3 or (sum(times) < 2 and len(times) < 300):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times
