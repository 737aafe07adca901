"""What a compiled program is made of, and how many are compiled."""

import jax

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **of: (
        COMPILED.append(of.get("fun_name")) if event.endswith("/backend_compile_duration") else None
    )
)


def compiled_by(f):
    """The names of the programs that a call of `f` has compiled, from a cache on disk or not."""
    COMPILED.clear()
    jax.block_until_ready(f())
    return list(COMPILED)


def equations(jaxpr):
    """All equations of a program, those of loops, branches and calls within included."""
    for equation in jaxpr.eqns:
        yield equation
        inner = lambda part: hasattr(part, "eqns") or hasattr(part, "jaxpr")
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=inner):
            if inner(part):
                yield from equations(getattr(part, "jaxpr", part))


def precisions(f, *arguments):
    """What each product of arrays in the program of f(*arguments) asks for: None, or a precision for either factor."""
    program = jax.make_jaxpr(f)(*arguments)
    products = ("dot_general", "conv_general_dilated")
    return [e.params["precision"] for e in equations(program.jaxpr) if e.primitive.name in products]
