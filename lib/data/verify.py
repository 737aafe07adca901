"""The one check that every array passes before anybody sees it."""

import hashlib

import numpy as np

from lib.data.catalogue import DATASETS, Stored


class DataError(RuntimeError):
    """Data could not be had, or are not the official data; the message says what to do."""


def difference(array: np.ndarray, stored: Stored) -> str:
    """How an array differs from the one in the catalogue, with what was expected and what came; empty if it does not."""
    if array.dtype != np.uint8 or array.shape != stored.shape:
        return f"is {array.dtype} {array.shape}, expected uint8 {stored.shape}"
    got = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    return "" if got == stored.sha256 else f"has SHA-256 {got}, expected {stored.sha256}"


def checksum() -> str:
    """The data in sixteen characters, for a record's provenance: a hash of the checksums of every array there is.

    It changes when, and only when, `load` would hand out other numbers from some split.

    Returns:
        Hexadecimal digits, the same on every machine and for every route.

    Example:
        >>> len(checksum())
        16
    """
    arrays = [stored for dataset in DATASETS.values() for table in (dataset.arrays, dataset.subset) for stored in table.values()]
    return hashlib.sha256("".join(stored.sha256 for stored in arrays).encode()).hexdigest()[:16]
