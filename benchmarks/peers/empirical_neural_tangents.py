"""Run by the peer's own Python: seconds of neural-tangents' empirical kernel on one network, by implementation."""

import json
import statistics
import sys

import jax
import neural_tangents as nt
from neural_tangents import stax

from benchmarks.timing import seconds


def main() -> None:
    task = json.load(sys.stdin)
    init_fn, apply_fn = NETWORKS[task["network"]](task)
    x = jax.random.normal(jax.random.PRNGKey(1), task["x"])
    _, params = init_fn(jax.random.PRNGKey(0), x.shape)
    ways = {
        f"{implementation.name.lower()}, vmap_axes={vmap_axes}": (implementation, vmap_axes)
        for implementation in nt.NtkImplementation
        for vmap_axes in (0, None)
        if implementation != nt.NtkImplementation.AUTO
    }
    medians = {}
    for name in task["ways"] or ways:
        implementation, vmap_axes = ways[name]
        kernel = nt.empirical_ntk_fn(apply_fn, trace_axes=(), vmap_axes=vmap_axes, implementation=implementation)
        program = jax.jit(lambda p, x, kernel=kernel: kernel(x, None, p))
        call = lambda program=program: program(params, x).block_until_ready()
        medians[name] = statistics.median(seconds(call))
    print(json.dumps(medians))


def dense(task):
    hidden = [stax.Dense(task["width"], W_std=2**0.5, b_std=0.1), stax.Relu()] * task["depth"]
    return stax.serial(stax.Flatten(), *hidden, stax.Dense(task["outputs"], W_std=2**0.5, b_std=0.1))[:2]


def convolutional(task):
    hidden = [conv(task["width"], 3, 1, 0.1), stax.Relu()] * task["depth"]
    return stax.serial(*hidden, stax.GlobalAvgPool(), stax.Dense(task["outputs"], W_std=2**0.5, b_std=0.1))[:2]


def wide_resnet(task):
    width = task["width"]

    def block(stride):
        inner = stax.serial(stax.Relu(), conv(width, 3, stride), stax.Relu(), conv(width, 3, 1))
        shortcut = conv(width, 1, stride) if stride > 1 else stax.Identity()
        return stax.serial(stax.FanOut(2), stax.parallel(inner, shortcut), stax.FanInSum())

    blocks = [block(stride) for stride in (1, 2, 2)]
    return stax.serial(conv(width, 3, 1), *blocks, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(task["outputs"]))[:2]


def conv(features, window, stride, b_std=None):
    return stax.Conv(features, (window, window), (stride, stride), "SAME", W_std=2**0.5, b_std=b_std)


NETWORKS = {"dense": dense, "convolutional": convolutional, "wide_resnet": wide_resnet}

if __name__ == "__main__":
    main()
