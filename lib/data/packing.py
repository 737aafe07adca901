"""The complete data sets as files that can be carried to a machine without a network, none too large for anything."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.data.catalogue import DATASETS
from lib.data.verify import DataError

NAME = "wide-networks-data.tar.gz"
PART = 60_000_000  # bytes


def pack(arrays: Mapping[str, Mapping[str, np.ndarray]], folder: Path) -> list[Path]:
    """Write the arrays of data sets, {data set: {name: array}}, to numbered files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{NAME}.*"):
        old.unlink()
    with _Parts(folder) as parts, tarfile.open(fileobj=parts, mode="w|gz") as archive:
        for dataset, named in arrays.items():
            for name, array in named.items():
                entry = tarfile.TarInfo(f"{dataset}/{name}.u8")
                entry.size = array.nbytes
                archive.addfile(entry, io.BytesIO(np.ascontiguousarray(array).tobytes()))
    return parts.written


def unpacked(dataset: str, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a data set from the files of `pack`: not yet verified.

    Raises:
        DataError: there are no such files, one is missing, or they are damaged.
    """
    arrays, stored = {}, DATASETS[dataset].full.arrays
    try:
        with _Joined(folder) as parts, tarfile.open(fileobj=parts, mode="r|gz") as archive:
            for entry in archive:
                home, _, name = entry.name.removesuffix(".u8").partition("/")
                if home == dataset and name in stored:
                    content = np.frombuffer(archive.extractfile(entry).read(), np.uint8)  # pyright: ignore[reportOptionalMemberAccess]
                    arrays[name] = content.reshape(stored[name].shape)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{folder / NAME}.*: {error or type(error).__name__}") from error
    if missing := set(stored) - set(arrays):
        raise DataError(f"{folder / NAME}.*: without {', '.join(sorted(missing))} of {dataset}")
    return arrays


class _Parts(io.RawIOBase):
    """A stream that is written to one file after another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.written, self._file, self._room = folder, [], None, 0

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        left = memoryview(content)
        while len(left):
            if not self._room:
                self._next()
            now, left = left[: self._room], left[self._room :]
            self._file.write(now)  # pyright: ignore[reportOptionalMemberAccess]
            self._room -= len(now)
        return len(content)

    def _next(self) -> None:
        if self._file:
            self._file.close()
        self.written.append(self.folder / f"{NAME}.{len(self.written):02}")
        self._file, self._room = self.written[-1].open("wb"), PART

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


class _Joined(io.RawIOBase):
    """One stream of the files of `_Parts`."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob(f"{NAME}.*"))
        names = [path.name for path in paths]
        if names != [f"{NAME}.{i:02}" for i in range(len(names))] or not names:
            raise FileNotFoundError(
                f"needs {NAME}.00 and those that follow, and there are {', '.join(names) or 'none'}"
            )
        self._left = iter(paths)
        self._file = next(self._left).open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not (count := self._file.readinto(buffer)):
            self._file.close()
            following = next(self._left, None)
            if following is None:
                return 0
            self._file = following.open("rb")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
