"""The kernels of benchmarks/kernels.py, by neural-tangents; run by its own Python, see benchmarks/peer.py."""

import json
import sys

import jax
import numpy as np
from neural_tangents import stax

from benchmarks.timing import seconds


def dense():
    return stax.Dense(8, 2**0.5, 0.1)


def convolution():
    return stax.Conv(8, (3, 3), (1, 1), "SAME", 2**0.5, 0.1)


def three(layer, *above):
    return stax.serial(*[part for _ in range(3) for part in (layer(), stax.Relu())], *above, dense())[2]


NETWORKS = {
    "dense": three(dense),
    "pooled": three(convolution, stax.GlobalAvgPool()),
    "flattened": three(convolution, stax.Flatten()),
}

task = json.load(sys.stdin)
results = {}
for name, shape in task["shapes"].items():
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel = jax.jit(lambda x, k=NETWORKS[name]: k(x, None, ("nngp", "ntk")))
    call = lambda kernel=kernel, x=x: jax.block_until_ready(kernel(x))
    results[name] = {"seconds": seconds(call), "corner": np.asarray(call().ntk[:3, :3], float).tolist()}
print(json.dumps(results))
