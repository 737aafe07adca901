"""Kernels whose pairs do not fit into memory at once: `python -m benchmarks.memory`.

Each runs in a process of its own, whose largest memory is read from the operating system.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np

GIGABYTE = 10**9


def convolution() -> None:
    """Of 2,000 images of 32×32×3 under three convolutions and Flatten: whole, 16 GB of covariances a layer."""
    from lib import Flatten, convolutional, kernel_in_blocks, relu

    x = np.random.default_rng(0).normal(size=(2000, 32, 32, 3)).astype(np.float32)
    net = convolutional(64, 3, 1, relu, 2**0.5, 0.1**0.5, pooling=Flatten())
    kernel = kernel_in_blocks(net, x)
    assert np.isfinite(np.asarray(kernel.ntk)).all()


def empirical() -> None:
    """Θ̂ of 256 inputs and 10 outputs of a network of 23 million parameters: its Jacobian alone would take 237 GB."""
    import jax

    from lib import empirical_ntk, fully_connected, relu

    x = np.random.default_rng(0).normal(size=(256, 3072)).astype(np.float32)
    net = fully_connected(2048, 5, 10, relu, 2**0.5, 0.1**0.5)
    params = jax.jit(net.init)(jax.random.key(0), x)
    assert sum(p.size for p in jax.tree.leaves(params)) > 23e6
    assert np.isfinite(np.asarray(empirical_ntk(net, params, x))).all()


def main(*tasks: Callable[[], None]) -> None:
    """Run each, print its time and its largest memory, and fail above 4 GB."""
    failed = []
    for task in tasks:
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            used = pool.apply(_measured, (task,)) / GIGABYTE
        print(f"{task.__name__:>12} {time.perf_counter() - start:7.1f} s {used:6.2f} GB of 4", flush=True)
        failed += [task.__name__] if used > 4 else []
    if failed:
        raise SystemExit(f"over 4 GB: {', '.join(failed)}")


def _measured(task: Callable[[], None]) -> int:
    task()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(convolution, empirical)
