"""Stochastic diagonal Levenberg-Marquardt, the optimizer of LeNet-5.

LeCun, Bottou, Bengio, Haffner, 1998, appendix C. A parameter moves by its gradient
times lr / (mu + h), where h is its second derivative in the Gauss-Newton sense,
estimated on a few hundred patterns before each pass and kept during the pass.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

# An output element depends on the same element of each operand.
ELEMENTWISE = set(
    "abs add add_any convert_element_type copy cos div erf exp exp2 expm1 integer_pow "
    "log log1p logistic max min mul neg pow rsqrt sin sqrt square sub tanh".split()
)
# Linear in each operand while the others are held.
BILINEAR = {"conv_general_dilated", "dot_general"}
# An output element is an element of an operand, or a sum of several.
ROUTING = set(
    "broadcast_in_dim concatenate dynamic_slice expand_dims gather pad pixel_spread "
    "pixel_total reduce_max reduce_sum reduce_window_max reduce_window_sum reshape rev "
    "select_n slice split squeeze transpose".split()
)
# A primitive keeps a program of its own in one of these parameters.
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class DiagonalCurvatureState(NamedTuple):
    """`curvature` is a tree like the parameters; `update` does not change it."""

    curvature: optax.Params


def scale_by_diagonal_curvature(mu):
    """Divides each gradient by mu + its curvature, which is 0 until it is set.

    `mu` bounds the step where the curvature vanishes (the paper: 0.02).
    """

    def init(params):
        return DiagonalCurvatureState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **extra):
        del params, extra
        updates = jax.tree.map(lambda g, h: g / (mu + h), updates, state.curvature)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def sdlm(learning_rate, mu=0.02):
    """Stochastic diagonal Levenberg-Marquardt; `make_set_curvature` sets curvature."""
    return optax.chain(
        scale_by_diagonal_curvature(mu), optax.scale_by_learning_rate(learning_rate)
    )


def criterion_curvature(criterion, outputs, labels):
    """Returns the Hessian's diagonal of each example's `criterion` in its own outputs.

    `criterion(outputs, labels)` maps [B, D] and [B] to losses [B]; the result [B, D] is
    exact. For the criteria of LeNet-5 it is not negative (for eq. 8 it is 2).
    """

    def one(x, label):
        return criterion(x[None], label[None])[0]

    hessian = jax.vmap(jax.hessian(one))(outputs, labels)
    return jnp.diagonal(hessian, axis1=-2, axis2=-1)


def diagonal_gauss_newton(f, params, top):
    """The paper's second-order back-propagation: a tree like `params`, never negative.

    `f(params)` is [..., D], the outputs for a batch. `top` has the same shape and holds
    the criterion's second derivatives there (divided by the size of the batch, for a
    mean).
    From the top down, with u the weight of the connection from x to a:

        h(u) = h(a) x^2,   h(x) = sum over a of h(a) u^2,   h(a) = h(f(a)) f'(a)^2,

    and a weight that connections share has the sum of their h. This is the
    back-propagation of gradients with every coefficient squared, so `_run` reads the
    program of f backwards with squared coefficients. It leaves out f'' (Gauss-Newton)
    and the products of different paths from a weight to an output.

    Raises:
      NotImplementedError: f uses a primitive without a rule; the message names it.
    """
    leaves, tree = jax.tree.flatten(params)
    program = jax.make_jaxpr(lambda *x: f(jax.tree.unflatten(tree, x)))(*leaves)
    _, pull = _run(program.jaxpr, program.consts, leaves, [True] * len(leaves))
    curvature = [
        jnp.zeros_like(x) if h is None else h
        for x, h in zip(leaves, pull([top]), strict=True)
    ]
    return jax.tree.unflatten(tree, curvature)


def _run(jaxpr, consts, args, active):
    """Evaluates a program.

    Returns its outputs, and a function from their curvatures to the curvatures of the
    arguments, which are None for arguments that are not `active` or have no influence.
    """
    values = dict(zip(jaxpr.constvars + jaxpr.invars, [*consts, *args], strict=True))
    live = {var for var, flag in zip(jaxpr.invars, active, strict=True) if flag}

    def read(variables):
        return [
            var.val if isinstance(var, core.Literal) else values[var]
            for var in variables
        ]

    pulls = []
    for eqn in jaxpr.eqns:
        flags = [
            not isinstance(var, core.Literal) and var in live for var in eqn.invars
        ]
        results, pull = _apply(eqn, read(eqn.invars), flags)
        values.update(zip(eqn.outvars, results, strict=True))
        if any(flags):
            live.update(
                v for v in eqn.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)
            )
            pulls.append((eqn, pull))

    def pull_back(tops):
        found = {}

        def add(variables, curvatures):
            for var, h in zip(variables, curvatures, strict=True):
                if h is not None and not isinstance(var, core.Literal):
                    found[var] = found[var] + h if var in found else h

        add(jaxpr.outvars, tops)
        for eqn, pull in reversed(pulls):
            above = [found.pop(var, None) for var in eqn.outvars]
            if any(h is not None for h in above):
                add(eqn.invars, pull(above))
        return [found.get(var) for var in jaxpr.invars]

    return read(jaxpr.outvars), pull_back


def _apply(eqn, operands, active):
    """Evaluates one equation; returns what `_run` returns."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":  # A model has these for one function, a branch per platform.
        inner = params["branches"][-1]
        results, pull = _run(inner.jaxpr, inner.consts, operands[1:], active[1:])
        return results, lambda above: [None, *pull(above)]
    for field in PROGRAMS:
        if field in params:
            inner = params[field]
            if isinstance(inner, core.ClosedJaxpr):
                return _run(inner.jaxpr, inner.consts, operands, active)
            return _run(inner, (), operands, active)

    def bind(*values):
        results = eqn.primitive.bind(*values, **params)
        return results if eqn.primitive.multiple_results else [results]

    def pull(above):
        at = [jnp.square(x) for x in operands] if name in BILINEAR else operands
        below = [None] * len(operands)
        for i in (i for i, flag in enumerate(active) if flag):

            def outputs(x, i=i):
                return bind(*at[:i], x, *at[i + 1 :])

            if name in ELEMENTWISE:
                _, (slope,) = jax.jvp(outputs, (at[i],), (jnp.ones_like(at[i]),))
                below[i] = _sum_to(at[i], jnp.square(slope) * above[0])
            elif name in ROUTING or name in BILINEAR:
                results, transposed = jax.vjp(outputs, at[i])
                full = [
                    jnp.zeros_like(result) if h is None else h
                    for result, h in zip(results, above, strict=True)
                ]
                (below[i],) = transposed(full)
            else:
                raise NotImplementedError(
                    f"diagonal_gauss_newton has no rule for the primitive {name!r}"
                )
        return below

    return bind(*operands), pull


def _sum_to(x, h):
    """Returns the curvature of x, given that of x broadcast to the shape of h."""
    _, transposed = jax.vjp(lambda x: jnp.broadcast_to(x, h.shape), x)
    return transposed(h)[0]


def make_set_curvature(model, criterion, prepare):
    """Makes (state, images, labels) -> state with the curvature of those images.

    The criterion's own second derivatives are exact. They are taken in the logits, or
    in the classifier's inputs if it has no parameters (LeNet-5's RBF units).

    Args:
      criterion: maps logits [B, K] and labels [B] to losses [B].
      prepare: maps stored images to the network's input.
    """
    fixed_head = hasattr(model, "classify")

    def of_outputs(outputs, labels):
        if fixed_head:
            outputs = model.apply({}, outputs, method="classify")
        return criterion(outputs, labels)

    def set_curvature(state, images, labels):
        images = prepare({"image": images})

        def outputs(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            if fixed_head:
                return model.apply(variables, images, method="codes")
            return model.apply(variables, images, train=False)

        top = criterion_curvature(of_outputs, outputs(state.params), labels)
        curvature = diagonal_gauss_newton(outputs, state.params, top / len(labels))
        opt_state = optax.tree_utils.tree_set(state.opt_state, curvature=curvature)
        return state.replace(opt_state=opt_state)

    return set_curvature
