"""Activations: values of a dataclass, functions on arrays, steps of the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tolerance
from networks import waves
from oracles import FUNCTIONS

from lib.activations import activation, erf, identity, relu, tanh
from lib.kernels import input_state

ACTIVATIONS = {a.name: a for a in (relu, erf, tanh, identity, activation(jnp.sin))}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_function_and_dual_belong_together(name):
    """Both faces of an activation are its φ: the function, and E[φ²], E[φ′²] by a one-dimensional rule."""
    u = jnp.asarray(np.linspace(-3, 3, 13))
    phi, slope = FUNCTIONS[name]
    np.testing.assert_allclose(ACTIVATIONS[name](u), phi(np.asarray(u)), **tolerance(u))
    z, w = np.polynomial.hermite_e.hermegauss(80)
    z, w = np.asarray(z), w / np.sqrt(2 * np.pi)
    k = jnp.asarray(0.3)
    t, t_dot = ACTIVATIONS[name].dual(k, k, k, *ACTIVATIONS[name].parameters)
    np.testing.assert_allclose(t, w @ phi(0.3**0.5 * z) ** 2, **tolerance(k, scale=10))
    np.testing.assert_allclose(t_dot, w @ slope(0.3**0.5 * z) ** 2, **tolerance(k, scale=10))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dtype_follows_the_input(name, dtype, x64):
    assert ACTIVATIONS[name](jnp.ones((2, 3), dtype)).dtype == dtype


def test_equal_by_value():
    assert activation(jnp.tanh) == tanh
    assert hash(activation(jnp.tanh)) == hash(tanh)
    assert activation(jnp.sin) != tanh
    assert len({relu, erf, tanh, identity, relu}) == 4


def test_step_of_the_kernel():
    """K ← 𝒯, Θ ← Θ 𝒯̇, and the output is no longer Gaussian."""
    below = input_state(waves(4, 3, 0.0), waves(2, 3, 0.4), "vectors")._replace(ntk=jnp.full((4, 2), 7.0))
    above = erf.kernel_step(below)
    t, t_dot = erf.dual(*below.pair())
    np.testing.assert_allclose(above.nngp, t, **tolerance(t))
    np.testing.assert_allclose(above.ntk, 7 * t_dot, **tolerance(t))
    expected = 2 / np.pi * np.arcsin(2 * below.variance2 / (1 + 2 * below.variance2))
    np.testing.assert_allclose(above.variance2, expected, **tolerance(t))
    assert not above.gaussian


def test_identity_changes_nothing():
    state = input_state(waves(4, 3, 0.0), None, "vectors")._replace(gaussian=True)
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
