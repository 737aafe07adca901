"""The finite-width tangent kernel against neural-tangents and torch.func: python -m benchmarks.empirical [case ...]

Claim: on two cores and in single precision `empirical_ntk` takes at most the stated share of the time of the best of
neural-tangents' implementations, each with and without its `vmap_axes`. All are compiled first; the best and ours then
take turns, and times are medians.

The floor is the time of the operations that the layer-wise kernel consists of, at the rate at which this machine
multiplies large matrices in the same run.
"""

import os
import statistics
import sys
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import peer
from benchmarks.timing import seconds
from lib import convolutional, empirical_ntk, fully_connected, relu, wide_resnet
from lib.networks.convolution import Conv
from lib.tangent.taps import weighted_layers

ROUNDS = 5
NEURAL_TANGENTS = Path(__file__).parent / "peers" / "empirical_neural_tangents.py"
TORCH = Path(__file__).parent / "peers" / "empirical_torch.py"


class Case(NamedTuple):
    """A network and inputs, as the peers' scripts read them, and the share of the peer's time that is claimed."""

    title: str
    share: float
    task: dict


CASES = {
    "dense_10": Case(
        "3 × 512 ReLU, d = 3072, N = 32, K = 10",
        0.55,
        dict(network="dense", width=512, depth=3, outputs=10, x=(32, 3072)),
    ),
    "dense_1": Case(
        "5 × 512 ReLU, d = 3072, N = 128, K = 1",
        0.5,
        dict(network="dense", width=512, depth=5, outputs=1, x=(128, 3072)),
    ),
    "convolutional": Case(
        "3 convolutions of 64, mean, N = 16, K = 1",
        0.8,
        dict(network="convolutional", width=64, depth=3, outputs=1, x=(16, 32, 32, 3)),
    ),
    "wide_resnet": Case(
        "Wide ResNet 10 of 64, N = 8, K = 10",
        0.7,
        dict(network="wide_resnet", width=64, outputs=10, x=(8, 32, 32, 3)),
    ),
}


def main() -> None:
    unlike = [name for name in sys.argv[1:] if name not in CASES]
    if unlike:
        raise SystemExit(f"no case {unlike[0]!r}; there are {', '.join(CASES)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    print(
        f"{'':44} {'ours':>9} {'floor':>9} {'peer':>9} {'share':>6} {'claim':>6} {'torch':>9}  best of neural-tangents"
    )
    failed = []
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        net, x = network(case.task), jax.random.normal(jax.random.key(1), case.task["x"])
        params = jax.jit(net.init)(jax.random.key(0), x)
        theirs = peer.run("neural-tangents", NEURAL_TANGENTS, ways=None, **case.task)
        best, own, other, rate = min(theirs, key=theirs.__getitem__), [], [], []
        for _ in range(ROUNDS):  # in turns, so that what else the machine does meets both
            own.append(median_time(empirical_ntk, net, params, x))
            other.append(peer.run("neural-tangents", NEURAL_TANGENTS, ways=[best], **case.task)[best])
            rate.append(matmul_rate())
        ours, peers = statistics.median(own), statistics.median(other)
        floor, share = operations(net, params, x) / max(rate), ours / peers
        times = f"{milliseconds(ours)} {milliseconds(floor)} {milliseconds(peers)}"
        print(f"{case.title:44} {times} {share:6.2f} {case.share:6.2f} {torch_time(case.task):>9}  {best}", flush=True)
        if share > case.share:
            failed.append(f"{case.title}: {share:.2f} of the peer's time, claimed {case.share}")
    assert not failed, "\n".join(failed)


def network(task: dict) -> Any:
    if task["network"] == "wide_resnet":
        return wide_resnet(task["width"], 1, task["outputs"], W_std=2**0.5, normalization=False)
    make = fully_connected if task["network"] == "dense" else convolutional
    return make(task["width"], task["depth"], task["outputs"], relu, W_std=2**0.5, b_std=0.1)


def torch_time(task: dict) -> str:
    """Milliseconds of torch.func's recipe on a dense network, or why there are none."""
    if task["network"] != "dense":
        return "-"
    try:
        return milliseconds(peer.run("torch", TORCH, **task))
    except peer.PeerError as error:
        print(error, file=sys.stderr)
        return "failed"


def operations(net: Any, params: Any, x: jax.Array) -> float:
    """Of one forward pass, K backward ones, and the contraction, of which symmetry needs half the pairs."""
    n, outputs = len(x), jax.eval_shape(net.apply, params, x).shape[1]
    pairs, multiplications = n**2 / 2, 0.0
    for i, (name, call) in enumerate(weighted_layers(net, params, x).items()):
        omega = reduce(dict.__getitem__, name.split("/"), params["params"])["omega"]
        features = call.layer.features
        evaluation = omega.size * call.output.size / features  # of the layer on the batch
        multiplications += evaluation * (1 + (outputs if i else 0))
        if isinstance(call.layer, Conv):  # by the gradients of each example
            multiplications += evaluation * outputs + pairs * outputs**2 * omega.size
        else:
            multiplications += pairs * (omega.size / features + outputs**2 * features)
    return 2 * multiplications


def matmul_rate(size: int = 2048) -> float:
    """Operations a second in the product of two square matrices."""
    matrix = jax.random.normal(jax.random.key(2), (size, size))
    return 2 * size**3 / median_time(jax.jit(jnp.matmul), matrix, matrix)


def median_time(program: Any, *arguments: Any) -> float:
    return statistics.median(seconds(lambda: jax.block_until_ready(program(*arguments))))


def milliseconds(time: float) -> str:
    return f"{1e3 * time:6.1f} ms"


if __name__ == "__main__":
    main()
