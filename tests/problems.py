"""Random problems for the linear model's training, and losses."""

import jax.numpy as jnp
import numpy as np
import optax


def half_square(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def cross_entropy(f, y):
    return optax.softmax_cross_entropy(f, y).sum()


def random_problem(n, k, full, rank=None, seed=0):
    """Θ (n, n) or (n, n, k, k) of a given rank, targets and initial outputs, in float64."""
    rng = np.random.default_rng(seed)
    size = n * k if full else n
    root = rng.normal(size=(size, rank or size)) / np.sqrt(size)
    theta = root @ root.T
    matrix = theta if full else np.kron(theta, np.eye(k))  # example by example
    shaped = theta.reshape(n, k, n, k).transpose(0, 2, 1, 3) if full else theta
    y, f0_x = jnp.asarray(rng.normal(size=(2, n, k)))
    return jnp.asarray(shaped), matrix, y, f0_x
