"""The paper's networks."""

from typing import Any

from lib.activations import Activation
from lib.layers import Dense, Flatten, Sequential, check_size


def fully_connected(
    width: int,
    depth: int,
    outputs: int,
    activation: Any,
    W_std: Any,
    b_std: Any,
    parameterization: str = "ntk",
) -> Sequential:
    """A fully connected network: `depth` hidden layers of `width` units, and a linear readout.

    h¹ = x W¹ + b¹,  h^{l+1} = φ(h^l) W^{l+1} + b^{l+1},  f(x) = h^{depth+1}

    Args:
        width: units of each hidden layer. The infinite face depends on it in the standard parameterisation only.
        depth: hidden layers, L; 0 is a linear model.
        outputs: K.
        activation: φ, such as `relu`, or `activation(phi)` of a scalar function.
        W_std: σ_w, of every layer.
        b_std: σ_b, of every layer; None for no biases.
        parameterization: "ntk" or "standard".

    Returns:
        A network that flattens what it is given.

    Raises:
        ValueError, TypeError: for an argument that is none of these.

    Example:
        >>> import jax
        >>> from lib.activations import relu
        >>> net = fully_connected(256, depth=2, outputs=10, activation=relu, W_std=2**0.5, b_std=0.3162)
        >>> x = jax.numpy.ones((3, 28, 28, 1))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape, net.kernel(x).nngp.shape
        ((3, 10), (3, 3))

    Source: Lee et al. 2019, eqs 1 and S36.
    """
    width, outputs = check_size("width", width), check_size("outputs", outputs)
    depth = check_size("depth", depth, least=0)
    if not isinstance(activation, Activation):
        raise TypeError(
            f"`activation` must be an activation such as lib.relu, got {activation!r}; "
            "lib.activation(phi) makes one of a scalar function phi"
        )
    dense = lambda features: Dense(features, W_std, b_std, parameterization)
    hidden = (dense(width), activation) * depth
    return Sequential((Flatten(), *hidden, dense(outputs)))
