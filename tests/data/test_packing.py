"""What is packed on one machine is unpacked on another, whole and verified, or an error says what is missing."""

import runpy
import sys

import numpy as np
import pytest
from data_server import entry, make

from lib.data import cache, packing
from lib.data.catalogue import DATASETS
from lib.data.verify import DataError

pytestmark = pytest.mark.once


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A folder of small files, and the arrays that are in them."""
    monkeypatch.setattr(packing, "PART", 7_000)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    arrays = {}
    for dataset in ("mnist", "cifar10"):
        made = make(dataset)
        monkeypatch.setitem(DATASETS, dataset, entry(dataset, made, ()))
        arrays[dataset] = made.arrays
    paths = packing.pack(arrays, tmp_path / "pack")
    assert len(paths) > 2
    assert max(path.stat().st_size for path in paths) <= 7_000
    return tmp_path / "pack", arrays


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lib.data", *map(str, arguments)])
    runpy.run_module("lib.data", run_name="__main__")


def test_the_cache_is_filled_from_the_files_alone(packed, monkeypatch, capsys):
    folder, arrays = packed
    command(monkeypatch, "--unpack", folder)
    assert capsys.readouterr().out.count("verified") == 8
    for dataset, named in arrays.items():
        there = cache.cached(dataset, named, routes=())
        for name, array in named.items():
            np.testing.assert_array_equal(there[name], array)
    command(monkeypatch, "--pack", folder.with_name("again"))
    for dataset, named in arrays.items():
        for name, array in packing.unpacked(dataset, folder.with_name("again")).items():
            np.testing.assert_array_equal(array, named[name])


@pytest.mark.parametrize(
    "fault", ["none there", "first missing", "middle missing", "last missing", "altered", "one set"]
)
def test_files_that_are_not_whole_fill_nothing(packed, monkeypatch, fault):
    folder, arrays = packed
    paths = sorted(folder.iterdir())
    if fault == "altered":
        content = bytearray(paths[1].read_bytes())
        content[3_000] ^= 1
        paths[1].write_bytes(content)
    elif fault == "one set":
        packing.pack({"mnist": arrays["mnist"]}, folder)
    else:
        gone = {
            "none there": paths,
            "first missing": paths[:1],
            "middle missing": paths[1:2],
            "last missing": paths[-1:],
        }
        for path in gone[fault]:
            path.unlink()
    with pytest.raises(SystemExit, match=r"(?s)cifar10 could not be had:.*(wide-networks-data|as it was unpacked)"):
        command(monkeypatch, "cifar10", "--unpack", folder)
    assert not list((cache.cache_folder() / "cifar10").glob("*.u8"))


def test_two_ways_at_once_are_refused(packed, monkeypatch):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "--pack", packed[0], "--unpack", packed[0])
    with pytest.raises(DataError, match=r"needs wide-networks-data\.tar\.gz\.00 and those that follow"):
        packing.unpacked("mnist", packed[0].with_name("elsewhere"))
