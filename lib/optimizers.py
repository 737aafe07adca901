"""The linear model's training under any loss, step by step, by any linear optimiser of Optax."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from lib.checks import check_optimizer, check_steps
from lib.evolution import Loss, check_problem, multiplication


def descend(
    loss: Loss,
    theta_xx: Float[Array, "n n *kk"],
    y: Float[Array, "n k"],
    f0_x: Float[Array, "n k"],
    steps: ArrayLike,
    optimizer: optax.GradientTransformation,
) -> Float[Array, "*t n k"]:
    """Trains the linear model step by step under any loss L, exactly as the optimiser would train its weights.

    a ← a + update(∂L/∂f(f₀ + Θa)),  ω = J₀ᵀ a

    The gradient of the weights is J₀ᵀ ∂L/∂f, and a linear optimiser commutes with J₀ᵀ: descent, momentum, Nesterov,
    their schedules and sums do. Adam, clipping and decay of the weights toward 0 do not, and are refused.

    Args:
        loss: `loss(f, y)` → the total loss, one number. A mean over N·K entries is the same run with the learning rate
            divided by N·K.
        theta_xx: Θ(X, X), (N, N) for Θ ⊗ I_K or (N, N, K, K): N²K or N²K² operations a step.
        y: targets (N, K).
        f0_x: outputs at initialisation (N, K).
        steps: numbers of updates, an integer or an array of integers of any shape, known before compilation.
        optimizer: a linear Optax optimiser, such as optax.sgd(0.1, momentum=0.9).

    Returns:
        a, (..., N, K), with the shape of `steps` in front. Outputs are f₀(x) + `kernel_product`(Θ(x, X), a), and the
        weights' `weight_change`(net, params0, x, a).

    Raises:
        ValueError: when shapes do not fit, the loss is not one number, a step is below 0, or the optimiser is not
            linear.
        TypeError: when `steps` is not of an integer type, or `optimizer` not an Optax optimiser.

    Example:
        >>> half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
        >>> one = jnp.ones((1, 1))
        >>> descend(half_square, one, one, 0 * one, jnp.arange(4), optax.sgd(0.5)).ravel().tolist()
        [0.0, 0.5, 0.75, 0.875]

    Source: Lee et al. 2019, eq S2, for any linear optimiser.
    """
    check_problem(loss, theta_xx, y, f0_x)
    check_optimizer(optimizer)
    with jax.ensure_compile_time_eval():
        count = np.asarray(check_steps(steps))
    _check_linear(optimizer)
    visited, places = np.unique(count, return_inverse=True)
    return _descend(loss, optimizer, theta_xx, y, f0_x, tuple(visited.tolist()))[places.reshape(count.shape)]


@partial(jax.jit, static_argnames=("loss", "optimizer", "visited"))
def _descend(loss, optimizer, theta_xx, y, f0_x, visited) -> Float[Array, "t n k"]:
    """a at each of the steps `visited`, which ascend."""
    multiply = multiplication(theta_xx)

    def step(carry, slot: Int[Array, ""]):
        a, state, kept = carry
        kept = jax.lax.dynamic_update_index_in_dim(kept, a, slot, axis=0)
        updates, state = optimizer.update(jax.grad(loss)(f0_x + multiply(a), y), state, a)
        return (optax.apply_updates(a, updates), state, kept), None

    slots = np.full(visited[-1] + 1, len(visited))  # step → its place among those visited, or one after the last
    slots[list(visited)] = np.arange(len(visited))
    a = jnp.zeros_like(f0_x)
    kept = jnp.zeros((len(visited) + 1, *a.shape), a.dtype)
    (a, _, kept), _ = jax.lax.scan(step, (a, optimizer.init(a), kept), jnp.asarray(slots[:-1]))
    return kept[:-1].at[-1].set(a)


@lru_cache
def _check_linear(optimizer: optax.GradientTransformation) -> None:
    """Refuses an optimiser that does not commute with every matrix R: run(G R) = run(G) R for gradients G."""
    rng = np.random.default_rng(0)
    gradients, R = rng.normal(size=(16, 6)), 2.0**20 * rng.normal(size=(6, 6))
    try:
        with jax.ensure_compile_time_eval():
            run = jax.jit(partial(_updates, optimizer))
            still, plain, turned = (np.asarray(run(jnp.asarray(g))) for g in (0 * gradients, gradients, gradients @ R))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return  # the learning rate is traced, and cannot be looked into
    except (TypeError, ValueError) as error:
        raise ValueError(f"`optimizer` must need nothing but gradients; Optax says: {error}") from error
    if still.any():
        raise ValueError(
            "`optimizer` must leave weights alone where gradients are 0: decay toward 0, or noise, is not of the form "
            "J₀ᵀ a; for decay toward θ₀ under squared loss there is the filter `decayed`"
        )
    if not np.allclose(turned, plain @ R, rtol=0.0, atol=1e-3 * abs(plain @ R).max()):
        raise ValueError(
            "`optimizer` must be linear in the gradients and the same for all weights, as sgd with momentum is; Adam "
            "and its kin, clipping and rates by layer are not: train the weights of `linearize(net, params0)`"
        )


def _updates(optimizer: optax.GradientTransformation, gradients: Float[Array, "t p"]) -> Float[Array, "t p"]:
    """What an optimiser adds to weights of shape (2, P/2), all 1, under one gradient after another."""
    weights = jnp.ones((2, gradients.shape[1] // 2), gradients.dtype)

    def step(state, gradient):
        update, state = optimizer.update(gradient.reshape(weights.shape), state, weights)
        return state, jnp.asarray(update).ravel()

    return jnp.asarray(jax.lax.scan(step, optimizer.init(weights), gradients)[1])
