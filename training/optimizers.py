"""Optimizers by name: optax's, and a few of our own.

optax.sgd has torch's momentum, v <- m v + g, w <- w - rate v. AlexNet's paper and Caffe
have the rate inside, v <- m v + rate g, which differs after a change of the rate.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import optax

from training import plateau as plateau_rule
from training import sdlm


def make_optimizer(
    name,
    schedule,
    *,
    kwargs,
    weight_decay=0.0,
    decay_mask="all",
    clip_norm=0.0,
    plateau=False,
    rate_factors=(),
    unfreeze=(),
    filter_rms=(),
):
    """Makes the transformation called `name` (of OWN or optax) with its learning rate.

    It clips the gradient, adds L2 decay unless the optimizer decays by itself, applies
    the optimizer, the plateau's factor and the parameters' own factors, zeroes the
    updates of what is still frozen, and limits the filters, in this order.
    """
    make = constructor(name)
    accepted = inspect.signature(make).parameters
    kwargs = dict(kwargs)
    mask = None if decay_mask == "all" else _is_kernel
    parts = []
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if mask and {"mask", "weight_decay_mask"} & accepted.keys():
        kwargs["mask" if "mask" in accepted else "weight_decay_mask"] = mask
    if "weight_decay" in accepted:
        kwargs["weight_decay"] = weight_decay
    elif isinstance(weight_decay, jax.Array) or weight_decay:  # traced, in a sweep
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    parts.append(make(schedule, **kwargs))
    if plateau:
        parts.append(plateau_rule.scale_by_plateau())
    if rate_factors:
        parts.append(scale_by_path(rate_factors))
    if unfreeze:
        parts.append(unfreeze_at(unfreeze))
    if filter_rms:
        parts.append(limit_filters(filter_rms))
    return optax.chain(*parts)


def lars(
    learning_rate,
    momentum=0.9,
    weight_decay=0.0,
    mask=None,
    trust_coefficient=0.001,
    eps=0.0,
):
    """LARS (You, Gitman, Ginsburg, 2017), https://arxiv.org/abs/1708.03888, as MLPerf.

        trust = coefficient |w| / (|g| + decay |w| + eps), or 1 if |w| or |g| is 0
        v <- momentum v - rate trust (g + decay w);  w <- w + v

    This holds for each array of parameters. Parameters that `mask` (parameters ->
    booleans) leaves out have neither trust nor decay. optax.lars divides by
    |g + decay w| instead.
    """

    def adapt(g, w):
        w_norm, g_norm = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
        trust = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + eps)
        trust = jnp.where((w_norm > 0) & (g_norm > 0), trust, 1.0)
        return trust * (g + weight_decay * w)

    adapted = optax.stateless_with_tree_map(adapt)
    return optax.chain(
        optax.masked(adapted, mask) if mask else adapted,
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum),
    )


def lamb(learning_rate, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0, mask=None):
    """LAMB (You et al., 2019), https://arxiv.org/abs/1904.00962, as timm has it.

    Parameters that `mask` (parameters -> booleans) leaves out do not decay, and their
    step is not scaled to the size of the parameters; optax.lamb's mask affects only the
    decay.
    """
    trust = optax.scale_by_trust_ratio()
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(trust, mask) if mask else trust,
        optax.scale_by_learning_rate(learning_rate),
    )


OWN = {"sdlm": sdlm.sdlm, "lars": lars, "lamb": lamb}


def constructor(name):
    """Returns the function of a learning rate and more that makes optimizer `name`."""
    return OWN.get(name) or getattr(optax, name)


def paths(params):
    """Returns the names of all parameters, such as "backbone/conv1/kernel"."""
    return [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _path(keys):
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _first(rules, keys):
    """Returns the value of the first (expression, value) found in a path, or None."""
    found = (value for expression, value in rules if re.search(expression, _path(keys)))
    return next(found, None)


def scale_by_path(factors):
    """Multiplies updates by the first (expression, factor) that matches their path."""

    def scale(keys, update):
        factor = _first(factors, keys)
        if factor == 0:
            return jnp.zeros_like(update)
        return update if factor is None else update * factor

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
    )


def unfreeze_at(releases):
    """Zeroes updates until step n of the first (expression, n) that matches their path.

    The optimizer averages its moments and momentum from the first step on.
    """

    def label(keys, param):
        release = _first(releases, keys)
        return "free" if release is None else str(release)

    def released(step):
        # A product with 0 would let a gradient that is not finite change a parameter.
        def update(updates, count):
            return jax.tree.map(lambda u: jnp.where(count < step, 0, u), updates)

        return optax.GradientTransformation(
            lambda params: jnp.zeros((), jnp.int32),
            lambda updates, count, params=None: (update(updates, count), count + 1),
        )

    parts = {str(step): released(step) for _, step in releases}
    parts["free"] = optax.identity()
    return optax.multi_transform(
        parts, lambda params: jax.tree_util.tree_map_with_path(label, params)
    )


def limit_filters(limits):
    """Scales back each filter whose root mean square would exceed its limit.

    ZFNet does this (Zeiler, Fergus, 2013, Section 3.1). `limits` are (expression,
    limit); a filter is all the weights of one output, kernel[..., k]. A kernel whose
    update is zero, since it is frozen, stays as it is.
    """

    def limited(keys, update, kernel):
        limit = _first(limits, keys)
        if limit is None:
            return update
        new = kernel + update
        axes = tuple(range(new.ndim - 1))
        rms = jnp.sqrt(jnp.square(new).mean(axes, keepdims=True))
        scaled = new * jnp.minimum(1.0, limit / rms) - kernel
        return jnp.where(jnp.any(update != 0), scaled, update)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(
            limited, updates, params
        )
    )


def _is_kernel(params):
    """Returns True for what multiplies activations; biases and scales are vectors."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
