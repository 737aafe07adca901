"""Files that are whole or not there: what a long run has done so far, kept for when it goes on."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout
from flax import serialization
from jaxtyping import PyTree

FILE = "checkpoint.msgpack"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that nobody ever sees half written, whenever the process or the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove what a killed process has left of a file half written. Only for who alone writes it."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def save(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Keep NumPy's arrays, in dicts by name as deep as one likes, behind one line of JSON that can be read alone."""
    payload = serialization.msgpack_serialize(dict(arrays))
    line = json.dumps({**header, "sha256": _checksum(header, payload)})
    write_whole(path, line.encode() + b"\n" + payload)


def header(path: Path) -> dict[str, Any]:
    """The first line of a file that `save` has left.

    Raises:
        ValueError: where it is none of those, or damaged.
    """
    with path.open("rb") as file:
        return _header(path, file.readline())


def load(path: Path) -> tuple[dict[str, Any], Any]:
    """The header and the arrays of a file that `save` has left.

    Raises:
        ValueError: where the file is none of those, or damaged.
    """
    line, _, payload = path.read_bytes().partition(b"\n")
    found = _header(path, line)
    if _checksum({name: value for name, value in found.items() if name != "sha256"}, payload) != found.get("sha256"):
        raise ValueError(f"{path} is damaged: its numbers are not those that were saved. Delete it to begin again")
    return found, jax.tree.map(np.array, serialization.msgpack_restore(payload))  # copies, which one may write to


def _checksum(header: Mapping[str, Any], payload: bytes) -> str:
    return hashlib.sha256(json.dumps(header).encode() + b"\n" + payload).hexdigest()


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged, or nothing that a run has saved. Delete it to begin again")
    return found


class Checkpoint:
    """The place of one run: its state after some steps, refused to any other run and to two processes at a time.

    Args:
        folder: where the file lies; made if need be.
        run: what decides the run's numbers, by name: each value a number, a text or a `digest`.

    Raises:
        ValueError: for a checkpoint of another run, with the names of what differs; for one that is damaged; and where
            another process is at work on it.
    """

    def __init__(self, folder: str | os.PathLike, run: Mapping[str, Any]) -> None:
        self.path, self.run = Path(folder) / FILE, dict(run)
        self.seconds, self._began = 0.0, time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(".lock"))

    def __enter__(self) -> "Checkpoint":
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"`checkpoint` {self.path.parent} is in use by another process") from error
        clear(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def load(self, like: PyTree) -> tuple[int, PyTree] | None:
        """The step and the state that were saved last, in the tree `like`; None where there is nothing yet."""
        if not self.path.exists():
            return None
        found, leaves = load(self.path)
        kept = found.get("run", {})
        changed = [name for name in {**kept, **self.run} if kept.get(name, kept) != self.run.get(name, kept)]
        if changed:
            what = ", ".join(f"`{name}`" + _change(kept.get(name), self.run.get(name)) for name in changed)
            raise ValueError(
                f"`checkpoint` {self.path.parent} is of another run, which differs in {what}. "
                "Name another folder, or delete this one"
            )
        self.seconds = found["seconds"]
        structure = jax.tree.structure(like)
        state = structure.unflatten(map(_as_it_was, leaves.values(), jax.tree.leaves(like)))
        return found["step"], state

    def save(self, step: int, state: PyTree) -> None:
        """Keep the state after so many steps, in the place of the last one."""
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        leaves = {f"{i:05}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        save(self.path, {"run": self.run, "step": step, "seconds": round(self.seconds, 3)}, leaves)


def digest(tree: PyTree) -> str:
    """A name for the numbers in a tree: equal for equal places, shapes, dtypes and bits, in any process."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _plain(leaf)
        total.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """A leaf as NumPy keeps it; of a PRNG key its bits."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as_it_was(kept: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(kept), impl=jax.random.key_impl(like))
    return jnp.asarray(kept, like.dtype)


def _change(old: Any, new: Any) -> str:
    """Of a number that one can read, from what to what."""
    return f" ({old} there, {new} here)" if isinstance(new, int) and isinstance(old, int) else ""
