"""Kernels of infinitely wide networks, against neural-tangents 0.6.5: `python -m benchmarks.kernels`.

Three hidden ReLU layers, float32, compiled beforehand. The rounds of both libraries take turns on the same machine, and
the table has the medians over all. The floor is the least that the formulas ask for: the bare dual on the entries of
one triangle, layer after layer, and the Gram product of that triangle.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import peer
from benchmarks.timing import seconds
from lib import Conv, Dense, Flatten, GlobalAveragePool, Sequential, relu
from lib.infinite import duals

ROUNDS = 3
PEER = Path(__file__).parent / "peers" / "kernels_neural_tangents.py"


def three(layer: Any, *above: Any) -> Sequential:
    return Sequential((*(part for _ in range(3) for part in (layer, relu)), *above, Dense(8, 2**0.5, 0.1)))


CONVOLUTION = Conv(8, (3, 3), W_std=2**0.5, b_std=0.1)
# The network, its inputs, entries of the covariance for each pair of inputs, and the largest ratio that passes.
CASES = {
    "dense": (three(Dense(8, 2**0.5, 0.1)), (3000, 784), 1, 0.45),
    "pooled": (three(CONVOLUTION, GlobalAveragePool()), (8, 16, 16, 3), 256**2, 0.1),
    "flattened": (three(CONVOLUTION, Flatten()), (96, 16, 16, 3), 256, 0.35),
}


def main() -> None:
    ours, theirs = {name: [] for name in CASES}, {name: [] for name in CASES}
    inputs = {
        name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, (_, shape, *_) in CASES.items()
    }
    for _ in range(ROUNDS):
        shapes = {name: shape for name, (_, shape, *_) in CASES.items()}
        for name, result in peer.run("neural-tangents", PEER, shapes=shapes).items():
            theirs[name] += result["seconds"]
            corner = CASES[name][0].kernel(inputs[name]).ntk[:3, :3]
            np.testing.assert_allclose(corner, result["corner"], rtol=1e-3)
        for name, (net, *_) in CASES.items():
            ours[name] += timed(jax.jit(net.kernel), inputs[name])
    print(" kernel of           inputs      ours      peer  ratio  asked     floor ours/floor")
    failed = []
    for name, (_, shape, positions, asked) in CASES.items():
        mine, other, least = np.median(ours[name]), np.median(theirs[name]), floor(inputs[name], positions)
        size = "×".join(map(str, shape))
        print(
            f"{name:>10} {size:>16} {mine:8.4f}s {other:8.4f}s {mine / other:6.3f} {asked:6.2f} {least:8.4f}s "
            f"{mine / least:10.2f}"
        )
        failed += [name] if mine / other > asked else []
    if failed:
        raise SystemExit(f"slower than asked: {', '.join(failed)}")


def floor(x: np.ndarray, positions: int) -> float:
    """Three duals on the triangle's entries, in pieces that fit the cache, and half of the Gram product."""
    piece = 2**16
    count = -(-len(x) * (len(x) + 1) // 2 * positions // piece)
    ones = jnp.ones(piece, x.dtype)
    covariance = jnp.linspace(-1, 1, piece * count, dtype=x.dtype).reshape(count, piece)
    dual = jax.jit(lambda c: lax.map(lambda k12: duals.relu(ones, k12, ones), c))
    # Entries of the covariance between all pairs of positions come of one long product; those of equal ones of many.
    rows = x.reshape(-1, x.shape[-1]) if positions > 256 else x.reshape(len(x), -1)
    if positions == 256:
        rows = np.moveaxis(x.reshape(len(x), positions, -1), 1, 0)
    gram = jax.jit(lambda a: jnp.matmul(a, a.swapaxes(-1, -2), precision="highest"))
    return float(3 * np.median(timed(dual, covariance)) + np.median(timed(gram, rows)) / 2)


def timed(f: Any, x: Any) -> list[float]:
    return seconds(lambda: jax.block_until_ready(f(x)))


if __name__ == "__main__":
    main()
