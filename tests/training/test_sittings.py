"""A run that was interrupted, killed or is another one: the same numbers bit for bit, or an error."""

import multiprocessing
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import small_network
from problems import half_square
from tolerances import tolerance

from lib import fully_connected, linearize, relu, storage, train
from lib.training import sittings


def problem():
    net, params, x = small_network()
    y = jnp.cos(jnp.arange(10, dtype=x.dtype)).reshape(5, 2)
    return net, params, half_square, optax.adam(0.01), x, y, 40


def options():
    return {"batch": 2, "key": jax.random.key(3), "at": (0, 7, 40)}


def same_bits(run, other):
    jax.tree.map(np.testing.assert_array_equal, run, other)


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, after):
    """End a run once its program has been called so many times."""
    compute, calls = jax.block_until_ready, []

    def counted(state):
        calls.append(state)
        if len(calls) == after:
            raise Interrupted
        return compute(state)

    monkeypatch.setattr(jax, "block_until_ready", counted)


def test_the_same_numbers_as_without(tmp_path):
    for extra in ({}, options(), {"at": (40,)}):
        run = train(*problem(), **extra, checkpoint=tmp_path / str(len(extra)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **tolerance(a if a.dtype.kind == "f" else 1.0)),
            run,
            train(*problem(), **extra),
        )


@pytest.mark.parametrize("after", [1, 2, 3])
def test_the_same_call_goes_on_to_the_same_bits(tmp_path, monkeypatch, after):
    """Wherever it was interrupted; and once all is done it computes nothing more."""
    whole = train(*problem(), **options(), checkpoint=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, after)
        train(*problem(), **options(), checkpoint=tmp_path / "parts")
    begun = (tmp_path / "parts" / storage.FILE).exists()
    assert begun == (after > 1)
    same_bits(train(*problem(), **options(), checkpoint=tmp_path / "parts"), whole)
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        same_bits(train(*problem(), **options(), checkpoint=tmp_path / "parts"), whole)


def test_a_linear_model_and_a_stack_of_networks_are_kept_too(tmp_path):
    net, params, *_ = problem()
    linear = linearize(net, params)
    _, _, loss, optimizer, x, y, steps = problem()
    for name in ("first", "again"):
        run = train(linear, params, loss, optimizer, x, y, steps, checkpoint=tmp_path / "linear")
        same_bits(run, train(linear, params, loss, optimizer, x, y, steps, checkpoint=tmp_path / f"linear {name}"))
    dense = fully_connected(8, 1, 2, relu, 1.5, 0.1)
    keys = jax.random.split(jax.random.key(0), 3)
    stacked = jax.vmap(lambda key: dense.init(key, x))(keys)
    members = lambda params, x: jnp.concatenate(jax.vmap(lambda p: dense.apply(p, x))(params), axis=1)
    side_by_side = jnp.concatenate([y] * 3, axis=1)
    many = train(members, stacked, half_square, optax.sgd(0.1), x, side_by_side, 9, checkpoint=tmp_path / "many")
    alone = train(dense, dense.init(keys[1], x), half_square, optax.sgd(0.1), x, y, 9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, **tolerance(x)), many.params, alone.params)


def changed(change):
    """The problem with one thing changed, and what an error calls it."""
    net, params, loss, optimizer, x, y, steps = problem()
    program = "loss, optimizer, observe or net"
    return {
        "params": ((net, jax.tree.map(lambda p: 2 * p, params), loss, optimizer, x, y, steps), {}, "params"),
        "x": ((net, params, loss, optimizer, x + 1e-6, y, steps), {}, "x"),
        "y": ((net, params, loss, optimizer, x, -y, steps), {}, "y"),
        "steps": ((net, params, loss, optimizer, x, y, 41), {}, r"steps` \(40 there, 41 here\)|steps"),
        "key": (problem(), {"key": jax.random.key(4)}, "key"),
        "batch": (problem(), {"batch": 3}, "batch"),
        "at": (problem(), {"at": (0, 8, 40)}, "at"),
        "loss": ((net, params, lambda f, y: 2 * half_square(f, y), optimizer, x, y, steps), {}, program),
        "rate": ((net, params, loss, optax.adam(0.02), x, y, steps), {}, program),
        "observe": (problem(), {"observe": lambda params: params["W1"] ** 2}, program),
        "net": ((lambda p, x: 2 * net(p, x), params, loss, optimizer, x, y, steps), {}, program),
    }[change]


CHANGES = ["params", "x", "y", "steps", "key", "batch", "at", "loss", "rate", "observe", "net"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_refused_by_the_name_of_what_differs(tmp_path, change):
    train(*problem(), **options(), checkpoint=tmp_path)
    arguments, other, name = changed(change)
    with pytest.raises(ValueError, match=f"is of another run, which differs in .*`({name})`"):
        train(*arguments, **options() | other, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (optax.inject_hyperparams(optax.sgd)(0.05), optax.inject_hyperparams(optax.sgd)(0.06)),
        (optax.adagrad(0.05, initial_accumulator_value=0.1), optax.adagrad(0.05, initial_accumulator_value=0.2)),
        *[tuple(optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(i)), optax.sgd(0.01)) for i in (0, 5))],
    ],
)
def test_an_optimizer_that_starts_from_other_numbers_is_another_run(tmp_path, one, other):
    net, params, loss, _, x, y, steps = problem()
    train(net, params, loss, one, x, y, steps, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"which differs in .*`the start of optimizer`"):
        train(net, params, loss, other, x, y, steps, checkpoint=tmp_path)


def test_another_order_of_minibatches_is_another_run(tmp_path):
    train(*problem(), **options(), checkpoint=tmp_path)
    refused = pytest.raises(ValueError, match=r"which differs in .*`the order of minibatches`")
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable), refused:
        train(*problem(), **options(), checkpoint=tmp_path)


def test_an_interruption_between_two_lines_keeps_a_step_with_its_state(tmp_path, monkeypatch):
    whole = train(*problem(), **options(), checkpoint=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sittings.tqdm, "update", lambda self, n: (_ for _ in ()).throw(KeyboardInterrupt))
        train(*problem(), **options(), checkpoint=tmp_path / "parts")
    same_bits(train(*problem(), **options(), checkpoint=tmp_path / "parts"), whole)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(TypeError, match="`checkpoint` must be the path of a folder, got int"):
        train(*problem(), checkpoint=3)
    with pytest.raises(TypeError, match="`every` must be a real number"):
        train(*problem(), checkpoint=tmp_path, every="600")
    with pytest.raises(ValueError, match="`every` must be a number of at least 0, got -1"):
        train(*problem(), checkpoint=tmp_path, every=-1)
    net, params, loss, optimizer, x, y, steps = problem()
    with pytest.raises(TypeError, match="`checkpoint` needs numbers to save, which there are none of under `jit`"):
        jax.jit(lambda p: train(net, p, loss, optimizer, x, y, steps, checkpoint=tmp_path).params)(params)


def long_run(folder):
    net = fully_connected(4, 1, 1, relu, 1.5, 0.1)
    x = jnp.linspace(-1, 1, 6).reshape(3, 2)
    params = net.init(jax.random.key(0), x)
    arguments = (half_square, optax.adam(1e-3), x, x[:, :1] ** 2, 150_000)
    return train(net, params, *arguments, 2, jax.random.key(1), (0, 75_000, 150_000), checkpoint=folder, every=0)


def child(folder):
    sittings.PACE = 0.01
    long_run(folder)


@pytest.mark.once
def test_killed_twenty_times_at_random_moments_the_record_is_the_same(tmp_path):
    """And there is never half a file."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["lib"])
    chance, path, reached = random.Random(0), tmp_path / "killed" / storage.FILE, 0
    for _ in range(20):
        process = start.Process(target=child, args=(path.parent,))
        process.start()
        while process.is_alive() and (not path.exists() or storage.header(path)["step"] <= reached):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        assert process.is_alive()
        process.kill()
        process.join()
        now = storage.load(path)[0]["step"]
        assert now > reached
        reached = now
    assert reached < 150_000
    same_bits(long_run(path.parent), long_run(tmp_path / "whole"))
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", storage.FILE]
