"""The linear model's training under any loss, such as cross-entropy, by the steps of a linear optimiser of Optax."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Int

from lib.checks import check_optimizer, check_steps
from lib.programs import compiled_for, slots_of
from lib.training.ode import Loss, check_problem, multiplication


def descend(
    loss: Loss,
    theta_xx: Float[Array, "n n *kk"],
    y: Float[Array, "n k"],
    f0_x: Float[Array, "n k"],
    steps: ArrayLike | list,
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
        optimizer: a linear Optax optimiser, such as optax.sgd(0.1, momentum=0.9); its rate may be traced. Keep it for
            the next call, and `loss`: a new one is compiled anew.

    Returns:
        a, (..., N, K), with the shape of `steps` in front. Outputs are f₀(x) + `kernel_product`(Θ(x, X), a), and the
        weights' `weight_change`(net, params0, x, a).

    Raises:
        ValueError: when shapes do not fit, Θ is not symmetric, the loss is not one number, a step is below 0, or the
            optimiser is not linear.
        TypeError: when `steps` is not of an integer type or traced, or `optimizer` not an Optax optimiser.

    Example:
        >>> half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
        >>> one = jnp.ones((1, 1))
        >>> descend(half_square, one, one, 0 * one, jnp.arange(4), optax.sgd(0.5)).ravel().tolist()
        [0.0, 0.5, 0.75, 0.875]

    Source: Lee et al. 2019, eq S2, for any linear optimiser.
    """
    theta_xx, y, f0_x = check_problem(loss, theta_xx, y, f0_x)
    check_optimizer(optimizer)
    try:
        with jax.ensure_compile_time_eval():
            count = np.asarray(check_steps(steps))
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"`steps` must be known before compilation, got {steps}; inside `jit` make it a NumPy array, not one of JAX"
        ) from error
    visited, places = np.unique(count, return_inverse=True)
    slots = slots_of(visited, int(visited.max(initial=0)))
    run = compiled_for(_descend, (loss, optimizer.init, optimizer.update), static=("places",))
    return run(theta_xx, y, f0_x, slots, places=len(visited))[places.reshape(count.shape)]


def _descend(loss, init, update, theta_xx, y, f0_x, slots: Int[Array, " steps"], places: int) -> Float[Array, "t n k"]:
    """a at each step whose slot is one of the `places`."""
    _check_linear(init, update, len(slots))
    multiply = multiplication(theta_xx)

    def step(carry, slot):
        a, state, kept = carry
        kept = kept.at[slot].set(a)
        updates, state = update(jax.grad(loss)(f0_x + multiply(a), y), state, a)
        return (optax.apply_updates(a, updates), state, kept), None

    a = jnp.zeros_like(f0_x)
    kept = jnp.zeros((places + 1, *a.shape), a.dtype)
    (a, _, kept), _ = jax.lax.scan(step, (a, init(a), kept), slots[:-1])
    return kept.at[slots[-1]].set(a)[:-1]


def _check_linear(init: Callable, update: Callable, steps: int) -> None:
    """Refuses an optimiser that does not commute with every matrix R: run(G R) = run(G) R for gradients G.

    At each of the run's steps, up to 4,000 of them, because it may begin to clip late; steps at which a linear one has
    diverged, or shrunk to what is rounded to 0, tell nothing.
    A learning rate that is traced has no value to look into, and needs none: what is linear is so for every rate.
    """
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(min(max(steps, 16), 4000), 6))
    turns = [scale * rng.normal(size=(6, 6)) for scale in (2.0**60, 2.0**-60)]  # no threshold is out of reach
    try:
        program = jax.make_jaxpr(partial(_updates, init, update))(jnp.asarray(gradients))
        with jax.ensure_compile_time_eval():
            run = jax.jit(jaxpr_as_fun(program.replace(consts=[_known(value, rng) for value in program.consts])))
            probes = 0 * gradients, gradients, *(gradients @ R for R in turns)
            still, plain, *turned = (np.asarray(run(jnp.asarray(g))[0], float) for g in probes)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"`optimizer` must need nothing but gradients; Optax says: {error}") from error
    if still.any():
        raise ValueError(
            "`optimizer` must leave weights alone where gradients are 0: decay toward 0, or noise, is not of the form "
            "J₀ᵀ a; for decay toward θ₀ under squared loss there is the filter `decayed`"
        )
    if not all(_agree(found, plain, R) for found, R in zip(turned, turns, strict=True)):
        raise ValueError(
            "`optimizer` must be linear in the gradients and the same for all weights, as sgd with momentum is; Adam "
            "and its kin, clipping and rates by layer are not: train the weights of `linearize(net, params0)`"
        )


def _agree(found: Float[np.ndarray, "t p"], plain: Float[np.ndarray, "t p"], R: Float[np.ndarray, "p p"]) -> bool:
    """Whether found is plain R, to 1e-3 of the largest weight's at each step, and to what is rounded to 0."""
    with np.errstate(invalid="ignore"):
        expected = plain @ R
    told = np.isfinite(found).all(1) & np.isfinite(expected).all(1) | (np.arange(len(found)) < 16)
    found, expected = found[told], expected[told]
    floor = 1e-30 * max(1, abs(R).max())
    return bool((abs(found - expected) <= 1e-3 * abs(expected).max(1, keepdims=True) + floor).all())


def _known(value: Any, rng: np.random.Generator) -> Any:
    """`value`, or one of its kind between 1/4 and 3/4, or 1 and 3, where it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        whole = jnp.issubdtype(value.dtype, jnp.integer)
        return (rng.integers(1, 4, value.shape) if whole else rng.uniform(0.25, 0.75, value.shape)).astype(value.dtype)


def _updates(init: Callable, update: Callable, gradients: Float[Array, "t p"]) -> Float[Array, "t p"]:
    """What an optimiser adds to six weights of two shapes, all 1, under one gradient after another."""
    weights = {"kernel": jnp.ones((2, 2), gradients.dtype), "bias": jnp.ones(2, gradients.dtype)}
    _, layered = ravel_pytree(weights)

    def step(state, gradient):
        updates, state = update(layered(gradient), state, weights)
        return state, ravel_pytree(updates)[0]

    return jax.lax.scan(step, init(weights), gradients)[1]
