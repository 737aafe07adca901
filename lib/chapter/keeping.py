"""What a long run has done already: its parts are kept as they end, and the next sitting goes on from there.

The book's executor says where, at paper scale, by the variable BOOK_KEPT; elsewhere nothing is kept.
"""

import datetime
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lib import storage
from lib.chapter.machine import device

SITTINGS = "sittings.json"
NOTED = 10.0  # seconds after which a sitting notes its length again

_asked: set[str] = set()


def kept(name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
    """`compute(*arguments)`, or what it gave in an earlier sitting of this run: a member of an ensemble, a panel.

    Args:
        name: of this part; no two of a chapter share one.
        compute: returns an array, or a dict of them by name, as deep as one likes.
        arguments: of `compute`.

    Returns:
        The result, its arrays as NumPy's.

    Raises:
        ValueError: for a name that is no plain text, or was asked for already: it would bring another part's numbers.
        TypeError: for a result that is no array and no dict of arrays.

    Example:
        >>> kept("half of three", lambda x: x / 2, 3.0).item()
        1.5
    """
    folder = checkpoint(name)
    path = None if folder is None else folder / "result.msgpack"
    if path is not None and path.exists():
        return storage.load(path)[1]["result"]
    result = _arrays(name, compute(*arguments))
    if path is not None:
        storage.save(path, {}, {"result": result})
    return result


def checkpoint(name: str) -> Path | None:
    """The folder in which a part of this run is kept, for `train`; None where nothing is kept.

    Raises:
        ValueError: as `kept`.
    """
    if not re.fullmatch(r"[\w][\w .,=+-]*", name):
        raise ValueError(f"`name` must be plain text, got {name!r}")
    if "BOOK_FINGERPRINT" in os.environ:  # the executor's: by hand, a cell may run twice
        if name in _asked:
            raise ValueError(f"`name` must be one that no other part of the run has, got {name!r} again")
        _asked.add(name)
    return Path(os.environ["BOOK_KEPT"]) / name if "BOOK_KEPT" in os.environ else None


class Sitting:
    """Notes in the run's folder that there is a sitting, on which device, since when and for how long by now."""

    def __init__(self) -> None:
        self.path = Path(os.environ["BOOK_KEPT"]) / SITTINGS if "BOOK_KEPT" in os.environ else None
        self._noting, self._ended = threading.Lock(), threading.Event()
        if self.path is None:  # and JAX need not know its devices yet
            return
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._before, self._start = sittings(self.path.parent), time.monotonic()
        self._own = {"began": began, "device": device(), "jax": jax.__version__}
        storage.clear(self.path)
        self.all()
        threading.Thread(target=self._go_on, daemon=True).start()

    def all(self) -> list[dict[str, Any]]:
        """The sittings of this run, the last of them this one; none where nothing is kept."""
        if self.path is None:
            return []
        with self._noting:
            noted = [*self._before, self._own | {"seconds": round(time.monotonic() - self._start, 1)}]
            storage.write_whole(self.path, json.dumps(noted, indent=1).encode())
        return noted

    def end(self) -> list[dict[str, Any]]:
        """`all`, for the last time."""
        self._ended.set()
        return self.all()

    def _go_on(self) -> None:
        while not self._ended.wait(NOTED):
            self.all()


def sittings(folder: Path) -> list[dict[str, Any]]:
    """The sittings noted in the folder of a run."""
    path = folder / SITTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _arrays(name: str, result: Any) -> Any:
    if isinstance(result, dict):
        return {str(key): _arrays(name, value) for key, value in result.items()}
    array = None if isinstance(result, tuple | list) else np.asarray(result)
    if array is None or array.dtype.hasobject:
        raise TypeError(f"{name!r} must compute an array or a dict of arrays, got {type(result).__name__}")
    return array
