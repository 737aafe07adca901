"""The one check that every array passes before anybody sees it."""

import hashlib

import numpy as np

from lib.data.catalogue import DATASETS, Stored


class DataError(RuntimeError):
    """Data could not be had, or are not the official data; the message says what to do."""


def difference(array: np.ndarray, stored: Stored) -> str:
    """How an array differs from the catalogue's, with what was expected and what came; empty if it does not."""
    got = f"{array.dtype} {array.shape} with SHA-256 {hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}"
    expected = f"uint8 {stored.shape} with SHA-256 {stored.sha256}"
    return "" if got == expected else f"expected {expected}, got {got}"


def checksum() -> str:
    """The data in sixteen characters, for a record's provenance: a hash of the checksums of all arrays there are.

    Every array is checked before `load` hands it out, so this stands for the data themselves.

    Returns:
        Hexadecimal digits, the same on every machine and for every route.

    Example:
        >>> len(checksum())
        16
    """
    tables = [table for dataset in DATASETS.values() for table in (dataset.full, dataset.subset)]
    hashes = [stored.sha256 for table in tables for stored in table.arrays.values()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
