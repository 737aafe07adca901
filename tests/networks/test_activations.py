"""Activations: values of a dataclass, functions on arrays, steps of the kernel."""

import copy
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import waves
from oracles import FUNCTIONS
from tolerances import tolerance

from lib.infinite.kernel import input_state
from lib.networks.activations import (
    absolute,
    activation,
    cos,
    erf,
    gaussian,
    gelu,
    identity,
    leaky_relu,
    polynomial,
    relu,
    sigmoid_like,
    sin,
    tanh,
)
from lib.networks.architectures import fully_connected

ACTIVATIONS = {
    a.name: a
    for a in (
        *(relu, leaky_relu(0.1), absolute, erf, sigmoid_like, gelu, gaussian, sin, cos, polynomial((1, 0, -0.5, 0.2))),
        *(tanh, identity),
    )
}


def test_function_and_dual_belong_together():
    """Both faces of an activation are its φ: the function, and E[φ²], E[φ′²] by two rules that meet at 0."""
    u = jnp.asarray(np.linspace(-3, 3, 13))
    k = jnp.asarray(0.3)
    z, w = np.polynomial.legendre.leggauss(200)
    z = np.concatenate([5 * z - 5, 5 * z + 5])
    w = 5 * np.concatenate([w, w]) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    faces = jax.jit(lambda: {name: (a(u), a.dual(k, k, k, *a.parameters)) for name, a in ACTIVATIONS.items()})
    for name, (values, (t, t_dot)) in faces().items():
        phi, slope = FUNCTIONS[name]
        np.testing.assert_allclose(values, phi(np.asarray(u)), err_msg=name, **tolerance(u))
        np.testing.assert_allclose(t, w @ phi(0.3**0.5 * z) ** 2, err_msg=name, **tolerance(k, scale=10))
        np.testing.assert_allclose(t_dot, w @ slope(0.3**0.5 * z) ** 2, err_msg=name, **tolerance(k, scale=10))


def test_the_sigmoid_is_as_close_to_the_logistic_function_as_documented():
    u = jnp.linspace(-20, 20, 4001)
    assert 0.009 < abs(sigmoid_like(u) - jax.nn.sigmoid(u)).max() < 0.01


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dtype_follows_the_input(name, dtype, x64):
    assert ACTIVATIONS[name](jnp.ones((2, 3), dtype)).dtype == dtype


def test_equal_by_value():
    assert activation(jnp.tanh) == tanh
    assert hash(activation(jnp.tanh)) == hash(tanh)
    assert activation(jnp.sin) != tanh
    assert len({relu, erf, tanh, identity, relu}) == 4
    assert leaky_relu(0.1) == leaky_relu(np.float64(0.1)) != leaky_relu(0.2)
    assert polynomial([1, 2]) == polynomial(np.array([1.0, 2.0])) != polynomial((1, 2, 3))


@pytest.mark.parametrize("copied", [lambda a: pickle.loads(pickle.dumps(a)), copy.deepcopy, copy.copy])
def test_copies_are_equal(copied):
    """Of all activations, of one from somebody else's function, and of a network."""
    network = fully_connected(8, 2, 1, relu, 1.4, 0.1)
    for original in (*ACTIVATIONS.values(), activation(jax.nn.softplus), network, network.clone()):
        assert copied(original) == original
        assert hash(copied(original)) == hash(original)


def test_slopes_and_coefficients_may_be_traced(x64):
    """Values, kernels and gradients of networks whose activation has parameters that `jit` does not know yet."""
    x = waves(3, 4, 0.0)
    make = lambda phi: fully_connected(8, 1, 1, phi, 1.4, 0.1)
    params = make(relu).init(jax.random.key(0), x)
    for phi in (leaky_relu, lambda a: polynomial((0, 1, a)), lambda a: polynomial(jnp.stack([0 * a, a]))):
        traced = jax.jit(lambda a, phi=phi: (make(phi(a)).kernel(x), make(phi(a)).apply(params, x), phi(a)(x)))(0.3)
        known = (
            make(phi(jnp.asarray(0.3))).kernel(x),
            make(phi(jnp.asarray(0.3))).apply(params, x),
            phi(jnp.asarray(0.3))(x),
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), traced, known)
    slope = jax.grad(lambda a: make(leaky_relu(a)).kernel(x).ntk.sum())
    difference = [make(leaky_relu(0.3 + step)).kernel(x).ntk.sum() for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope(0.3), (difference[0] - difference[1]) / 2e-5, rtol=1e-6)


def test_step_of_the_kernel():
    """K ← 𝒯, Θ ← Θ 𝒯̇, and the output is no longer Gaussian."""
    below = input_state(waves(4, 3, 0.0), waves(2, 3, 0.4), "vectors").replace(ntk=jnp.full((4, 2), 7.0))
    above = erf.kernel_step(below)
    t, t_dot = erf.dual(*below.pair())
    np.testing.assert_allclose(above.nngp, t, **tolerance(t))
    np.testing.assert_allclose(above.ntk, 7 * t_dot, **tolerance(t))
    expected = 2 / np.pi * np.arcsin(2 * below.variance2 / (1 + 2 * below.variance2))
    np.testing.assert_allclose(above.variance2, expected, **tolerance(t))
    assert not above.gaussian


def test_identity_changes_nothing():
    state = input_state(waves(4, 3, 0.0), None, "vectors").replace(gaussian=True)
    assert identity.kernel_step(state) is state


def test_a_function_of_scalars_alone_is_enough():
    """`phi` may branch on its argument as only a scalar can."""
    phi = lambda u: jax.lax.cond(u > 0, jnp.sin, jnp.tanh, u)
    u = jnp.asarray([-1.0, 2.0])
    np.testing.assert_allclose(activation(phi)(u), [np.tanh(-1), np.sin(2)], **tolerance(u))


def test_errors_say_what_a_function_must_be():
    with pytest.raises(TypeError, match=r"`phi` must be a function of a scalar, such as jnp\.tanh, got 'tanh'"):
        activation("tanh")
    with pytest.raises(TypeError, match="`phi` must take a real scalar to a real scalar, but it returns"):
        activation(lambda u: u > 0)
    with pytest.raises(TypeError, match="`phi` must take a real scalar to a real scalar, but it returns"):
        activation(lambda u: jnp.stack([u, u]))
    with pytest.raises(TypeError, match=r"`a` must be a real number, got '0\.1'"):
        leaky_relu("0.1")
    with pytest.raises(
        TypeError, match="`coefficients` must be a sequence of real numbers, of the constant first, got 3"
    ):
        polynomial(3)
    with pytest.raises(TypeError, match=r"`coefficients\[1\]` must be a real number, got 1j"):
        polynomial((1, 1j))
    with pytest.raises(ValueError, match="`coefficients` must hold at least one number"):
        polynomial(())
