"""Expectations of functions of one Gaussian, and their expansion in Hermite polynomials."""

from collections.abc import Callable
from functools import lru_cache
from math import perm
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

# Terms of the expansion.
TERMS = 512
# Nodes of a panel, and how far out panels go: beyond, the density is below 1e-31.
NODES, REACH = 16, 12.0
# Panels around 0 halve down to this width. Variances may reach the inverse of its square for a φ of scale 1.
FINEST = 2.0**-14
# Terms that are added up between two looks at memory.
BLOCK = 16


class Expansion(NamedTuple):
    """f(√k z) = Σ_m a_m h_m(z) with h_m the orthonormal Hermite polynomials and z ~ N(0, 1), for each variance k.

    Attributes:
        a: a_m for m < TERMS, (TERMS, ...).
        square: E[f²], (...).
        size: √E[f²], and what the rounding of f adds to it, (...): errors are measured by it.
        rest: √(Σ a_m²) over m ≥ TERMS, (...), by Parseval's identity.
        known: whether the nodes resolve f, and reach far enough, (...).
    """

    a: Float[Array, "terms ..."]
    square: Float[Array, "..."]
    size: Float[Array, "..."]
    rest: Float[Array, "..."]
    known: Bool[Array, "..."]


def derivative(phi: Callable, order: int) -> Callable:
    """φ⁽ⁿ⁾ on arrays, elementwise."""
    for _ in range(order):
        phi = jax.grad(phi)
    return jnp.vectorize(phi)


def rounding(dtype: jnp.dtype) -> float:
    """What is held to be equal: 1e-7 of the whole, or 64 roundings where that is more."""
    return max(1e-7, 64 * float(jnp.finfo(dtype).eps))


def expand(phi: Callable, order: int, k: Array) -> Expansion:
    """The expansion of φ⁽ⁿ⁾ at variances k."""
    flat = k.ravel()  # the variances of rows and of columns are then one computation, where they are equal
    f, mirrored = _at_nodes(phi, order, flat)
    a, square = _coefficients(f, mirrored), _mean(f * f, mirrored * mirrored)
    rest = jnp.sqrt(jnp.maximum(square - jnp.sum(a**2, 0), 0))
    numbers = square, _size(phi, order, flat), rest, _is_known(phi, order, flat)
    return Expansion(a.reshape(TERMS, *k.shape), *(e.reshape(k.shape) for e in numbers))


def product(phi: Callable, order1: int, order2: int, k: Array) -> Float[Array, "..."]:
    """E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(u)] for u ~ N(0, k); NaN where it is not known."""
    flat = k.ravel()
    (f, mirrored), (g, reflected) = (_at_nodes(phi, order, flat) for order in (order1, order2))
    known = _is_known(phi, order1, flat) & _is_known(phi, order2, flat)
    return jnp.where(known, _mean(f * g, mirrored * reflected), jnp.nan).reshape(k.shape)


@jax.jit
def mehler(f: Expansion, g: Expansion, rho: Array) -> Float[Array, "..."]:
    """E[f(u) g(v)] = Σ_m a_m b_m ρᵐ by Horner's rule, from the last term on that matters."""
    a, b = f.a, g.a
    # The largest share of E[f²] in each block of terms, and in it and all above it, over all inputs.
    share = lambda e: jnp.max(e.a**2 / jnp.where(e.square > 0, e.square, 1), tuple(range(1, e.a.ndim)), initial=0)
    left = [lax.cumsum(share(e).reshape(-1, BLOCK).sum(1), reverse=True) for e in (f, g)]
    blocks = jnp.sum(~(left[0] * left[1] <= (jnp.finfo(rho.dtype).eps / 16) ** 2))  # NaN counts

    def add(i: Array, total: Array) -> Array:
        at = (blocks - 1 - i) * BLOCK
        some_a, some_b = (lax.dynamic_slice_in_dim(c, at, BLOCK) for c in (a, b))
        for m in reversed(range(BLOCK)):
            total = total * rho + some_a[m] * some_b[m]
        return total

    return lax.fori_loop(0, blocks, add, jnp.zeros_like(rho))


def _is_known(phi: Callable, order: int, k: Array) -> Bool[Array, " inputs"]:
    """Whether the nodes resolve φ⁽ⁿ⁾ at variances k, and reach far enough.

    They do where it is, on every panel, the polynomial through its nodes, and where E[f²] does not come from the
    outermost panel. For n > 0 also k^{n/2} a_m(φ⁽ⁿ⁾) = √((m + n)!/m!) a_{m+n}(φ) for m = 0 and 1, integrals by parts
    that jumps of φ⁽ⁿ⁻¹⁾ break.
    """
    small = rounding(k.dtype)
    f, mirrored = _at_nodes(phi, order, k)
    square, last = _mean(f * f, mirrored * mirrored), _mean(f * f, mirrored * mirrored, slice(-NODES, None))
    unresolved = _unresolved(f) + _unresolved(mirrored)
    known = (unresolved <= 10 * small * _size(phi, order, k)) & (last <= small * square)
    if order:
        phi_here, phi_there = _at_nodes(phi, 0, k)
        size = jnp.sqrt(_mean(phi_here**2, phi_there**2))
        noise = 512 * float(jnp.finfo(k.dtype).eps) * k ** (order / 2) * _mean(abs(f), abs(mirrored))
        for m in (0, 1):
            a = k ** (order / 2) * _coefficient(m, f, mirrored)
            b = perm(m + order, order) ** 0.5 * _coefficient(m + order, phi_here, phi_there)
            known &= abs(a - b) <= 100 * small * size + noise
    return known


def _size(phi: Callable, order: int, k: Array) -> Float[Array, " inputs"]:
    """√E[f²], and what the rounding of f adds: derivatives are differences of terms of the size of the one below."""

    def root_mean_square(order: int) -> Array:
        f, mirrored = _at_nodes(phi, order, k)
        return jnp.sqrt(_mean(f * f, mirrored * mirrored))

    below = root_mean_square(order - 1) if order else 0
    return root_mean_square(order) + 16 * float(jnp.finfo(k.dtype).eps) / rounding(k.dtype) * below


def _at_nodes(phi: Callable, order: int, k: Array) -> tuple[Array, Array]:
    """φ⁽ⁿ⁾(√k z) and φ⁽ⁿ⁾(−√k z) at the nodes, (..., nodes)."""
    f, u = derivative(phi, order), jnp.sqrt(k)[..., None] * jnp.asarray(_rule()[0], k.dtype)
    return f(u), f(-u)


def _mean(f: Array, mirrored: Array, nodes: slice = slice(None)) -> Float[Array, "..."]:
    """E[f], or the share of some of the nodes in it."""
    return jnp.sum((f + mirrored)[..., nodes] * jnp.asarray(_rule()[1][nodes], f.dtype), -1)


def _coefficient(m: int, f: Array, mirrored: Array) -> Float[Array, "..."]:
    """a_m alone."""
    row = jnp.asarray(_rule()[2 + m % 2][m // 2], f.dtype)
    return jnp.sum((f + (-1) ** m * mirrored) * row, -1)


@jax.jit
def _coefficients(f: Array, mirrored: Array) -> Float[Array, "terms ..."]:
    """a_m = Σ_n w_n h_m(z_n) (f(z_n) ± f(−z_n)) for m < TERMS, with the sign of h_m's parity.

    Compiled by itself, so that a program holds its matrix once.
    """
    project = lambda rows, part: jnp.einsum("mn,...n->m...", jnp.asarray(rows, f.dtype), part, precision="highest")
    even, odd = (project(rows, f + sign * mirrored) for rows, sign in zip(_rule()[2:], (1, -1), strict=True))
    return jnp.stack([even, odd], 1).reshape(TERMS, *even.shape[1:])


def _unresolved(f: Array) -> Float[Array, "..."]:
    """What the two highest Legendre polynomials of each panel hold of f, in the mean over panels."""
    panels = f.reshape(*f.shape[:-1], len(_rule()[0]) // NODES, NODES)
    mass = jnp.asarray(_rule()[1].reshape(-1, NODES).sum(1), f.dtype)
    return jnp.sum(jnp.sum(abs(jnp.matmul(panels, _highest().astype(f.dtype), precision="highest")), -1) * mass, -1)


@lru_cache
def _highest() -> np.ndarray:
    """From values at the nodes to the coefficients of the Legendre polynomials of degree n − 2 and n − 1, (n, 2)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    vander = np.polynomial.legendre.legvander(x, NODES - 1)[:, -2:]
    return w[:, None] * vander * (np.arange(NODES)[-2:] + 0.5)


@lru_cache
def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z > 0, their Gaussian weights w, both (n,), and w_n h_m(z_n) for even m and for odd m, (TERMS / 2, n).

    Gauss-Legendre on panels that double from FINEST to 1/2, so that φ is resolved on its own scale whatever the
    variance, and then are of equal width, so that all h_m are.
    """
    edges = np.concatenate([[0], np.geomspace(FINEST, 0.5, 14), np.linspace(0.5, REACH, 21)[1:]])
    x, weight = np.polynomial.legendre.leggauss(NODES)
    low, width = edges[:-1, None], np.diff(edges)[:, None]
    z = (low + width * (x + 1) / 2).ravel()
    w = (width * weight / 2).ravel() * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    h = [np.ones_like(z), z]
    for m in range(1, TERMS - 1):
        h.append((z * h[m] - np.sqrt(m) * h[m - 1]) / np.sqrt(m + 1))
    return z, w, w * np.stack(h[::2]), w * np.stack(h[1::2])
