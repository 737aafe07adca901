"""Optimisers are the same if Optax has made them of the same numbers, and only then."""

import gc

import jax
import jax.numpy as jnp
import optax

from lib import programs
from lib.programs import compiled_for

MADE = {
    "descent": lambda: optax.sgd(0.1),
    "another rate": lambda: optax.sgd(0.2),
    "a negative zero": lambda: optax.sgd(-0.0),
    "zero": lambda: optax.sgd(0.0),
    "an integer": lambda: optax.sgd(0),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "Nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optax.adam(0.1),
    "Adam, other moments": lambda: optax.adam(0.1, b1=0.8),
    "AdamW": lambda: optax.adamw(0.1, weight_decay=0.1),
    "a chain": lambda: optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    "a chain turned round": lambda: optax.chain(optax.sgd(0.1), optax.clip(1.0)),
    "a schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 10)),
    "another schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 20)),
    "a schedule with a variable not assigned": lambda: optax.sgd(optax.exponential_decay(0.1, 1, 0.5), momentum=0.9),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "injected, another rate": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.2),
}


def program(optimizer, body=isinstance):
    return compiled_for(body, (optimizer.init, optimizer.update))


def test_the_same_numbers_are_the_same_optimiser_and_others_are_not():
    once, again = ([program(make()) for make in MADE.values()] for _ in range(2))
    for i, one in enumerate(once):
        for j, other in enumerate(again):
            assert (one is other) == (i == j), (list(MADE)[i], list(MADE)[j])


def test_what_is_not_of_optax_is_equal_to_itself_alone():
    """A function of one's own may read a number that has changed since."""
    rates = [lambda step: 0.1, lambda step: 0.1, jnp.float32(0.1), jnp.float32(0.1)]
    made = [optax.sgd(rate) for rate in rates]
    assert len({program(one) for one in made}) == len(made)
    assert all(program(one) is program(one) for one in made)


def test_traced_rates_are_told_apart():
    def f(a, b):
        one, other = optax.sgd(a), optax.sgd(b)
        assert program(one) is program(one) is not program(other)
        return a

    jax.jit(f)(1.0, 1.0)


def test_a_program_goes_with_its_function():
    class Scaled:
        def loss(self, f):
            return f

    def kept():
        gc.collect()
        return len(programs._KEPT)

    before, scaled, square = kept(), Scaled(), lambda f: f**2
    assert compiled_for(isinstance, (square,)) is compiled_for(isinstance, (square,))
    assert compiled_for(isinstance, (scaled.loss,)) is compiled_for(isinstance, (scaled.loss,))
    assert compiled_for(isinstance, (scaled.loss,)) is not compiled_for(isinstance, (Scaled().loss,))
    optimizer = optax.sgd(lambda step: 0.1)
    assert program(optimizer) is program(optimizer)
    assert kept() == before + 3
    del scaled, square, optimizer
    assert kept() == before


def test_what_cannot_be_held_weakly_is_held():
    class Slotted:
        __slots__ = ()

        def __call__(self, x):
            return 2 * x

    assert compiled_for(lambda f, x: f(x), (Slotted(),))(3.0) == 6.0


def test_programs_of_numbers_alone_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(programs, "_KEPT", {})
    monkeypatch.setattr(programs, "MOST", 3)
    made = [program(optax.sgd(float(rate))) for rate in range(5)]
    assert list(programs._KEPT.values()) == made[-3:]
    assert program(optax.sgd(4.0)) is made[-1]
