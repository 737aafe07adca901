"""A run of many sittings: some steps at a time, from wherever the last one came to."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from tqdm import tqdm

from lib.checks import check_scalar
from lib.programs import compiled_for, slots_of
from lib.storage import Checkpoint, digest

# Seconds for which a run computes on before it looks at the clock and shows how far it is.
PACE = 2.0


def parts(loss, init, update, observe, apply_fn, x, y, at) -> tuple[Callable, Callable, Callable]:
    """What a run is made of: one step, the observation after the last, and the start.

    A state is (θ, the optimiser's own, what was observed so far). `step(state, slot, rows)` leads from one to the next,
    `end(state, slot)` to (θ, observed), and `start(params)` is the first.
    """
    observe = observe or (lambda theta: apply_fn(theta, x))

    def objective(theta, rows):
        x_b, y_b = (x, y) if rows is None else jax.tree.map(lambda leaf: leaf[rows], (x, y))
        return loss(apply_fn(theta, x_b), y_b)

    def record(theta, observed, slot):
        write = lambda: jax.tree.map(lambda o, new: o.at[slot].set(new), observed, observe(theta))
        return jax.lax.cond(slot < len(at), write, lambda: observed) if at else observed

    def step(state, slot, rows):
        theta, own, observed = state
        observed = record(theta, observed, slot)
        updates, own = update(jax.grad(objective)(theta, rows), own, theta)
        return optax.apply_updates(theta, updates), own, observed

    def end(state, slot):
        theta, _, observed = state
        return theta, record(theta, observed, slot)

    def start(params):
        empty = jax.tree.map(lambda o: jnp.zeros((len(at), *o.shape), o.dtype), jax.eval_shape(observe, params))
        return params, init(params), empty

    return step, end, start


def in_sittings(
    functions: tuple,
    data: tuple,
    params: PyTree,
    steps: int,
    at: tuple[int, ...],
    run: Mapping[str, Any],
    checkpoint: str | os.PathLike,
    every: float,
) -> tuple[PyTree, Any]:
    """(θ, observed) after all steps, by one program for any number of them: where a sitting ends does not matter.

    Args:
        functions: loss, the optimiser's two, and what to observe.
        data: the network, x, y, and the rows of each step's minibatch or None.
        params: θ₀.
        steps, at: how many steps, and where to observe.
        run: what else there is to know this run by.
        checkpoint, every: as in `train`.
    """
    every = check_scalar("every", every, least=0)
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"`checkpoint` must be the path of a folder, got {type(checkpoint).__name__}")
    program: Any = lambda body: compiled_for(body, functions, static=("at",))
    slots = jnp.asarray(slots_of(at, steps))
    state = program(_start)(*data, params, at=at)
    lowered = program(_some).lower(*data, state, slots, 0, 0, at=at)
    net, x, y, order = data
    try:
        numbers = {"key": run["key"], "params": params, "x": x, "y": y, "the arrays of net": net}
        numbers |= {"the order of minibatches": order, "the start of optimizer": state[1]}
        run = {**run, **{name: digest(tree) for name, tree in numbers.items()}, "at": list(at)}
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError("`checkpoint` needs numbers to save, which there are none of under `jit` and `vmap`") from error
    run |= {"loss, optimizer, observe or net": digest(lowered.as_text()), "the version of JAX": jax.__version__}
    with Checkpoint(checkpoint, run) as kept:
        done, state = kept.load(state) or (0, state)
        if done < steps:
            state = _to_the_end(lowered.compile(), data, state, slots, done, steps, kept, every)
    return program(_end)(*data, state, slots[-1], at=at)


def _to_the_end(some, data, state, slots, done, steps, kept, every) -> PyTree:
    """The state after all steps. It is saved when the time has come, and when the run ends or is interrupted."""
    saved, length, last = done, 1, time.monotonic()
    reached = done, state  # a step and its state are one thing: an interruption may come between any two lines
    with tqdm(total=steps, initial=done, unit=" steps", disable=None) as progress:
        try:
            while reached[0] < steps:
                done, state = reached
                began, stop = time.monotonic(), min(done + length, steps)
                reached = stop, jax.block_until_ready(some(*data, state, slots, done, stop))
                progress.update(stop - done)
                now = time.monotonic()
                length = max(1, int(length * min(4.0, PACE / max(now - began, 1e-9))))
                if now - last >= every:
                    kept.save(*reached)
                    saved, last = stop, now
        finally:
            if reached[0] > saved:
                kept.save(*reached)
    return reached[1]


def _start(loss, init, update, observe, apply_fn, x, y, order, params, at):
    return parts(loss, init, update, observe, apply_fn, x, y, at)[2](params)


def _some(loss, init, update, observe, apply_fn, x, y, order, state, slots, first, stop, at):
    """The steps from the first on, up to but without `stop`."""
    step = parts(loss, init, update, observe, apply_fn, x, y, at)[0]
    rows = lambda i: None if order is None else order[i]
    return jax.lax.fori_loop(first, stop, lambda i, state: step(state, slots[i], rows(i)), state)


def _end(loss, init, update, observe, apply_fn, x, y, order, state, slot, at):
    return parts(loss, init, update, observe, apply_fn, x, y, at)[1](state, slot)
