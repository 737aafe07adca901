"""One training loop: a network, its linearisation, or an ensemble of either under `vmap`."""

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from lib.checks import check_examples, check_loss, check_optimizer, check_params, check_size
from lib.programs import compiled_for, slots_of
from lib.tangent.apply_fn import ApplyFn, Network, as_apply_fn
from lib.training.sittings import in_sittings, parts


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
    checkpoint: str | os.PathLike | None = None,
    every: float = 600.0,
) -> Run:
    """Trains for a number of steps, in one compiled loop.

    θ ← θ + update(∇_θ loss(f(θ, x), y)), with the update of any Optax optimiser.

    The same call with `linearize(net, params)` in place of `net` and the same `key` sees the same minibatches. Make
    `loss` and `observe` once, outside of any loop over seeds: another function is another program to compile, as is a
    bare function in the place of `net`. An optimiser may be made anew: one of the same numbers is the same. What a
    function closes over is read once, when it is compiled: a variable of it that changes later changes nothing.

    With a `checkpoint` the run survives its process. However it was ended, the same call goes on from what was saved
    last and returns the same numbers bit for bit, on this machine or on one like it; when nothing is left to do, at
    once. An ensemble is then one network of stacked parameters, with its members' outputs side by side.

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
        checkpoint: a folder of its own for this run, in which its state is kept.
        every: seconds after which the state is saved again; it is also when the run ends or is interrupted.

    Returns:
        The run: final parameters, the steps observed, and the observations stacked along a first axis.

    Raises:
        ValueError: when shapes do not fit, the loss is not a number, `batch` is larger than N or comes without `key`,
            `at` does not ascend within 0 … `steps`, there are no examples, or a Flax module's variables hold more than
            "params"; when `checkpoint` holds another run, whose difference it names, is damaged or in use.
        TypeError: when `optimizer` is not an Optax optimiser, `steps`, `batch` or one of `at` not an integer,
            parameters are not real floating-point numbers, or `checkpoint` is given under `jit` or `vmap`.

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
    functions = (loss, optimizer.init, optimizer.update, observe)
    if checkpoint is not None:
        run = {"steps": steps, "batch": batch, "at": at, "key": key}
        params, observed = in_sittings(functions, (apply_fn, x, y, order), params, steps, at, run, checkpoint, every)
        return Run(params, jnp.asarray(at, int), observed)
    loop = compiled_for(_loop, functions, static=("steps", "at"))
    params, observed = loop(apply_fn, params, x, y, order, steps=steps, at=at)
    return Run(params, jnp.asarray(at, int), observed)


def _loop(loss, init, update, observe, apply_fn, params, x, y, order, steps, at):
    """All steps at once."""
    step, record, start = parts(loss, init, update, observe, apply_fn, x, y, at)
    slots = slots_of(at, steps)
    carry, _ = jax.lax.scan(
        lambda carry, now: (step(carry, *now), None), start(params), (jnp.asarray(slots[:-1]), order), length=steps
    )
    return record(carry, jnp.asarray(slots[-1]))


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
