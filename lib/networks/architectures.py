"""The paper's networks."""

from typing import Any

from lib.checks import check_size
from lib.networks.activations import Activation, relu
from lib.networks.convolution import Conv
from lib.networks.layers import Dense, Flatten
from lib.networks.normalization import BatchNorm
from lib.networks.pooling import GlobalAveragePool
from lib.networks.residual import Residual
from lib.networks.sequential import Sequential


def fully_connected(
    width: int,
    depth: int,
    outputs: int,
    activation: Any,
    W_std: Any,
    b_std: Any,
    parameterization: str = "ntk",
    precision: str = "highest",
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
        precision: of products of float32, as in `Dense`.

    Returns:
        A network that flattens what it is given.

    Raises:
        ValueError, TypeError: for an argument that is none of these.

    Example:
        >>> import jax
        >>> from lib.networks.activations import relu
        >>> net = fully_connected(256, depth=2, outputs=10, activation=relu, W_std=2**0.5, b_std=0.3162)
        >>> x = jax.numpy.ones((3, 28, 28, 1))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape, net.kernel(x).nngp.shape
        ((3, 10), (3, 3))

    Source: Lee et al. 2019, eqs 1 and S36.
    """
    width, outputs = check_size("width", width), check_size("outputs", outputs)
    depth = check_size("depth", depth, least=0)
    _check_activation(activation)
    dense = lambda features: Dense(features, W_std, b_std, parameterization, precision)
    hidden = (dense(width), activation) * depth
    return Sequential((Flatten(), *hidden, dense(outputs)))


def convolutional(
    channels: int,
    depth: int,
    outputs: int,
    activation: Any,
    W_std: Any,
    b_std: Any,
    pooling: Any = GlobalAveragePool(),  # noqa: B008 - it has no state
    padding: str = "SAME",
    parameterization: str = "ntk",
    precision: str = "highest",
) -> Sequential:
    """A convolutional network: `depth` layers of 3×3 windows, pooling, and a linear readout.

    Args:
        channels: of each convolution. The infinite face depends on it in the standard parameterisation only.
        depth: convolutions, each followed by the activation.
        outputs: K.
        activation: φ, such as `relu`, or `activation(phi)` of a scalar function.
        W_std: σ_w, of every layer.
        b_std: σ_b, of every layer; None for no biases.
        pooling: what stands below the readout: GlobalAveragePool(), Flatten(), or AveragePool(window) and all of its
            positions.
        padding: "SAME", "VALID" or "CIRCULAR".
        parameterization: "ntk" or "standard".
        precision: of products of float32, as in `Dense`.

    Returns:
        A network of images (N, H, W, C).

    Raises:
        ValueError, TypeError: for an argument that is none of these.

    Example:
        >>> import jax
        >>> net = convolutional(64, depth=2, outputs=1, activation=relu, W_std=2**0.5, b_std=None)
        >>> x = jax.numpy.ones((3, 8, 8, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape, jax.eval_shape(net.kernel, x).nngp.shape
        ((3, 1), (3, 3))

    Source: Lee et al. 2019, section 3; Novak et al. 2019.
    """
    channels, outputs = check_size("channels", channels), check_size("outputs", outputs)
    depth = check_size("depth", depth, least=0)
    _check_activation(activation)
    conv = Conv(channels, (3, 3), (1, 1), padding, W_std, b_std, parameterization, precision)
    readout = Dense(outputs, W_std, b_std, parameterization, precision)
    return Sequential((*(conv, activation) * depth, pooling, Flatten(), readout))


def wide_resnet(
    channels: int,
    blocks: int = 1,
    outputs: int = 10,
    W_std: Any = 1.0,
    b_std: Any = None,
    normalization: bool = True,
    parameterization: str = "ntk",
    precision: str = "highest",
) -> Sequential:
    """A wide residual network: a convolution, three groups of blocks, pooling, and a linear readout.

    A block is x + conv(φ(norm(conv(φ(norm(x)))))) with 3×3 windows. Its first convolution halves height and width in
    the second and the third group; there the shortcut is a 1×1 convolution. All have the same number of channels, and
    a last norm and ReLU stand before the pooling.

    Args:
        channels: of every convolution, 1024 in the paper.
        blocks: in each group, N; the depth is 6 N + 4.
        outputs: K.
        W_std: σ_w, of every layer.
        b_std: σ_b, of every layer; None for no biases.
        normalization: whether norm is BatchNorm, or nothing. With it there is no infinite face.
        parameterization: "ntk" or "standard".
        precision: of products of float32, as in `Dense`.

    Returns:
        A network of images (N, H, W, C).

    Raises:
        ValueError, TypeError: for an argument that is none of these.

    Example:
        >>> import jax
        >>> net = wide_resnet(8, normalization=False)
        >>> jax.eval_shape(net.kernel, jax.numpy.ones((2, 32, 32, 3))).nngp.shape
        (2, 2)

    Source: Lee et al. 2019, table S1; Zagoruyko & Komodakis 2016.
    """
    channels, blocks, outputs = (
        check_size("channels", channels),
        check_size("blocks", blocks),
        check_size("outputs", outputs),
    )
    if not isinstance(normalization, bool):
        raise TypeError(f"`normalization` must be True or False, got {normalization!r}")
    norm = (BatchNorm(),) if normalization else ()

    def conv(window: int, stride: int) -> Conv:
        return Conv(channels, (window, window), (stride, stride), "SAME", W_std, b_std, parameterization, precision)

    def block(stride: int) -> Residual:
        inner = Sequential((*norm, relu, conv(3, stride), *norm, relu, conv(3, 1)))
        return Residual(inner, shortcut=conv(1, stride) if stride > 1 else None)

    groups = [block(stride if i == 0 else 1) for stride in (1, 2, 2) for i in range(blocks)]
    readout = Dense(outputs, W_std, b_std, parameterization, precision)
    return Sequential((conv(3, 1), *groups, *norm, relu, GlobalAveragePool(), readout))


def _check_activation(activation: Any) -> None:
    if not isinstance(activation, Activation):
        raise TypeError(
            f"`activation` must be an activation such as lib.relu, got {activation!r}; "
            "lib.activation(phi) makes one of a scalar function phi"
        )
