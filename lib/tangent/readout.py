"""The kernel of a finite network of which the readout alone is trained."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lib.checks import check_examples
from lib.networks.layers import Dense
from lib.networks.sequential import Sequential
from lib.tangent.apply_fn import ApplyFn, as_apply_fn
from lib.tangent.jacobians import check_batches, inner_products


def empirical_nngp(net: Sequential, params: PyTree, x1: PyTree, x2: PyTree | None = None) -> Float[Array, "n1 n2"]:
    """The covariance of a finite network's outputs over its readout's weights, at given weights below.

    K̂(x, x′) = x̄(x) · x̄(x′),  x̄ = [σ_w x^L / √n_L, σ_b], with x^L the n_L inputs of the readout

    K̂ → K as widths grow. In the NTK parameterisation it is also the tangent kernel of the readout's own parameters, for
    each output, and constant where those alone are trained. With BatchNorm each batch has statistics of its own.

    Args:
        net: a Sequential that ends in Dense, its readout.
        params: θ; the readout's do not matter.
        x1: inputs, (N1, ...).
        x2: inputs, (N2, ...); left out it is `x1`.

    Returns:
        K̂, (N1, N2).

    Raises:
        TypeError: when `net` is not a Sequential, or parameters or outputs are not real floating-point numbers.
        ValueError: when it does not end in Dense, or `x1` and `x2` differ in anything but their first axis.

    Example:
        >>> net = Sequential((Dense(3, W_std=2.0, b_std=1.0),))
        >>> x = jnp.array([[1.0, 2.0]])
        >>> empirical_nngp(net, net.init(jax.random.key(0), x), x).item()  # 4 · (1 + 4) / 2 + 1
        11.0

    Source: Lee et al. 2019, appendix D.
    """
    if not isinstance(net, Sequential):
        raise TypeError(f"`net` must be a Sequential, whose readout can be told apart, got {type(net).__name__}")
    if not net.layers or type(net.layers[-1]) is not Dense:
        last = type(net.layers[-1]).__name__ if net.layers else "nothing"
        raise ValueError(f"`net` must end in Dense, its readout, got {last}; put the Dense last, outside other layers")
    f, n1 = check_batches(net, params, x1, x2), check_examples("x1", x1)
    n2 = n1 if x2 is None else check_examples("x2", x2)
    if n1 * n2 == 0:
        return jnp.zeros((n1, n2), f.dtype)
    below, readout = as_apply_fn(Sequential(net.layers[:-1])), net.layers[-1]
    scales = jnp.asarray([readout.W_std, 0 if readout.b_std is None else readout.b_std], f.dtype)
    return _gram_of_features(below, scales**2, params, x1, x1 if x2 is None else x2)


@jax.jit
def _gram_of_features(below: ApplyFn, variances: Array, params: PyTree, x1: PyTree, x2: PyTree) -> Array:
    one, two = (below(params, x) for x in (x1, x2))
    return variances[0] * inner_products(one, two) / one.shape[1] + variances[1]
