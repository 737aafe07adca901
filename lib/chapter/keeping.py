"""What a long run has done already: its parts are kept as they end, and the next sitting goes on from there.

The book's executor says where, at paper scale, by the variable BOOK_KEPT; elsewhere nothing is kept.
"""

import datetime
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lib import storage
from lib.chapter.machine import device

SITTINGS = "sittings.json"
NAME = re.compile(r"\w[\w .,=+-]{,99}", re.ASCII)  # a folder of this name can be made anywhere
NOTED = 10.0  # seconds after which a sitting notes its length again

_asked: set[str] = set()


def kept(name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
    """`compute(*arguments)`, or what it gave in an earlier sitting of this run: a member of an ensemble, a panel.

    Args:
        name: of this part; no two of a chapter share one.
        compute: returns an array, or a dict of them by name, as deep as one likes.
        arguments: of `compute`.

    Returns:
        The result, its arrays as NumPy's and its names in order: the same, whether it was computed now or is read.

    Raises:
        ValueError: for a name that is no plain text, or was asked for already: it would bring another part's numbers.
        TypeError: for a result that is no array of numbers and no dict of them by name.

    Example:
        >>> kept("half of three", lambda x: x / 2, 3.0).item()
        1.5
    """
    folder = checkpoint(name)
    path = None if folder is None else folder / "result.msgpack"
    if path is None:
        return _arrays(name, compute(*arguments))
    if not path.exists():
        storage.save(path, {}, {"result": _arrays(name, compute(*arguments))})
    return storage.load(path)[1]["result"]


def checkpoint(name: str) -> Path | None:
    """The folder in which a part of this run is kept, for `train`; None where nothing is kept.

    Raises:
        ValueError: as `kept`.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)) or name == SITTINGS:
        raise ValueError(f"`name` must be plain text of at most 100 characters, got {name!r}")
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
    """The sittings noted in the folder of a run; of a note that cannot be read a warning, for numbers need none."""
    path = folder / SITTINGS
    try:
        noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [{"began": s["began"], "device": s["device"], "jax": s["jax"], "seconds": s["seconds"]} for s in noted]
    except (ValueError, TypeError, KeyError):
        warnings.warn(f"{path} cannot be read; earlier sittings are not counted", stacklevel=2)
        return []


def _arrays(name: str, result: Any) -> Any:
    """Copies of our own, in the machine's byte order."""
    if isinstance(result, Mapping) and all(isinstance(key, str) and not key.startswith("__") for key in result):
        return {key: _arrays(name, result[key]) for key in sorted(result)}
    array = None if isinstance(result, Mapping | tuple | list) else np.asarray(result)
    if array is None or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name!r} must compute an array of numbers or a dict of them by name, got {_said(result)}")
    return np.array(array, array.dtype.newbyteorder("="))


def _said(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"the keys {list(result)}"
    return type(result).__name__ + (f" of {result.dtype}" if isinstance(result, np.ndarray) else "")
