"""One training loop: a network, its linearisation, or an ensemble of either under `vmap`."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from lib.checks import check_examples, check_loss, check_optimizer, check_params, check_size
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn
from lib.training.programs import compiled_for, slots_of


class Run(NamedTuple):
    """What `train` returns: final `params`, the observed `steps` (T,), and what was `observed` there (T, ...)."""

    params: PyTree
    steps: Int[Array, " t"]
    observed: Any


def train(
    net: Network,
    params: PyTree,
    loss: Callable[[Any, Any], Array],
    optimizer: optax.GradientTransformation,
    x: PyTree,
    y: PyTree[Float[Array, "n _"]],
    steps: SupportsIndex,
    batch: SupportsIndex | None = None,
    key: Array | None = None,
    at: Iterable[SupportsIndex] = (),
    observe: Callable[[PyTree], Any] | None = None,
) -> Run:
    """Trains for a number of steps, in one compiled loop.

    θ ← θ + update(∇_θ loss(f(θ, x), y)), with the update of any Optax optimiser.

    The same call with `linearize(net, params)` in place of `net` and the same `key` sees the same minibatches. Make
    `loss` and `observe` once, outside of any loop over seeds: another function is another program to compile, as is a
    bare function in the place of `net`. An optimiser may be made anew: one of the same numbers is the same. What a
    function closes over is read once, when it is compiled: a variable of it that changes later changes nothing.

    Args:
        net: a Flax module, or any pure `apply_fn(params, x)` → (N, K), or a pytree of such.
        params: θ₀.
        loss: `loss(f, y)` → a number. The total loss ½ Σ (f − y)² is the book's convention; a mean over N·K entries
            is the same run with the learning rate divided by N·K.
        optimizer: an Optax optimiser.
        x: inputs, first axis N; an array or a pytree of arrays.
        y: targets (N, K), or a pytree like the outputs where those are one.
        steps: number of updates.
        batch: examples in a minibatch; left out, every step sees all N. Each epoch is a fresh permutation, and the
            N mod `batch` examples at its end are left for another epoch.
        key: a PRNG key for the permutations, needed with `batch`.
        at: steps at which to observe, ascending; 0 is before the first update, `steps` after the last.
        observe: `observe(params)` → any pytree of arrays; left out, the outputs on `x`.

    Returns:
        The run: final parameters, the steps observed, and the observations stacked along a first axis.

    Raises:
        ValueError: when shapes do not fit, the loss is not a number, `batch` is larger than N or comes without `key`,
            `at` does not ascend within 0 … `steps`, there are no examples, or a Flax module's variables hold more than
            "params".
        TypeError: when `optimizer` is not an Optax optimiser, `steps`, `batch` or one of `at` not an integer, or
            parameters are not real floating-point numbers.

    Example:
        >>> line = lambda params, x: x @ params
        >>> half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
        >>> one = jnp.ones((1, 1))
        >>> run = train(line, 0 * one, half_square, optax.sgd(0.5), x=one, y=one, steps=2, at=(0, 1, 2))
        >>> run.observed.ravel().tolist()
        [0.0, 0.5, 0.75]

    Source: the training of Lee et al. 2019, section 3.
    """
    steps = check_size("steps", steps, least=0)
    at = tuple(check_size(f"at[{i}]", step, least=0) for i, step in enumerate(at))
    batch = None if batch is None else check_size("batch", batch)
    apply_fn, params = as_apply_fn(net), check_params("params", params)
    _check(apply_fn, params, loss, optimizer, x, y, steps, batch, key, at, observe)
    order = None if batch is None or key is None else _minibatches(key, check_examples("x", x), batch, steps)
    loop = compiled_for(_loop, (loss, optimizer.init, optimizer.update, observe), static=("steps", "at"))
    params, observed = loop(apply_fn, params, x, y, order, steps=steps, at=at)
    return Run(params, jnp.asarray(at, int), observed)


def _loop(loss, init, update, observe, apply_fn, params, x, y, order, steps, at):
    observe = observe or (lambda theta: apply_fn(theta, x))

    def objective(theta, rows):
        x_b, y_b = (x, y) if rows is None else jax.tree.map(lambda leaf: leaf[rows], (x, y))
        return loss(apply_fn(theta, x_b), y_b)

    def record(theta, observed, slot):
        write = lambda: jax.tree.map(lambda o, new: o.at[slot].set(new), observed, observe(theta))
        return jax.lax.cond(slot < len(at), write, lambda: observed) if at else observed

    def step(carry, now):
        theta, state, observed = carry
        slot, rows = now
        observed = record(theta, observed, slot)
        gradient = jax.grad(objective)(theta, rows)
        updates, state = update(gradient, state, theta)
        return (optax.apply_updates(theta, updates), state, observed), None

    slots = slots_of(at, steps)
    empty = jax.tree.map(lambda o: jnp.zeros((len(at), *o.shape), o.dtype), jax.eval_shape(observe, params))
    carry = (params, init(params), empty)
    (params, _, observed), _ = jax.lax.scan(step, carry, (jnp.asarray(slots[:-1]), order), length=steps)
    return params, record(params, observed, jnp.asarray(slots[-1]))


def _is_key(key: Any) -> bool:
    """One key, of the new kind or of the old."""
    dtype = getattr(key, "dtype", np.dtype(object))
    return (jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.ndim == 0) or (dtype == np.uint32 and key.ndim == 1)


def _minibatches(key: Array, n: int, batch: int, steps: int) -> Int[Array, "steps batch"]:
    """The rows of each step's minibatch."""
    per_epoch = n // batch
    epochs = -(-steps // per_epoch)
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, epochs))  # (epochs, N)
    return order[:, : per_epoch * batch].reshape(-1, batch)[:steps]


def _check(apply_fn: ApplyFn, params, loss, optimizer, x, y, steps, batch, key, at, observe) -> None:
    check_optimizer(optimizer)
    try:
        jax.eval_shape(lambda params: optimizer.update(params, optimizer.init(params), params), params)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"`optimizer` must need nothing but gradients; Optax says: {error}") from error
    if observe is not None and not callable(observe):
        raise TypeError(f"`observe` must be a function of the parameters, got {type(observe).__name__}")
    if any(jnp.shape(leaf)[:1] == (0,) for leaf in jax.tree.leaves(x)):
        raise ValueError("`x` must hold at least one example to train on, got none")
    f = jax.eval_shape(lambda net, params, x: net(params, x), apply_fn, params, x)
    shape = lambda tree: jax.tree.map(jnp.shape, tree)
    if shape(y) != shape(f):
        raise ValueError(f"`y` must have the shape (N, K) = {shape(f)} of the outputs, got {shape(y)}")
    check_loss(loss, f, y)
    if batch is not None and batch > (n := check_examples("x", x)):
        raise ValueError(f"`batch` must be between 1 and N = {n}, got {batch}")
    if key is not None and not _is_key(key):
        raise TypeError(f"`key` must be a PRNG key such as jax.random.key(0), got {key!r}")
    if batch is not None and key is None:
        raise ValueError("`key` must be given with `batch`: it decides the order of the minibatches")
    if list(at) != sorted(set(at)) or (at and at[-1] > steps):
        raise ValueError(f"`at` must ascend within 0 … `steps` = {steps}, got {at}")
