"""Expectations of functions of one Gaussian, and their expansion in Hermite polynomials."""

from collections.abc import Callable
from functools import lru_cache, partial
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

Orders = tuple[tuple[int, int], ...]  # (i, j) of E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)]


class Expansion(NamedTuple):
    """f(√k z) = Σ_m a_m h_m(z) with h_m the orthonormal Hermite polynomials and z ~ N(0, 1), for each variance k.

    The first axis of each (of `a` the second) is over functions f: derivatives φ⁽ⁿ⁾, n = 0, 1, …, or some of them.

    Attributes:
        a: a_m for m < TERMS, (TERMS, orders, ...).
        products: E[f g] for each of them and each of all derivatives g, (orders, all orders, ...).
        square: E[f²], (orders, ...).
        size: √E[f²], and what the rounding of f adds to it, (orders, ...): errors are measured by it.
        rest: √(Σ a_m²) over m ≥ TERMS, (orders, ...), by Parseval's identity.
        known: whether the nodes resolve f, and reach far enough, (orders, ...).
    """

    a: Float[Array, "terms orders ..."]
    products: Float[Array, "orders all ..."]
    square: Float[Array, "orders ..."]
    size: Float[Array, "orders ..."]
    rest: Float[Array, "orders ..."]
    known: Bool[Array, "orders ..."]

    def of(self, some: np.ndarray) -> "Expansion":
        """The expansions of some of the functions."""
        return Expansion(self.a[:, some], *(each[some] for each in self[1:]))


@partial(jax.jit, static_argnums=(0, 1))
def derivatives(phi: Callable, order: int, u: Array) -> Float[Array, "orders ..."]:
    """φ, φ′, …, φ⁽ⁿ⁾ on arrays, elementwise."""
    tower = lambda u: (phi(u),)
    for _ in range(order):
        tower = partial(_and_the_next, tower)
    return jnp.stack(jnp.vectorize(tower)(u))


def _and_the_next(tower: Callable, u: Array) -> tuple[Array, ...]:
    def last(u: Array) -> tuple[Array, tuple]:
        values = tower(u)
        return values[-1], values

    slope, values = jax.grad(last, has_aux=True)(u)
    return (*values, slope)


def highest(orders: Orders) -> int:
    """The highest derivative of φ in these pairs."""
    return max(map(max, orders))


def rounding(dtype: jnp.dtype) -> float:
    """What is held to be equal: 1e-7 of the whole, or 64 roundings where that is more."""
    return max(1e-7, 64 * float(jnp.finfo(dtype).eps))


@partial(jax.jit, static_argnums=(0, 1))
def expand(phi: Callable, order: int, k: Array) -> Expansion:
    """The expansions of φ, φ′, …, φ⁽ⁿ⁾ at variances k."""
    flat = k.ravel()  # the variances of rows and of columns are then one computation, where they are equal
    f = _at_nodes(phi, order, flat)
    a, products = _coefficients(f), _mean(f[:, None] * f)
    square = jnp.einsum("nn...->n...", products)
    rest = jnp.sqrt(jnp.maximum(square - jnp.sum(a**2, 0), 0))
    numbers = a, products, square, _size(square), rest, _is_known(f, a, square, flat)
    return Expansion(*(e.reshape(*e.shape[:-1], *k.shape) for e in numbers))


@jax.jit
def mehler(f: Expansion, g: Expansion, rho: Array) -> Float[Array, "orders ..."]:
    """E[f(u) g(v)] = Σ_m a_m b_m ρᵐ by Horner's rule, from the last term on that matters."""
    # The largest share of E[f²] in each block of terms, and in it and all above it, over all inputs.
    share = lambda e: jnp.max(e.a**2 / jnp.where(e.square > 0, e.square, 1), tuple(range(2, e.a.ndim)), initial=0)
    left = [lax.cumsum(share(e).reshape(-1, BLOCK, len(e.square)).sum(1), reverse=True) for e in (f, g)]
    blocks = jnp.sum(jnp.any(~(left[0] * left[1] <= (jnp.finfo(rho.dtype).eps / 16) ** 2), 1))  # NaN counts

    def add(i: Array, total: Array) -> Array:
        at = (blocks - 1 - i) * BLOCK
        a, b = (lax.dynamic_slice_in_dim(e.a, at, BLOCK) for e in (f, g))
        for m in reversed(range(BLOCK)):
            total = total * rho + a[m] * b[m]
        return total

    return lax.fori_loop(0, blocks, add, jnp.zeros((len(f.square), *rho.shape), rho.dtype))


def _is_known(
    f: Float[Array, "orders signs inputs nodes"],
    a: Float[Array, "terms orders inputs"],
    square: Float[Array, "orders inputs"],
    k: Float[Array, " inputs"],
) -> Bool[Array, "orders inputs"]:
    """Whether the nodes resolve φ⁽ⁿ⁾ at variances k, and reach far enough.

    They do where it is, on every panel, the polynomial through its nodes, and where E[f²] does not come from the
    outermost panel. For n > 0 also k^{n/2} a_m(φ⁽ⁿ⁾) = √((m + n)!/m!) a_{m+n}(φ) for m = 0 and 1, integrals by parts
    that jumps of φ⁽ⁿ⁻¹⁾ break.
    """
    small = rounding(k.dtype)
    last = _mean(f * f, slice(-NODES, None))
    resolved = jnp.sum(_unresolved(f), 1) <= 10 * small * _size(square)
    known = resolved & (last <= small * square) & jnp.isfinite(square)
    if len(f) == 1:
        return known
    n, m = np.arange(1, len(f)), np.arange(2)[:, None]
    root = k ** (n[:, None] / 2)
    by_parts = np.sqrt([[perm(i + j, j) for j in n.tolist()] for i in (0, 1)])[..., None] * a[m + n, 0]
    noise = 512 * float(jnp.finfo(k.dtype).eps) * root * _mean(abs(f[1:]))
    agree = abs(root * a[:2, 1:] - by_parts) <= 100 * small * jnp.sqrt(square[0]) + noise
    return known & jnp.concatenate([jnp.ones_like(known[:1]), jnp.all(agree, 0)])


def _size(square: Float[Array, "orders inputs"]) -> Float[Array, "orders inputs"]:
    """√E[f²], and what the rounding of f adds: derivatives are differences of terms of the size of the one below."""
    root = jnp.sqrt(square)
    below = jnp.concatenate([jnp.zeros_like(root[:1]), root[:-1]])
    return root + 16 * float(jnp.finfo(square.dtype).eps) / rounding(square.dtype) * below


def _at_nodes(phi: Callable, order: int, k: Array) -> Float[Array, "orders signs inputs nodes"]:
    """φ⁽ⁿ⁾(√k z) and φ⁽ⁿ⁾(−√k z) at the nodes."""
    u = jnp.sqrt(k)[:, None] * jnp.asarray(_rule()[0], k.dtype)
    return derivatives(phi, order, jnp.stack([u, -u]))


def _mean(f: Float[Array, "... signs inputs nodes"], nodes: slice = slice(None)) -> Float[Array, "... inputs"]:
    """E[f], or the share of some of the nodes in it."""
    return jnp.sum((f[..., 0, :, :] + f[..., 1, :, :])[..., nodes] * jnp.asarray(_rule()[1][nodes], f.dtype), -1)


@jax.jit
def _coefficients(f: Float[Array, "orders signs inputs nodes"]) -> Float[Array, "terms orders inputs"]:
    """a_m = Σ_n w_n h_m(z_n) (f(z_n) ± f(−z_n)) for m < TERMS, with the sign of h_m's parity.

    Compiled by itself, so that a program holds its matrix once.
    """
    project = lambda rows, part: jnp.einsum("mn,...n->m...", jnp.asarray(rows, f.dtype), part, precision="highest")
    even, odd = (project(rows, f[:, 0] + sign * f[:, 1]) for rows, sign in zip(_rule()[2:], (1, -1), strict=True))
    return jnp.stack([even, odd], 1).reshape(TERMS, *even.shape[1:])


def _unresolved(f: Float[Array, "... nodes"]) -> Float[Array, "..."]:
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
