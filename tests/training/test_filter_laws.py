"""What holds for every filter at every rate and step, in the half's own precision, against numbers of 60 digits."""

from decimal import MAX_EMAX, MIN_EMIN, Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lib import averaged, decayed, descent, flow, heavy_ball, momentum_flow, nesterov, then

getcontext().prec = 60
getcontext().Emax, getcontext().Emin = MAX_EMAX, MIN_EMIN  # what diverges does so for millions of steps
few = settings(derandomize=True, deadline=None, max_examples=12)
# ηλ of dead, slow, middling and fast modes; near 1 and 2 a neighbour is a few eps away.
MODES = jnp.array([0.0, 1e-9, 3e-8, 1e-7, 1e-5, 1e-3, 0.03, 0.2, 0.4, 0.6, 1.0, 1.0 + 1e-6, 1.4, 1.8, 2 - 1e-5, 2.0])
EPS = float(jnp.finfo(MODES.dtype).eps)
LAST = 2**31 - 1
METHODS = {"descent": lambda eta, beta, i: descent(eta, i), "heavy ball": heavy_ball, "nesterov": nesterov}
steps = some.floats(0, np.log(LAST)).map(lambda x: min(int(np.exp(x)), LAST)) | some.integers(0, 5)
momenta = some.sampled_from([0.0, 0.5, 0.9, 0.99]) | some.floats(0, 0.99)
rates = some.floats(1e-3, 1e3)


def exactly(method, eta, beta, lam, i):
    """Decimals g and h after i steps of one mode, by repeated squaring of the step on (u, v, 1) in 60 digits."""
    x = eta * lam
    if method == "nesterov":
        step = [[1 - (1 + beta) * x, beta * beta, 1 + beta], [-x, beta, Decimal(1)]]
    else:
        step = [[1 - x, beta, Decimal(1)], [-x, beta, Decimal(1)]]
    power, row = [*step, [Decimal(0), Decimal(0), Decimal(1)]], [Decimal(1), Decimal(0), Decimal(0)]
    times = lambda row: [sum(row[k] * power[k][j] for k in range(3)) for j in range(3)]
    while i:
        row = times(row) if i % 2 else row
        i //= 2
        power = [times(other) for other in power]
    return np.array([row[0], eta * row[2]])


@pytest.mark.parametrize("method", METHODS)
@few
@given(eta=rates, beta=momenta, i=steps)
def test_steps_keep_their_digits(method, eta, beta, i):
    """Off by no more than a change of λ by some eps would make it: the best that any computation in them can do."""
    eta, beta = (np.asarray(x, MODES.dtype) for x in (eta, 0.0 if method == "descent" else beta))
    lam = MODES / eta
    filter = METHODS[method](eta, beta, i)
    g, h = np.asarray(filter.residual(lam), float), np.asarray(filter.response(lam), float)
    moved = Decimal(1) + Decimal(2) ** -20
    allowed = (100 if method == "descent" else 2000) * EPS
    for k, x in enumerate(np.asarray(lam)):
        args = Decimal(float(eta)), Decimal(float(beta)), Decimal(float(x))
        exact, near = exactly(method, *args, i), exactly(method, args[0], args[1], args[2] * moved, i)
        condition = (abs(near - exact) * 2**20).astype(float)
        exact = exact.astype(float)
        if not abs(exact).max() < 1e30:
            continue  # Nesterov diverges at the last
        bound = allowed * (abs(exact) + condition) + float(jnp.finfo(lam.dtype).tiny)
        assert (abs(np.array([g[k], h[k]]) - exact) <= bound).all(), (args, i, g[k], h[k], exact)


@few
@given(eta=rates, beta=momenta, i=steps, mu=rates)
def test_what_is_left_and_what_is_learnt_are_one(eta, beta, i, mu):
    """g + λh = 1, whatever the filter."""
    lam = MODES / np.asarray(eta, MODES.dtype)
    row, t = jnp.array([0, 1, i]), eta * i
    filters = [
        flow(t),
        descent(eta, row),
        heavy_ball(eta, beta, row),
        nesterov(eta / 2, beta, row),
        momentum_flow(eta**0.5 * min(i, 10**4), momentum=beta, learning_rate=eta),
        decayed(descent(eta / 2, i), mu / 1e3 / eta),
        decayed(flow(t), mu),
        averaged(descent(eta, row), [mu, 1.0, 2.0]),
        then(descent(eta, i), flow(t)),
    ]
    for filter in filters:
        g, learnt = filter.residual(lam), lam * filter.response(lam)
        bound = 4000 * EPS * (1 + abs(g) + abs(learnt))
        assert bool((abs(g + learnt - 1) <= bound).all()), (filter, g + learnt - 1)


@few
@given(t=some.floats(1e-9, 1e9), mu=some.floats(1e-9, 1e3))
def test_flow_and_decay_keep_their_digits(t, mu):
    """Exponents up to 87, beyond which single precision has no numbers."""
    time, decay = (Decimal(float(np.asarray(x, MODES.dtype))) for x in (t, mu))
    ours = [values(MODES) for filter in (flow(t), decayed(flow(t), mu)) for values in filter]
    for k, x in enumerate(Decimal(float(x)) for x in np.asarray(MODES)):
        for i, rate in enumerate((x, x + decay)):
            z = rate * time
            if z > 80:
                continue
            h = time if rate == 0 else (1 - (-z).exp()) / rate
            g = 1 - x * h
            for found, exact in zip(ours[2 * i : 2 * i + 2], (g, h), strict=True):
                assert float(found[k]) == pytest.approx(float(exact), rel=20 * EPS * (1 + float(z)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("x, steps", [(0.0, [5]), (1.0, [1, 2, 7]), (2.7, [0, 3, 12, 60]), (5.0, [40]), (1e-6, [9])])
def test_rates_have_gradients_wherever_values_are_finite(method, x, steps):
    """Beyond stability too, where higher powers of the step overflow; at ηλ = 1, where descent leaves nothing."""
    beta, lam = Decimal(0) if method == "descent" else Decimal("0.5"), 2.0
    eta, nudge = Decimal(x / lam), Decimal(10) ** -25
    filter = lambda eta: METHODS[method](eta, float(beta), np.array(steps))
    for part in (0, 1):
        found = jax.jacrev(lambda eta, part=part: filter(eta)[part](jnp.array([lam]))[:, 0])(float(eta))
        left, right = (
            [exactly(method, at, beta, Decimal(lam), i)[part] for i in steps] for at in (eta - nudge, eta + nudge)
        )
        slopes = [float((b - a) / (2 * nudge)) for a, b in zip(left, right, strict=True)]
        np.testing.assert_allclose(found, slopes, rtol=3000 * EPS, atol=100 * EPS)


def test_training_to_the_end_has_the_gradient_of_the_inverse():
    lam = jnp.array([0.0, 0.5, 4.0])
    total = lambda part: jax.grad(lambda lam: flow(jnp.inf)[part](lam).sum())(lam)
    np.testing.assert_allclose(total(0), 0)
    np.testing.assert_allclose(total(1), [0, -4, -1 / 16], rtol=1e-6)


def test_a_dead_mode_has_the_derivative_of_a_mode_that_wakes():
    """At λ = 0 and to its right: dg/dλ = −h(0) and dh/dλ = −t²/2, or its like in steps."""
    zero, slope = jnp.zeros(1), lambda f: float(jax.jvp(f, (jnp.zeros(1),), (jnp.ones(1),))[1][0])
    for filter, second in ((flow(3.0), 4.5), (descent(0.5, 6), 0.25 * 15), (heavy_ball(0.5, 0.0, 6), 0.25 * 15)):
        assert slope(filter.residual) == pytest.approx(-float(filter.response(zero)[0]))
        assert slope(filter.response) == pytest.approx(-second)


def test_critical_damping_has_the_derivative_of_its_neighbours():
    """The roots coincide, their difference has no derivative there, g has: at p = s, q = s², dg/dλ by differences."""
    oscillator = momentum_flow(1.5, momentum=0.0, learning_rate=0.25)  # p = 1.5, and λ = 1 is critical
    for values in oscillator:
        slope = lambda lam, values=values: float(jax.jvp(values, (jnp.array([lam]),), (jnp.ones(1),))[1][0])
        assert slope(1.0) == pytest.approx((slope(0.99) + slope(1.01)) / 2, rel=1e-3)
        assert slope(1.0 + 1e-6) == pytest.approx(slope(1.0), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [np.uint8(200), np.uint16(65535), np.uint32(2**31), jnp.array([255], jnp.uint8)])
def test_unsigned_steps_keep_their_top_bit(method, count):
    lam = jnp.array([1e-8, 1e-3])
    i = int(np.max(count))
    for ours, part in zip(METHODS[method](1.0, 0.3, count), (0, 1), strict=True):
        beta = Decimal(0) if method == "descent" else Decimal(float(np.asarray(0.3, lam.dtype)))
        exact = [exactly(method, Decimal(1), beta, Decimal(float(x)), i)[part] for x in np.asarray(lam)]
        np.testing.assert_allclose(np.ravel(ours(lam)), np.array(exact, float), rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("method", METHODS)
def test_steps_that_do_not_fit_are_refused_or_followed(method):
    """Without JAX's 64-bit mode 2³² + 1 steps would be 1."""
    if jax.config.jax_enable_x64:
        assert float(METHODS[method](1.0, 0.0, 2**32 + 1).response(jnp.zeros(1))[0]) == 2**32 + 1
    else:
        with pytest.raises(ValueError, match="`steps` must fit into int32, got 4294967297"):
            METHODS[method](1.0, 0.0, 2**32 + 1)
