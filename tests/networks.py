"""Small networks as bare functions, for tests that must not depend on our own modules, and their plainest Θ̂."""

import jax
import jax.numpy as jnp
import numpy as np


def small_network(n=5, d=3, width=7, outputs=2):
    """A two-layer tanh network as (apply_fn, params, x), all from formulas, in the default dtype."""

    def wave(rows, columns, phase):
        return jnp.asarray(np.sin(phase + np.arange(rows)[:, None] * 1.7 + np.arange(columns) * 0.9))

    params = {"W1": wave(d, width, 0.3), "b": wave(1, width, 1.1), "W2": wave(width, outputs, 2.0)}
    return tanh_network, params, wave(n, d, 0.5)


def tanh_network(params, x):
    return jnp.tanh(x @ params["W1"] + params["b"]) @ params["W2"]


def deep_network():
    """`small_network` twice over. From two hidden layers on, Θ̂ is not symmetric in its outputs alone."""
    _, params, x = small_network()
    return lambda p, x: tanh_network(p, tanh_network(p, x) @ p["W1"][:2, :3]), params, x


def reference_network():
    """The fixed 3-5-2 network behind the reference's `empirical` block: (apply_fn, params, x, x_test)."""
    i, j = jnp.arange(5.0)[:, None], jnp.arange(5.0)
    params = {
        "W1": jnp.sin(1 + i[:3] + 2 * j),
        "b1": jnp.cos(j),
        "W2": jnp.cos(2 + i + 3 * j[:2]),
    }

    def apply_fn(p, x):
        return 1.5 / jnp.sqrt(5) * jnp.tanh(1.5 / jnp.sqrt(3) * x @ p["W1"] + 0.05 * p["b1"]) @ p["W2"]

    return apply_fn, params, waves(4, 3, 0.0), waves(2, 3, 0.4)


def waves(n, d, phase):
    """X(n, d, φ)[i, j] = cos(0.7 i + 1.3 j + 0.1 i j + φ), the reference's inputs."""
    i, j = np.arange(n)[:, None], np.arange(d)
    return jnp.asarray(np.cos(0.7 * i + 1.3 * j + 0.1 * i * j + phase))


def shifted(params):
    """Every parameter × 1.1 + 0.05."""
    return jax.tree.map(lambda p: p * 1.1 + 0.05, params)


def dense_ntk(apply_fn, params, x1, x2):
    """J Jᵀ with the whole Jacobian of the whole batch as one matrix."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda p, x: apply_fn(unravel(p), x)))  # (N, K, P)
    return np.einsum("nkp,mlp->nmkl", jacobian(flat, x1), jacobian(flat, x2))
