"""Slow and obvious: kernels of infinite networks, one pair of inputs and one number at a time, in NumPy."""

from functools import cache

import numpy as np
from scipy.special import erf, ndtr

# φ and φ′, written out.
FUNCTIONS = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)),
    "erf": (erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "leaky_relu": (lambda u: np.where(u > 0, u, 0.1 * u), lambda u: np.where(u > 0, 1, 0.1)),
    "absolute": (np.abs, np.sign),
    "sigmoid_like": (
        lambda u: 0.5 * erf(u / 2.4020563531719796) + 0.5,
        lambda u: np.exp(-((u / 2.4020563531719796) ** 2)) / (np.sqrt(np.pi) * 2.4020563531719796),
    ),
    "gelu": (lambda u: u * ndtr(u), lambda u: ndtr(u) + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)),
    "gaussian": (lambda u: np.exp(-(u**2)), lambda u: -2 * u * np.exp(-(u**2))),
    "sin": (np.sin, np.cos),
    "cos": (np.cos, lambda u: -np.sin(u)),
    "polynomial": (lambda u: 1 - 0.5 * u**2 + 0.2 * u**3, lambda u: -u + 0.6 * u**2),
    "gabor": (lambda u: np.exp(-(u**2)) * np.sin(u), lambda u: np.exp(-(u**2)) * (np.cos(u) - 2 * u * np.sin(u))),
    "identity": (lambda u: u, np.ones_like),
}


def expectation(f, k11, k12, k22, nodes=160):
    """E[f(u) f(v)] for (u, v) ~ N(0, [[k11, k12], [k12, k22]]), f smooth except perhaps at 0.

    u = √k11 z and v = √k22 (ρ z + √(1 − ρ²) y), integrated over z and y by Gauss-Legendre rules on both sides of u = 0
    and of v = 0.
    """
    rho = np.clip(k12 / np.sqrt(k11 * k22), -1, 1) if k11 * k22 > 0 else 0.0
    rest = np.sqrt(1 - rho**2)
    total = 0.0
    for z, w_z in [*legendre(-10, 0, nodes), *legendre(0, 10, nodes)]:
        crossing = np.clip(-rho * z / rest, -10, 10) if rest > 0 else 10.0
        for y, w_y in (legendre_rule(-10, crossing, nodes), legendre_rule(crossing, 10, nodes)):
            density = np.exp(-(z**2 + y**2) / 2) / (2 * np.pi)
            total += w_z * np.sum(w_y * density * f(np.sqrt(k11) * z) * f(np.sqrt(k22) * (rho * z + rest * y)))
    return total


def fully_connected_kernel(x1, x2, activation, depth, W_std, b_std, parameterization="ntk", width=None):
    """(K, Θ) of a fully connected network by eqs S26-S29, expectations by quadrature."""
    phi, slope = FUNCTIONS[activation]
    b_var, bias = (0.0, 0.0) if b_std is None else (b_std**2, 1.0)
    nngp, ntk = np.zeros((2, len(x1), len(x2)))
    for i, a in enumerate(np.asarray(x1, float)):
        for j, b in enumerate(np.asarray(x2, float)):
            fan_in = len(a)
            k11, k12, k22 = a @ a / fan_in, a @ b / fan_in, b @ b / fan_in
            theta = 0.0
            for layer in range(depth + 1):
                if layer > 0:
                    fan_in = width
                    theta *= expectation(slope, k11, k12, k22)
                    k11, k12, k22 = (
                        expectation(phi, k11, k11, k11),
                        expectation(phi, k11, k12, k22),
                        expectation(phi, k22, k22, k22),
                    )
                below = k12
                k11, k12, k22 = (W_std**2 * k + b_var for k in (k11, k12, k22))
                own = fan_in * below + bias if parameterization == "standard" else k12
                theta = own + W_std**2 * theta
            nngp[i, j], ntk[i, j] = k12, theta
    return nngp, ntk


def image_kernel(x1, x2, layers, W_std, b_std, parameterization="ntk", channels=None):
    """(K, Θ) of networks of images, with a readout after the `layers`; one pair of images, of positions, of pixels.

    Layers: ("conv", window, strides, padding), ("pool", window, strides), ("residual", inner, shortcut), "flatten",
    "global", "normalize", or the name of an activation; windows and strides are pairs (height, width).
    """
    b_var, bias = (0.0, 0.0) if b_std is None else (b_std**2, 1.0)

    def weights(k, fan_in):
        own = fan_in * k["12"] + bias if parameterization == "standard" else W_std**2 * k["12"] + b_var
        return {"theta": own + W_std**2 * k["theta"]} | {pair: W_std**2 * k[pair] + b_var for pair in PAIRS}

    def apply(layer, k, features):
        if layer[0] == "conv":
            _, window, strides, padding = layer
            k = {name: convolved(array, window, strides, padding) for name, array in k.items()}
            return weights(k, window[0] * window[1] * features), channels
        if layer[0] == "pool":
            return {name: pooled(array, *layer[1:]) for name, array in k.items()}, features
        if layer[0] == "residual":
            inner, n = run(layer[1], k, features)
            shortcut, _ = run(layer[2], k, features)
            return {name: inner[name] + shortcut[name] for name in k}, n
        if layer == "flatten":
            h, w = k["12"].shape[:2]
            return {
                name: np.mean([a[p, q, p, q] for p, q in np.ndindex(h, w)]) for name, a in k.items()
            }, h * w * features
        if layer == "global":
            return {name: array.mean() for name, array in k.items()}, features
        return pointwise(layer, k), features

    def run(layers, k, features):
        for layer in layers:
            k, features = apply(layer, k, features)
        return k, features

    nngp, ntk = np.zeros((2, len(x1), len(x2)))
    for i, a in enumerate(np.asarray(x1, float)):
        for j, b in enumerate(np.asarray(x2, float)):
            gram = {
                pair: np.tensordot(s, t, axes=(2, 2)) / a.shape[2]
                for pair, (s, t) in zip(PAIRS, [(a, a), (a, b), (b, b)], strict=True)
            }
            k, features = run(layers, gram | {"theta": np.zeros_like(gram["12"])}, a.shape[2])
            k = weights(k, features)
            nngp[i, j], ntk[i, j] = k["12"], k["theta"]
    return nngp, ntk


PAIRS = ("11", "12", "22")


def sizes_and_starts(image, window, strides, padding):
    """Of the positions of a window along height and width: how many there are, and where the first begins."""
    if padding == "VALID":
        return [(n - w) // s + 1 for n, w, s in zip(image, window, strides, strict=True)], (0, 0)
    out = [-(-n // s) for n, s in zip(image, strides, strict=True)]
    around = [(m - 1) * s + w - n for m, s, w, n in zip(out, strides, window, image, strict=True)]
    return out, [-(max(a, 0) // 2) for a in around]


def seen(array, at, padding):
    """`array` at a position outside of which there are zeros, or the opposite edge."""
    size = array.shape[: len(at)]
    if padding == "CIRCULAR":
        at = [position % n for position, n in zip(at, size, strict=True)]
    inside = all(0 <= position < n for position, n in zip(at, size, strict=True))
    return array[tuple(at)] if inside else np.zeros(array.shape[len(at) :])


def convolved_image(x, W, strides, padding):
    """h[p] = Σ_o x[s p + o] W[o] of one image (H, W, C) and weights (height, width, C, features)."""
    out, start = sizes_and_starts(x.shape[:2], W.shape[:2], strides, padding)
    result = np.zeros((*out, W.shape[3]))
    for p in np.ndindex(*out):
        for o in np.ndindex(*W.shape[:2]):
            at = [strides[d] * p[d] + start[d] + o[d] for d in (0, 1)]
            result[p] += seen(x, at, padding) @ W[o]
    return result


def convolved(k, window, strides, padding):
    """out[p, q] = mean over o of k[s p + o, s q + o], zero or periodic outside."""
    out, start = sizes_and_starts(k.shape[:2], window, strides, padding)
    result = np.zeros((*out, *out))
    for index in np.ndindex(*result.shape):
        for o in np.ndindex(*window):
            at = [strides[d % 2] * index[d] + start[d % 2] + o[d % 2] for d in range(4)]
            result[index] += seen(k, at, padding) / (window[0] * window[1])
    return result


def pooled_image(x, window, strides):
    """The mean over each window of one image (H, W, C)."""
    out, _ = sizes_and_starts(x.shape[:2], window, strides, "VALID")
    result = np.zeros((*out, x.shape[2]))
    for p in np.ndindex(*out):
        for o in np.ndindex(*window):
            result[p] += x[strides[0] * p[0] + o[0], strides[1] * p[1] + o[1]] / (window[0] * window[1])
    return result


def pooled(k, window, strides):
    """out[p, q] = mean over a and b of k[s p + a, s q + b]."""
    out, _ = sizes_and_starts(k.shape[:2], window, strides, "VALID")
    result = np.zeros((*out, *out))
    for index in np.ndindex(*result.shape):
        corner = [strides[d % 2] * index[d] for d in range(4)]
        result[index] = k[tuple(slice(c, c + window[d % 2]) for d, c in enumerate(corner))].mean()
    return result


def pointwise(name, k):
    """Of each pair of positions p, q: the duals of eqs S13-S17, or the division by the deviations."""
    new = {pair: np.zeros_like(k[pair]) for pair in k}
    for index in np.ndindex(*k["12"].shape):
        p, q = index[: len(index) // 2], index[len(index) // 2 :]
        for pair in PAIRS:
            k11, k22 = k[2 * pair[0]][p + p], k[2 * pair[1]][q + q]
            new[pair][index], slope = FORMULAS[name](k11, k[pair][index], k22)
            if pair == "12":
                new["theta"][index] = slope * k["theta"][index]
    return new


def arc_cosine(k11, k12, k22):
    norm = np.sqrt(k11 * k22)
    angle = np.arccos(np.clip(k12 / norm, -1, 1))
    return norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def arc_sine(k11, k12, k22):
    product = (1 + 2 * k11) * (1 + 2 * k22)
    return 2 / np.pi * np.arcsin(2 * k12 / np.sqrt(product)), 4 / np.pi / np.sqrt(product - 4 * k12**2)


FORMULAS = {
    "relu": arc_cosine,
    "erf": arc_sine,
    "normalize": lambda k11, k12, k22: (k12 / np.sqrt(k11 * k22), 1 / np.sqrt(k11 * k22)),
}


def images(n, h, w, c, phase):
    """IMG(n, h, w, c, φ)[i, a, b, k] = cos(0.9 i + 0.5 a + 0.8 b + 1.1 k + 0.1 i a + φ), the reference's images."""
    i, a, b, k = np.ogrid[:n, :h, :w, :c]
    return np.cos(0.9 * i + 0.5 * a + 0.8 * b + 1.1 * k + 0.1 * i * a + phase)


def legendre_rule(low, high, nodes):
    t, w = unit_rule(nodes)
    return (high + low) / 2 + (high - low) / 2 * t, (high - low) / 2 * w


def legendre(low, high, nodes):
    return zip(*legendre_rule(low, high, nodes), strict=True)


unit_rule = cache(np.polynomial.legendre.leggauss)
