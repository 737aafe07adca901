"""One network compiled and run, always the same: what the cost of a chapter is measured by. python tools/calibrate.py

It names nothing of `lib`, whose changes must not change the unit, and reads no kept programs.
"""

import jax
import jax.numpy as jnp

WIDTH, DEPTH, EXAMPLES, STEPS = 512, 12, 128, 60


def network(params: list[jax.Array], x: jax.Array) -> jax.Array:
    *hidden, readout = params
    for weights in hidden:
        x = jnp.tanh(x @ weights / len(weights) ** 0.5)
    return x @ readout / len(readout) ** 0.5


@jax.jit
def train(params: list[jax.Array], x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    gradient = jax.grad(lambda params: 0.5 * jnp.sum((network(params, x) - 1) ** 2))

    def step(_, params: list[jax.Array]) -> list[jax.Array]:
        return jax.tree.map(lambda w, g: w - 1e-3 * g, params, gradient(params))

    params = jax.lax.fori_loop(0, STEPS, step, params)
    return params, jax.jacobian(network)(params, x[:8])[0]


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    shapes = [(EXAMPLES, WIDTH), *[(WIDTH, WIDTH)] * DEPTH, (WIDTH, 1)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    x, *params = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    jax.block_until_ready(train(params, x))
