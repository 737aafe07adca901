"""Optimisers are the same if Optax has made them of the same numbers, and only then."""

import jax
import jax.numpy as jnp
import optax

from lib.same import Same

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
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "injected, another rate": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.2),
}


def test_the_same_numbers_are_the_same_optimiser_and_others_are_not():
    once, again = ([Same(make()) for make in MADE.values()] for _ in range(2))
    for i, one in enumerate(once):
        for j, other in enumerate(again):
            assert (one == other) == (i == j), (list(MADE)[i], list(MADE)[j])
            assert i != j or hash(one) == hash(other)


def test_what_is_not_of_optax_is_equal_to_itself_alone():
    """A function of one's own may read a number that has changed since."""
    rate, copy = (lambda step: 0.1), (lambda step: 0.1)
    assert Same(optax.sgd(rate)) == Same(optax.sgd(rate)) != Same(optax.sgd(copy))
    assert Same(optax.sgd(rate)) != optax.sgd(rate)
    made = optax.sgd(jnp.float32(0.1))
    assert Same(made) == Same(made) != Same(optax.sgd(jnp.float32(0.1)))


def test_traced_rates_are_told_apart():
    def f(a, b):
        one, other = optax.sgd(a), optax.sgd(b)
        assert Same(one) == Same(one) != Same(other)
        return a

    jax.jit(f)(1.0, 1.0)
