"""Laws that hold for every dual and all variances and correlations."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_duals import DUALS

LAW = settings(derandomize=True, deadline=None, max_examples=30)
# What the functions are multiplied by when their argument is multiplied by c.
HOMOGENEOUS = ("relu", "leaky_relu", "absolute", "identity")

variances = st.floats(-6, 6).map(lambda power: 10.0**power)
correlations = st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1.0])
scales = st.floats(-3, 3).map(lambda power: 10.0**power)


@jax.jit
def numbers(k11, k12, k22, c):
    """Of each dual: the pair, exchanged, of each input with itself, scaled by c²; and the slope of 𝒯 in k12."""

    def of(dual):
        own = dual(k11, k11, k11), dual(k22, k22, k22)
        scaled = dual(c**2 * k11, c**2 * k12, c**2 * k22)
        return dual(k11, k12, k22), dual(k22, k12, k11), own, scaled, jax.grad(lambda k: dual(k11, k, k22)[0])(k12)

    closed = {name: dual for name, dual in DUALS.items() if name not in {"tanh", "gabor", "polynomial"}}
    return {name: of(dual) for name, dual in closed.items()}


@LAW
@given(k11=variances, k22=variances, rho=correlations, c=scales)
def test_every_dual_obeys(k11, k22, rho, c):
    """Price: ∂𝒯/∂k12 = 𝒯̇. Cauchy and Schwarz: 𝒯² ≤ 𝒯(x, x) 𝒯(x′, x′), and so 𝒯̇. Exchange of x and x′. Scale."""
    k = [jnp.asarray(a, float) for a in (k11, rho * np.sqrt(k11) * np.sqrt(k22), k22, c)]
    eps = float(jnp.finfo(k[0].dtype).eps)
    for name, (pair, exchanged, own, scaled, slope) in numbers(*k).items():
        for value, other, own1, own2 in zip(pair, exchanged, *own, strict=True):
            size = float(np.sqrt(own1) * np.sqrt(own2))
            assert np.isfinite(value), name
            assert abs(value) <= size * (1 + 100 * eps) + 1e-30, name
            assert abs(value - other) <= 100 * eps * size + 1e-30, name
        # Derivatives of 𝒯 may be differences of numbers as large as 𝒯 itself.
        sizes = [float(np.sqrt(own[0][i]) * np.sqrt(own[1][i])) for i in (0, 1)]
        assert abs(slope - pair[1]) <= 100 * eps * max(sizes[1], min(sizes[0], 1.0)) + 1e-30, name
        if name in HOMOGENEOUS:
            size = float(np.sqrt(own[0][0]) * np.sqrt(own[1][0]))
            assert abs(scaled[0] / c**2 - pair[0]) <= 100 * eps * size, name
            # The slope sees the angle alone, which rounding moves by √ε where inputs are parallel.
            assert abs(scaled[1] - pair[1]) <= 4 * eps**0.5, name
