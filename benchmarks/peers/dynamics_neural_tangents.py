"""The training of benchmarks/dynamics.py, by neural-tangents; run by its own Python, see benchmarks/peer.py."""

import json
import sys

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np

from benchmarks.timing import seconds

jax.config.update("jax_enable_x64", True)
task = json.load(sys.stdin)
n, k, rate = task["n"], task["k"], task["rate"]
i, j = np.arange(n)[:, None], np.arange(16)
x = np.cos(0.7 * i + 1.3 * j + 0.01 * i * j)
theta = jnp.asarray(np.exp(-((x[:, None] - x) ** 2).sum(-1) / 16) + 0.1 * np.eye(n))
y = jnp.asarray(np.eye(k)[np.arange(n) % k] if k > 1 else np.sin(1.0 * i))
f0_x = jnp.asarray(np.cos(i + np.arange(k)))
steps = jnp.geomspace(1, task["last"], task["times"])


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def cross_entropy(f, y):
    return -jnp.sum(jax.nn.log_softmax(f) * y)


def outputs(theta, y, f0_x):
    if task["name"] == "squared":  # its loss is a mean over N·K
        return nt.predict.gradient_descent_mse(theta, y, learning_rate=rate * y.size)(steps, f0_x)
    loss = half_square if task["name"] == "momentum" else cross_entropy
    return nt.predict.gradient_descent(loss, theta, y, rate, task["momentum"])(steps, f0_x)


def call():
    return jax.block_until_ready(compiled(theta, y, f0_x))


compiled = jax.jit(outputs)
chosen = np.linspace(0, task["times"] - 1, 9).astype(int)[1:]
f_x = call()
f_x = getattr(f_x, "fx_train", f_x)  # with momentum also its velocity
print(json.dumps({"seconds": seconds(call), "outputs": np.asarray(f_x[chosen]).tolist()}))
