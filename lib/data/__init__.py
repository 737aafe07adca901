"""Which images? The official ones of MNIST and CIFAR-10, verified, in one fixed order, standardised once and for all.

Whoever adds a data set, or another way to fetch one, works here; whatever way it comes, the checksums decide.
"""

import operator
from typing import NamedTuple, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lib.data.archives import official
from lib.data.cache import cached
from lib.data.catalogue import DATASETS, TASKS, Task
from lib.data.subset import embedded
from lib.data.verify import DataError, checksum

__all__ = ["DataError", "Split", "checksum", "load"]


class Split(NamedTuple):
    """Examples to train or to test on: images .x (n, H, W, C), targets .y (n, K), class numbers .labels (n,)."""

    x: Float[Array, "n h w c"]
    y: Float[Array, "n k"]
    labels: Int[Array, " n"]


def load(
    name: str, train: SupportsIndex | None = 128, test: SupportsIndex | None = 128, dtype: DTypeLike = jnp.float32
) -> tuple[Split, Split]:
    """Training and test examples of one task, standardised: x = (pixel/255 - μ) / σ.

    μ and σ are scalars, the mean and deviation over every pixel and channel of the task's whole official training
    split, so they do not depend on how many examples are taken. Classes interleave in the order of their numbers (the
    first image of each, the second of each, ...): `train=n` is a prefix of one fixed order, and the counts of the
    classes differ by at most 1 until the smallest class is used up.

    What the embedded subset does not hold comes from the cache, and what the cache does not hold from the official
    hosts; `python -m lib.data` fills the cache beforehand. No route is trusted: the same checksums guard them all.

    Args:
        name: "cifar10-horse-plane", "cifar10" or "mnist".
        train: number of training examples; None for all of them.
        test: number of test examples; None for all of them.
        dtype: floating type of x and y.

    Returns:
        Two `Split`s of .x (n, H, W, C); .y (n, K), which is +1 for horse and -1 for airplane (K = 1), or one-hot 0 and
        1 for ten classes; and .labels (n,), the official class numbers (airplane is 0, horse is 7).

    Raises:
        TypeError: `name` is not a string, a count is not an integer, or `dtype` is not floating.
        ValueError: `name` is unknown, a count is below 1 or above what exists, or `dtype` needs x64.
        DataError: the data could not be had from anywhere, or are not the official data.

    Example:
        >>> train, test = load("cifar10-horse-plane", train=4, test=2)
        >>> train.x.shape, train.y.ravel().tolist(), train.labels.tolist()
        ((4, 32, 32, 3), [-1.0, 1.0, -1.0, 1.0], [0, 7, 0, 7])

    Source: `krizhevsky2009`, `lecun1998`; the task horse against airplane is that of Lee et al. 2019, section 3.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string, one of {', '.join(map(repr, TASKS))}; got {name!r}")
    if name not in TASKS:
        raise ValueError(f"`name` must be one of {', '.join(map(repr, TASKS))}; got {name!r}")
    task = TASKS[name]
    dtype = _floating(dtype)
    train, test = (_count(task, split, n) for split, n in (("train", train), ("test", test)))
    return _split(task, "train", train, dtype), _split(task, "test", test, dtype)


def _split(task: Task, split: str, n: int, dtype: np.dtype) -> Split:
    images, labels = _arrays(task, split, n).values()
    rows = _interleave(labels, task.classes)[:n]
    pixels, labels = images[rows], labels[rows].astype(np.int32)
    # One entry for each value of a byte, rounded once: the same bits on every machine. No byte is out of its range, and
    # for images by the thousand "clip" is the fastest mode.
    standardised = jnp.asarray((np.arange(256) / 255 - task.mean) / task.std, dtype)
    x = jnp.take(standardised, jnp.asarray(pixels), mode="clip")
    if len(task.classes) == 2:
        y = np.where(labels == task.classes[1], 1, -1)[:, None]
    else:
        y = labels[:, None] == np.array(task.classes)
    return Split(x, jnp.asarray(y, dtype), jnp.asarray(labels))


def _arrays(task: Task, split: str, n: int) -> dict[str, np.ndarray]:
    """Images and labels that hold the first n examples: the embedded ones if these suffice, else the complete split."""
    names, per_class = (f"{split}_images", f"{split}_labels"), DATASETS[task.dataset].subset.per_class[split]
    if n <= len(task.classes) * min(per_class[c] for c in task.classes):
        return embedded(task.dataset, names)
    return cached(task.dataset, names, routes=(official,))


def _interleave(labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Row numbers: the first example of each class, the second of each, and so on."""
    rows = [np.flatnonzero(labels == c) for c in classes]
    rank = np.concatenate([np.arange(len(r)) for r in rows])
    return np.concatenate(rows)[np.argsort(rank, kind="stable")]


def _count(task: Task, split: str, n: SupportsIndex | None) -> int:
    exist = sum(DATASETS[task.dataset].full.per_class[split][c] for c in task.classes)
    if n is None:
        return exist
    if isinstance(n, bool) or not isinstance(n, SupportsIndex):
        raise TypeError(f"`{split}` must be a number of examples (an integer) or None for all {exist}; got {n!r}")
    if not 1 <= operator.index(n) <= exist:
        raise ValueError(
            f"`{split}` must be from 1 to {exist}, the size of the official split, or None for all; got {n}"
        )
    return operator.index(n)


def _floating(dtype: DTypeLike) -> np.dtype:
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`dtype` must be a floating type, such as jnp.float32; got {dtype}")
    if dtype.itemsize > jnp.result_type(float).itemsize:
        raise ValueError(f"`dtype`: {dtype} needs jax_enable_x64, which is off; switch it on before any array is made")
    return dtype
