"""The linear model's training under any loss, such as cross-entropy, in function space.

An equation for the coefficients a of ω = J₀ᵀ a, in continuous time. No parameters are in sight: a step
costs N²K for a kernel Θ ⊗ I_K and N²K² for a full one, however wide the network.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from lib.checks import as_array, check_floating, check_loss, check_scalar, check_symmetric, check_targets, known
from lib.programs import compiled_for
from lib.training.spectrum import as_matrix

Loss = Callable[[Array, Array], Array]
MAX_STEPS = 10**6


def evolve(
    loss: Loss,
    theta_xx: Float[Array, "n n *kk"],
    y: Float[Array, "n k"],
    f0_x: Float[Array, "n k"],
    steps: ArrayLike | list,
    learning_rate: ArrayLike = 1.0,
    momentum: ArrayLike | None = None,
    solver: Any = None,
    tolerance: float | None = None,
) -> Float[Array, "*t n k"]:
    """Trains the linear model in continuous time, under any loss L, by an ordinary differential equation.

    ȧ = −∂L/∂f(f₀ + Θa) over t = η · steps; with momentum ä = β̃ȧ − ∂L/∂f(f₀ + Θa), β̃ = (β − 1)/√η, over s = √η · steps

    Under squared loss this is what `flow` and `momentum_flow` give in closed form.

    Args:
        loss: `loss(f, y)` → the total loss, one number. A mean over N·K entries is the same run with the learning rate
            divided by N·K.
        theta_xx: Θ(X, X), (N, N) for Θ ⊗ I_K or (N, N, K, K).
        y: targets (N, K).
        f0_x: outputs at initialisation (N, K).
        steps: a finite number or an array of any shape; fractions are allowed.
        learning_rate: η > 0.
        momentum: β of the heavy ball, from 0 to 1; left out, gradient flow.
        solver: of Diffrax; left out, `diffrax.Dopri5()`. An explicit one takes about λ_max t/3 steps; where that is too
            many, as for ill-conditioned kernels at late times, `diffrax.Kvaerno5()` is implicit: fewer steps, of cost
            (N·K)³ each.
        tolerance: root mean square error per step that is allowed in the outputs; left out, √eps of their dtype.

    Returns:
        a, (..., N, K), with the shape of `steps` in front. Outputs are f₀(x) + `kernel_product`(Θ(x, X), a), and the
        weights' `weight_change`(net, params0, x, a). Inside `jit`, where nothing can be raised, NaN stands for each of
        the `steps` that the solver did not reach, and for those that are below 0 or not finite.

    Raises:
        ValueError: when shapes do not fit, Θ is not symmetric, the loss is not one number, a step is below 0 or not
            finite, or `learning_rate`, `momentum` or `tolerance` is out of range.
        TypeError: when an argument is not of its kind: `loss` no function, `learning_rate` no number.
        RuntimeError: when a million steps of the solver do not suffice.

    Example:
        >>> half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
        >>> one = jnp.ones((1, 1))
        >>> round(evolve(half_square, one, one, 0 * one, steps=2).item(), 3)  # 1 − e⁻²
        0.865

    Source: Lee et al. 2019, eqs 6-7, S3-S4 and S6-S11; Dopri5 as there.
    """
    theta_xx, y, f0_x = check_problem(loss, theta_xx, y, f0_x)
    steps = jnp.asarray(as_array("steps", steps), f0_x.dtype)
    if known(~(sound := _sound(steps)).all()):
        raise ValueError(f"`steps` must be 0 or more and finite, got {steps[~sound][0]}; an end has `flow(jnp.inf)`")
    rate = jnp.asarray(_positive("learning_rate", learning_rate), f0_x.dtype)
    tolerance = float(jnp.finfo(f0_x.dtype).eps) ** 0.5 if tolerance is None else _positive("tolerance", tolerance)
    times, friction = rate * steps, None
    if momentum is not None:
        momentum = jnp.asarray(check_scalar("momentum", momentum, least=0), f0_x.dtype)
        if known(momentum > 1):
            raise ValueError(f"`momentum` must be at most 1, got {momentum}")
        times, friction = rate**0.5 * steps, (1 - momentum) / rate**0.5
    if not steps.size or not f0_x.size:
        return jnp.zeros((*steps.shape, *f0_x.shape), f0_x.dtype)
    integrate = compiled_for(_integrate, (loss,), static=("solver",))
    a, finished = integrate(theta_xx, y, f0_x, times, friction, tolerance, solver=solver)
    if known(~finished):
        raise RuntimeError(
            f"`solver` did not reach {steps.max()} `steps` in {MAX_STEPS:,} of its own: for a stiff equation try "
            "solver=diffrax.Kvaerno5(), and see whether the loss is finite"
        )
    return a


def check_problem(loss: Loss, theta_xx: Any, y: Any, f0_x: Any) -> tuple[Array, Array, Array]:
    """Θ as a matrix and f₀ of one dtype, and the targets, or an error that names the argument."""
    y = check_targets(y, f0_x)
    theta_xx, f0_x = (
        check_floating(name, as_array(name, value)) for name, value in (("theta_xx", theta_xx), ("f0_x", f0_x))
    )
    n, k = y.shape
    if theta_xx.shape not in ((n, n), (n, n, k, k)):
        raise ValueError(f"`theta_xx` must have shape {(n, n)} or {(n, n, k, k)}, got {theta_xx.shape}; is it Θ(x, X)?")
    check_loss(loss, f0_x, y)
    dtype = jnp.result_type(theta_xx, f0_x)
    return check_symmetric("theta_xx", as_matrix(theta_xx)).astype(dtype), y, f0_x.astype(dtype)


def _sound(times: Array) -> Array:
    return jnp.isfinite(times) & (times >= 0)


def _positive(name: str, value: Any) -> Any:
    """A scalar above 0, where it is known."""
    value = check_scalar(name, value)
    if known(value <= 0):
        raise ValueError(f"`{name}` must be above 0, got {value}")
    return value


def multiplication(matrix: Float[Array, "n n"]) -> Callable[[Array], Array]:
    """a ↦ Θ(X, X) a for a (N, K), with Θ laid out as a matrix."""
    columns = lambda a: a if len(matrix) == len(a) else a.reshape(-1, 1)
    return lambda a: jnp.matmul(matrix, columns(a), precision="highest").reshape(a.shape)


@jax.default_matmul_precision("highest")  # of Diffrax too, which goes from its own steps to ours by a product
def _integrate(loss, theta_xx, y, f0_x, times, friction, tolerance, solver):
    import diffrax  # only here: it takes a second to import

    multiply = multiplication(theta_xx)
    force = lambda a: -jax.grad(loss)(f0_x + multiply(a), y)

    def field(time, state, args):
        a, *velocity = state
        return (force(a),) if friction is None else (velocity[0], force(a) - friction * velocity[0])

    sound = _sound(times)  # elsewhere there is no a, and no end to wait for
    until = jnp.where(sound, times, 0.0).ravel()
    order = jnp.argsort(until)
    start = (jnp.zeros_like(f0_x),) * (1 if friction is None else 2)
    # Without the solver's own `jit`, which would keep every field that it has seen alive, and with it the loss.
    solution = inspect.unwrap(diffrax.diffeqsolve)(
        diffrax.ODETerm(field),
        solver or diffrax.Dopri5(),
        t0=0.0,
        t1=until.max(),
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=until[order], fn=lambda time, state, args: state[0]),
        # |Θ δa| ≤ ‖Θ‖ |δa|: what the outputs may err by, the coefficients may by less.
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=tolerance / jnp.linalg.norm(theta_xx)),
        max_steps=MAX_STEPS,
        throw=False,
    )
    a = jnp.asarray(solution.ys)[jnp.argsort(order)].reshape(*times.shape, *f0_x.shape)
    reached = sound[..., None, None] & jnp.isfinite(a)  # Diffrax leaves inf where it did not come to
    return jnp.where(reached, a, jnp.nan), solution.result == diffrax.RESULTS.successful
