"""Kernels in blocks are kernels; they keep to their memory, and to the devices they are given."""

import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from networks import waves
from oracles import images
from tolerances import tolerance

from lib.networks import large
from lib.networks.activations import relu
from lib.networks.architectures import convolutional, fully_connected
from lib.networks.large import _largest_edge, block_bytes, kernel_in_blocks, on_devices
from lib.networks.layers import Flatten

DENSE = fully_connected(8, 2, 1, relu, 1.4, 0.1)


def test_blocks_of_a_kernel_are_the_kernel():
    x1, x2 = waves(11, 3, 0.0), waves(7, 3, 0.4)
    memory = block_bytes(DENSE, x1, x2, 4)
    assert 2 <= _largest_edge(DENSE, x1, x2, memory) <= 4
    pairs = [(kernel_in_blocks(DENSE, x1, x2, memory), DENSE.kernel(x1, x2))]
    pairs += [(kernel_in_blocks(DENSE, x1, memory=memory), DENSE.kernel(x1))]
    for blocks, whole in pairs:
        for one, other in zip(blocks, whole, strict=True):
            np.testing.assert_allclose(one, other, **tolerance(x1))
            assert one.dtype == x1.dtype


def test_the_kernel_stays_on_the_host():
    """In NumPy arrays, filled in place; nothing of it, and none of the inputs' copies, is left on a device."""
    x = np.asarray(waves(11, 3, 0.0))
    memory = block_bytes(DENSE, x, x, 4)
    kernel_in_blocks(DENSE, x, memory=memory)
    gc.collect()
    before = len(jax.live_arrays())
    kernel = kernel_in_blocks(DENSE, x, memory=memory)
    gc.collect()
    assert all(type(array) is np.ndarray for array in kernel) and len(jax.live_arrays()) == before


def test_no_examples_make_an_empty_kernel():
    x = waves(5, 3, 0.0)
    for kernel, shape in (
        (kernel_in_blocks(DENSE, x[:0], x), (0, 5)),
        (kernel_in_blocks(DENSE, x, x[:0]), (5, 0)),
        (kernel_in_blocks(DENSE, x[:0]), (0, 0)),
    ):
        assert kernel.nngp.shape == kernel.ntk.shape == shape and kernel.ntk.dtype == x.dtype


def test_a_block_is_under_way_before_the_last_one_is_taken():
    started = [threading.Event() for _ in range(4)]

    def note(i):
        started[int(i)].set()
        return np.float32(i)

    block = lambda inputs, i, j: jax.pure_callback(note, jax.ShapeDtypeStruct((), np.float32), i) + 0 * inputs.sum()
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("blocks",))
    results = on_devices(block, jnp.ones(3), [(i, 0) for i in range(4)], mesh)
    for (i, _), value in results:
        assert float(value) == i
        assert i == 3 or started[i + 1].wait(timeout=60)


def test_inputs_are_put_on_devices_once():
    """Two arguments that are one array are one there, and no block brings them along again."""
    x = np.ones((3, 2), np.float32)
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("blocks",))
    block = lambda inputs, i, j: inputs[0].sum() + inputs[1].sum()
    results = on_devices(block, (x, x), [(0, 0), (1, 0), (2, 0)], mesh)
    next(results)
    assert sum(array.shape == x.shape for array in jax.live_arrays()) == 1
    assert [float(value) for _, value in results] == [12, 12]


def test_the_diagonal_stays_exact():
    """Where the last rows overlap with those before, x = x′ is met off the diagonal of a block too."""
    x = waves(11, 300, 0.0)
    memory = block_bytes(DENSE, x, x, 4)
    whole, blocks = DENSE.kernel(x).ntk, kernel_in_blocks(DENSE, x, memory=memory).ntk
    np.testing.assert_allclose(jnp.diag(blocks), jnp.diag(whole), rtol=20 * float(jnp.finfo(x.dtype).eps))
    np.testing.assert_allclose(blocks, blocks.T, rtol=20 * float(jnp.finfo(x.dtype).eps))


@pytest.mark.once
def test_one_half_of_a_symmetric_kernel_is_computed(monkeypatch):
    """Of three by three blocks six, those on the diagonal last; and all six of three by two."""
    corners, compute = [], large.on_devices

    def watched(block, inputs, chosen, mesh):
        corners.extend(chosen)
        return compute(block, inputs, chosen, mesh)

    monkeypatch.setattr(large, "on_devices", watched)
    monkeypatch.setattr(large, "_largest_edge", lambda *given: 4)
    x1, x2 = waves(11, 3, 0.0), waves(7, 3, 0.4)
    kernel_in_blocks(DENSE, x1)
    assert corners == [(0, 4), (0, 7), (4, 7), (0, 0), (4, 4), (7, 7)]
    corners.clear()
    kernel_in_blocks(DENSE, x1, x2)
    assert corners == [(i, j) for i in (0, 4, 7) for j in (0, 3)]


def test_blocks_keep_to_their_memory():
    """The largest that fits: half as much again would not; four times the memory holds rows twice as long."""
    x = jnp.asarray(images(64, 6, 6, 2, 0.0))
    net = convolutional(8, 1, 1, relu, 1.4, 0.1, pooling=Flatten())
    edges = [_largest_edge(net, x, x, memory) for memory in (10**6, 4 * 10**6)]
    for edge, memory in zip(edges, (10**6, 4 * 10**6), strict=True):
        assert block_bytes(net, x, x, edge) <= memory < block_bytes(net, x, x, edge * 3 // 2)
    assert 1.5 < edges[1] / edges[0] < 2.5


MESH = """
import sys
import jax, numpy as np
from jax.sharding import Mesh
if sys.argv[1:]:
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from lib import fully_connected, kernel_in_blocks, relu
from lib.networks.large import block_bytes
x = np.cos(np.arange(33, dtype=np.float32)).reshape(11, 3)
net = fully_connected(8, 2, 1, relu, 1.4, 0.1)
memory = block_bytes(net, x, x, 4)
mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("a", "b"))
k, two = kernel_in_blocks(net, x, None, memory, mesh), kernel_in_blocks(net, x, x[:7], memory, mesh)
np.testing.assert_allclose(k.ntk, net.kernel(x).ntk, rtol=2e-5, atol=2e-5)
np.testing.assert_allclose(two.nngp, net.kernel(x, x[:7]).nngp, rtol=2e-5, atol=2e-5)
print("equal on", jax.local_device_count(), "of", mesh.size)
"""


def started(devices, *arguments):
    """A process of its own, with so many devices on this machine's processor."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    command = [sys.executable, "-c", MESH, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.once
def test_blocks_over_four_devices():
    out, errors = started(4).communicate(timeout=200)
    assert out.endswith("equal on 4 of 4\n"), errors


@pytest.mark.once
def test_blocks_over_two_processes_of_two_devices():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [started(2, address, str(i)) for i in range(2)]
    for out, errors in [process.communicate(timeout=200) for process in processes]:
        assert out.endswith("equal on 2 of 4\n"), errors


def test_errors_name_the_argument():
    x = waves(4, 3, 0.0)
    with pytest.raises(TypeError, match="`net` must be a network of layers, such as Sequential, got function"):
        kernel_in_blocks(lambda params, x: x, x)
    with pytest.raises(TypeError, match=r"`memory` must be an integer of at least 1, got 1\.5"):
        kernel_in_blocks(DENSE, x, memory=1.5)
    with pytest.raises(ValueError, match=r"`memory` must hold a block of one pair of inputs, \d+ bytes, got 10"):
        kernel_in_blocks(DENSE, x, memory=10)
    with pytest.raises(ValueError, match="`x2` must have the shape of `x1` after its first axis"):
        kernel_in_blocks(DENSE, x, x[:, :2])
    with pytest.raises(TypeError, match="`x1` must hold floating-point numbers, got int32"):
        kernel_in_blocks(DENSE, jax.numpy.ones((4, 3), jnp.int32))
