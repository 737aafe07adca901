"""Training of the linear model, against neural-tangents 0.6.5 and its own weights: `python -m benchmarks.dynamics`.

Float64 on both sides, one thread of LAPACK, and whole calls: an eigendecomposition where there is one, and outputs at
1,000 times. The rounds of both libraries take turns on the same machine, and the table has the medians over all. Errors
are against the same equation solved to 1e-11, mode by mode where the loss is squared. An integrator's time grows with
the number of training steps, 30,000 under momentum and 10,000 under cross-entropy; a closed form's does not.
"""

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import solve_ivp
from scipy.linalg import eigh, expm
from scipy.special import softmax

from benchmarks import peer
from benchmarks.timing import seconds
from lib import (
    decompose,
    descend,
    evolve,
    flow,
    fully_connected,
    kernel_product,
    linearize,
    momentum_flow,
    relu,
    train,
    train_outputs,
)

ROUNDS, TIMES = 3, 1000
PEER = Path(__file__).parent / "peers" / "dynamics_neural_tangents.py"
# Examples, outputs, momentum, the last step at η = 1/λ_max, and the largest ratio of times that passes.
CASES = {
    "momentum": (512, 1, 0.9, 30_000.0, 0.02),
    "squared": (1024, 1, None, 1000.0, 1.1),
    "cross-entropy": (512, 10, None, 10_000.0, 1.0),
}


def main() -> None:
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # its threads wait by spinning, and on a busy machine for long
        command = [sys.executable, "-m", "benchmarks.dynamics"]
        os.execve(sys.executable, command, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    jax.config.update("jax_enable_x64", True)
    ours, theirs = {name: [] for name in CASES}, {name: [] for name in CASES}
    problems = {name: problem(*case) for name, case in CASES.items()}
    errors = {}
    for _ in range(ROUNDS):
        for name, (_, k, beta, last, _) in CASES.items():
            theta, y, f0_x, eta, steps = problems[name]
            task = dict(n=len(y), k=k, momentum=beta, rate=eta, last=last, times=TIMES)
            result = peer.run("neural-tangents", PEER, name=name, **task)
            theirs[name] += result["seconds"]
            f, own = timed(SOLVERS[name], theta, y, f0_x, eta, steps, beta)
            ours[name] += own
            chosen = np.linspace(0, TIMES - 1, 9).astype(int)[1:]
            exact = truth(name, theta, y, f0_x, eta, np.asarray(steps)[chosen], beta)
            errors[name] = [abs(np.asarray(g) - exact).max() for g in (f[chosen], result["outputs"])]
    print(" training under   N   K      ours      peer  ratio  asked  our error  its error")
    failed = []
    for name, (n, k, _, _, asked) in CASES.items():
        mine, other = np.median(ours[name]), np.median(theirs[name])
        print(
            f"{name:>15} {n:4d} {k:3d} {mine:8.3f}s {other:8.3f}s {mine / other:6.3f} {asked:6.2f}   "
            "{:8.1e}   {:8.1e}".format(*errors[name])
        )
        failed += [name] if mine / other > asked or (name != "squared" and errors[name][0] > errors[name][1]) else []
    failed += weights_against_coefficients()
    if failed:
        raise SystemExit(f"slower than asked, or less accurate: {', '.join(failed)}")


def problem(n: int, k: int, beta: float | None, last: float, asked: float) -> tuple[Any, ...]:
    """A kernel and targets by formulas that the peer repeats, a stable learning rate, and the steps to look at."""
    i, j = np.arange(n)[:, None], np.arange(16)
    x = np.cos(0.7 * i + 1.3 * j + 0.01 * i * j)
    theta = np.exp(-((x[:, None] - x) ** 2).sum(-1) / 16) + 0.1 * np.eye(n)
    y = np.eye(k)[np.arange(n) % k] if k > 1 else np.sin(1.0 * i)
    f0_x = np.cos(i + np.arange(k))
    eta = 1 / np.linalg.eigvalsh(theta)[-1]
    return *map(jnp.asarray, (theta, y, f0_x)), float(eta), jnp.geomspace(1, last, TIMES)


def cross_entropy(f: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy(f, y).sum()


SOLVERS = {
    "momentum": lambda theta, y, f0_x, eta, steps, beta: train_outputs(
        decompose(theta), momentum_flow(eta**0.5 * steps, momentum=beta, learning_rate=eta), y, f0_x
    ),
    "squared": lambda theta, y, f0_x, eta, steps, _: train_outputs(decompose(theta), flow(eta * steps), y, f0_x),
    "cross-entropy": lambda theta, y, f0_x, eta, steps, _: (
        # A tolerance at which the outputs err by as much as the peer's do at its own.
        f0_x + kernel_product(theta, evolve(cross_entropy, theta, y, f0_x, steps, eta, tolerance=2.5e-8))
    ),
}


def truth(name: str, theta: Any, y: Any, f0_x: Any, eta: float, steps: np.ndarray, beta: float | None) -> np.ndarray:
    if name == "cross-entropy":
        field = lambda t, f: -np.asarray(theta @ (softmax(f.reshape(y.shape), axis=1) - y)).ravel()
        solved = solve_ivp(field, (0, eta * steps[-1]), np.ravel(f0_x), "DOP853", eta * steps, rtol=1e-11, atol=1e-11)
        return solved.y.T.reshape(len(steps), *y.shape)
    modes, v = eigh(theta)
    drag = 0.0 if beta is None else (1 - beta) / eta**0.5
    companion = lambda lam: np.array([[0, 1], [-lam, -drag]])
    left = lambda lam, i: np.exp(-eta * i * lam) if beta is None else expm(eta**0.5 * i * companion(lam))[0, 0]
    g = np.array([[left(lam, i) for lam in modes] for i in steps])
    return np.asarray(y) + v @ (g[..., None] * (v.T @ np.asarray(f0_x - y)))


def weights_against_coefficients(width: int = 2048, n: int = 256, k: int = 10) -> list[str]:
    """Seconds a step, under cross-entropy, of the linearised network's weights and of the coefficients a; float32."""
    net = fully_connected(width, 3, k, relu, W_std=2**0.5, b_std=0.1)
    x = jax.random.normal(jax.random.key(0), (n, 784), jnp.float32)
    y, sgd = jnp.eye(k, dtype=jnp.float32)[jnp.arange(n) % k], optax.sgd(1e-3, momentum=0.9)
    params = net.init(jax.random.key(1), x)
    f0_x, theta, f_lin = net.apply(params, x), net.kernel(x).ntk, linearize(net, params)
    full = jnp.einsum("nm,kl->nmkl", theta, jnp.eye(k, dtype=jnp.float32))  # the size of a finite network's kernel
    step = {
        "weights of a 3×2048 network": per_step(
            lambda i: train(f_lin, params, cross_entropy, sgd, x, y, i).params, 1, 3
        ),
        "coefficients, Θ̂ (N, N, K, K)": per_step(lambda i: descend(cross_entropy, full, y, f0_x, i, sgd), 10, 210),
        "coefficients, Θ ⊗ I_K": per_step(lambda i: descend(cross_entropy, theta, y, f0_x, i, sgd), 10, 2010),
    }
    print(f"\nseconds a step, N = {n}, K = {k}, cross-entropy with momentum")
    base = step["weights of a 3×2048 network"]
    for name, each in step.items():
        print(f"{name:>30} {each:10.6f}s {each / base:8.5f} of the first")
    return [name for name, each in step.items() if name.startswith("coefficients") and each / base > 0.01]


def per_step(run: Any, few: int, many: int) -> float:
    """The difference between many steps and few, so that what a call costs besides its steps drops out."""
    short, long = (np.median(timed(run, steps)[1]) for steps in (few, many))
    return float(long - short) / (many - few)


def timed(f: Any, *arguments: Any) -> tuple[Any, list[float]]:
    """What a call returns, and the seconds of several such calls."""
    program = jax.jit(f, static_argnums=tuple(i for i, a in enumerate(arguments) if not isinstance(a, jax.Array)))
    call = lambda: jax.block_until_ready(program(*arguments))
    return call(), seconds(call)


if __name__ == "__main__":
    main()
