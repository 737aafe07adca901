"""Small made archives in the four real formats, and a host on the loopback that serves them, well or badly."""

import functools
import gzip
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib.data import DataError, archives, load
from lib.data.cache import cache_folder, cached
from lib.data.catalogue import DATASETS, TASKS, Archive, Dataset, Package, Stored, Table
from lib.data.formats import CIFAR10_BATCHES, MNIST_FILES

SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}
ROUTES = {"official": archives.official, "npm": archives.npm}
RIGHT, REFUSED, WRONG = "right arrays", "DataError", "WRONG ARRAYS"


class Made(NamedTuple):
    """A small data set: its arrays, and the archives that hold them by file name."""

    arrays: dict[str, np.ndarray]
    official: dict[str, bytes]
    npm: bytes


@functools.cache
def make(dataset: str) -> Made:
    """Thirty training and ten test images, each class equally often, in the formats of the real data set."""
    rng, arrays = np.random.default_rng(len(dataset)), {}
    for split, n in (("train", 30), ("test", 10)):
        # Two bits a pixel, so that archives are several times smaller than arrays: a disk can be full for one of them.
        arrays[f"{split}_images"] = rng.integers(0, 4, (n, *SHAPES[dataset]), np.uint8) * 60
        arrays[f"{split}_labels"] = rng.permutation(np.arange(n, dtype=np.uint8) % 10)
    return {"cifar10": _cifar10, "mnist": _mnist}[dataset](arrays)


def entry(dataset: str, made: Made, bases: tuple[str, ...]) -> Dataset:
    """What the catalogue would say of a made data set. Nothing of it is embedded."""
    counts = {split: tuple(np.bincount(made.arrays[f"{split}_labels"]).tolist()) for split in ("train", "test")}
    return DATASETS[dataset]._replace(
        full=Table(counts, {name: Stored(a.shape, sha256(a.tobytes())) for name, a in made.arrays.items()}),
        subset=Table({"train": (0,) * 10, "test": (0,) * 10}, {}),
        official=tuple(Archive(file, sha256(content), bases) for file, content in made.official.items()),
        npm=Package(f"{dataset}-made@1.0.0", f"{dataset}-made-1.0.0.tgz", sha256(made.npm)),
    )


def outcome(dataset: str, source: str) -> tuple[str, str]:
    """What comes of asking a source for a made data set, at the public door where there is one, and the message."""
    try:
        if source == "official":
            return (RIGHT if _is_right(dataset, *load(dataset, train=None, test=None)) else WRONG), ""
        expected = make(dataset).arrays
        got = cached(dataset, expected, routes=(ROUTES[source],))
        return (RIGHT if all(np.array_equal(got[name], expected[name]) for name in expected) else WRONG), ""
    except DataError as error:
        return REFUSED, str(error)


def half_files(dataset: str) -> list[str]:
    """What lies in the cache and is neither the lock nor a whole, right array."""
    arrays = make(dataset).arrays
    return [
        str(path)
        for path in (cache_folder() / dataset).rglob("*")
        if path.name != ".lock" and not (path.stem in arrays and path.read_bytes() == arrays[path.stem].tobytes())
    ]


def in_a_process(
    dataset: str, bases: tuple[str, ...], source: str, environment: dict[str, str], before: Callable[[], None] | None
) -> None:
    """The body of a process of its own: its exit status is 10 for the right arrays, 11 for a DataError, else 12."""
    os.environ.update(environment)
    DATASETS[dataset] = entry(dataset, make(dataset), bases)
    if before:
        before()
    sys.exit({RIGHT: 10, REFUSED: 11, WRONG: 12}[outcome(dataset, source)[0]])


class Host(ThreadingHTTPServer):
    """Serves files by name; `plan` says how to treat each request in turn, and the last word of it holds on."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], plan: tuple[str, ...] = ("whole",)):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.plan = files, list(plan)
        self.asked: list[str] = []
        self.half_sent, self.release = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def stop(self) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that was killed, or lost patience, is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        host, file = self.server, self.path.strip("/")
        treatment = host.plan.pop(0) if len(host.plan) > 1 else host.plan[0]
        host.asked.append(file)
        content = host.files[file]
        half = len(content) // 2
        if treatment == "absent":
            return self.send_error(404)
        if treatment == "silent":
            return host.release.wait()
        if treatment == "short":  # a truncated file, honestly announced
            content = content[:half]
        if treatment == "altered":
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        if treatment == "another":  # a sound archive, but not this one
            content = gzip.compress(b"another archive" * 1000)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:half])
        self.wfile.flush()
        host.half_sent.set()
        if treatment in ("held", "stalled"):
            host.release.wait()
        if treatment not in ("cut", "stalled"):
            self.wfile.write(content[half:])

    def log_message(self, format, *args):
        """Requests are recorded in `Host.asked`, not printed."""


def install_npm(folder: Path, base: str) -> None:
    """A program `npm` that does what `npm pack` does, from the loopback, for the process's PATH."""
    program = folder / "npm"
    program.write_text(f"""#!{sys.executable} -S
import sys, urllib.request
assert sys.argv[1] == "pack" and "--ignore-scripts" in sys.argv
file = sys.argv[2].replace("@", "-") + ".tgz"
folder = sys.argv[sys.argv.index("--pack-destination") + 1]
with urllib.request.urlopen("{base}" + file) as response, open(folder + "/" + file, "wb") as out:
    while chunk := response.read1(4096):
        out.write(chunk)
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def sha256(content: bytes) -> str:
    """In hexadecimal, as the catalogue has it."""
    return hashlib.sha256(content).hexdigest()


def _is_right(dataset, *splits) -> bool:
    arrays, task = make(dataset).arrays, TASKS[dataset]
    for split, got in zip(("train", "test"), splits, strict=True):
        labels = arrays[f"{split}_labels"]
        rows = sorted(range(len(labels)), key=lambda i, labels=labels: (np.sum(labels[:i] == labels[i]), labels[i]))
        x = (arrays[f"{split}_images"][rows] / 255 - task.mean) / task.std
        same = np.array_equal(got.labels, labels[rows]) and np.array_equal(got.y, np.eye(10)[labels[rows]])
        if not (same and np.array_equal(got.x, x.astype(np.float32))):
            return False
    return True


def _cifar10(arrays) -> Made:
    official, npm = {}, {}
    for split, batches in CIFAR10_BATCHES.items():
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        npm[f"{split}_lables.json"] = json.dumps(labels.tolist()).encode()
        for batch, rows in zip(batches, np.split(np.arange(len(labels)), len(batches)), strict=True):
            planes = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
            official[f"{batch}.bin"] = np.concatenate([labels[rows, None], planes], axis=1).tobytes()
            png = io.BytesIO()
            Image.fromarray(images[rows].reshape(len(rows), 1024, 3)).save(png, "PNG")
            npm[f"{batch}.png"] = png.getvalue()
    return Made(arrays, {"cifar-10-binary.tar.gz": _tar(official)}, _tar(npm))


def _mnist(arrays) -> Made:
    files = {}
    for split, prefix in MNIST_FILES.items():
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        sizes = np.array([len(images), 28, 28], ">u4").tobytes()
        files[f"{prefix}-images-idx3-ubyte"] = b"\0\0\x08\x03" + sizes + images.tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + sizes[:4] + labels.tobytes()
    official = {f"{file}.gz": gzip.compress(content, mtime=0) for file, content in files.items()}
    return Made(arrays, official, _tar(files))


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)
