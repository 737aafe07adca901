"""The subset that ships with the package: the first images of each class, enough for every chapter at quick scale."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lib.data.catalogue import DATASETS
from lib.data.verify import DataError, difference

FOLDER = Path(__file__).parent


def embedded(dataset: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Verified arrays of the embedded subset, such as `("train_images", "train_labels")`, in official order.

    Raises:
        DataError: the file in the package is damaged.
    """
    path = FOLDER / f"{dataset}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except Exception as error:  # a damaged zip shows as any of a dozen types
        raise DataError(f"{path} cannot be read ({error!r}): reinstall the package") from error
    for name, array in arrays.items():
        if wrong := difference(array, DATASETS[dataset].subset.arrays[name]):
            raise DataError(f"{name} in {path}: {wrong}: reinstall the package")
    return arrays


def select(dataset: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The subset, made from the full arrays: the first `subset.per_class` of each class, in official order."""
    subset = {}
    for split, counts in DATASETS[dataset].subset.per_class.items():
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)]))
        subset |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
    return subset
