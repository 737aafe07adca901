"""How close two ways to one number must come."""

import jax.numpy as jnp


def tolerance(like, scale=1.0):
    """The keywords rtol and atol of `numpy.testing.assert_allclose` for numbers computed in `like`'s dtype.

    Half of the dtype's digits and a little more: round-off after the few hundred operations of a test passes, a wrong
    formula does not. `scale` widens both, where a test's own arithmetic loses digits.
    """
    bound = {"float64": 1e-10, "float32": 2e-5}[str(jnp.result_type(like))] * scale
    return {"rtol": bound, "atol": bound}
