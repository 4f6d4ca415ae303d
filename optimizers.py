"""Learning-rate schedules and optimizers by name: optax's, and `sdlm`."""

import fractions
import inspect
from typing import NamedTuple

import jax
import optax

import sdlm


def exact_steps(epochs, epoch_steps):
    """`epochs` in steps as a Fraction, with 0.1 meaning 1/10."""
    return fractions.Fraction(str(epochs)) * epoch_steps


def in_steps(epochs, epoch_steps):
    """The number of whole steps in `epochs`, nearest."""
    return round(exact_steps(epochs, epoch_steps))


def make_schedule(
    *,
    name,
    rate,
    epoch_steps,
    total_steps,
    warmup_epochs,
    warmup_factor,
    boundaries,
    factors,
    end_factor,
    power,
    decay_rate,
    decay_epochs,
    staircase,
    patience,
):
    """step -> learning rate, for the fields of `config.schedule`.

    `rate` is the learning rate that factors refer to, `epoch_steps` the steps per epoch
    as a Fraction.
    """
    del patience  # of the plateau, whose factor is kept in the optimizer's state
    warmup = in_steps(warmup_epochs, epoch_steps)
    after = max(total_steps - warmup, 1)
    if name == "step":
        # Epochs count from the start of the training, not from the end of the warm-up.
        starts = [in_steps(e, epoch_steps) - warmup for e in boundaries]
        pieces = [optax.constant_schedule(rate * f) for f in (1.0, *factors)]
        main = optax.join_schedules(pieces, starts)
    elif name == "polynomial":
        main = optax.polynomial_schedule(rate, rate * end_factor, power, after)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(rate, after, end_factor)
    elif name == "exponential":
        steps = in_steps(decay_epochs, epoch_steps)
        main = optax.exponential_decay(rate, steps, decay_rate, staircase=staircase)
    else:
        main = optax.constant_schedule(rate)
    if not warmup:
        return main
    ramp = optax.linear_schedule(rate * warmup_factor, rate, warmup)
    return optax.join_schedules([ramp, main], [warmup])


def make_optimizer(
    name,
    schedule,
    *,
    kwargs,
    weight_decay=0.0,
    decay_mask="all",
    clip_norm=0.0,
    plateau=False,
):
    """The optax transformation called `name`, or `sdlm`, with its learning rate.

    In this order: the gradient is clipped, L2 decay is added to it unless the optimizer
    decays by itself, the optimizer, the plateau's factor.
    """
    make = sdlm.sdlm if name == "sdlm" else getattr(optax, name)
    accepted = inspect.signature(make).parameters
    kwargs = dict(kwargs)
    mask = None if decay_mask == "all" else _is_kernel
    parts = []
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if "weight_decay" in accepted:
        kwargs["weight_decay"] = weight_decay
        if mask and {"mask", "weight_decay_mask"} & accepted.keys():
            kwargs["mask" if "mask" in accepted else "weight_decay_mask"] = mask
    elif isinstance(weight_decay, jax.Array) or weight_decay:  # traced, in a sweep
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    parts.append(make(schedule, **kwargs))
    if plateau:
        parts.append(scale_by_plateau())
    return optax.chain(*parts)


def _is_kernel(params):
    """True for what multiplies activations; biases, norms and scales are vectors."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


class PlateauState(NamedTuple):
    """`plateau` is the state of optax.contrib.reduce_on_plateau."""

    plateau: optax.contrib.ReduceLROnPlateauState


def scale_by_plateau():
    """Multiplies updates by the scale that `observe_plateau` keeps in the state."""

    def init(params):
        return PlateauState(optax.contrib.reduce_on_plateau().init(params))

    def update(updates, state, params=None, **extra):
        del params, extra
        return jax.tree.map(lambda g: g * state.plateau.scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def observe_plateau(opt_state, value, *, factor, patience):
    """`opt_state` after an evaluation gave `value` (lower is better).

    After `patience` evaluations without improvement the scale is multiplied by
    `factor`.
    """
    rule = optax.contrib.reduce_on_plateau(factor=factor, patience=patience)
    _, plateau = rule.update({}, plateau_of(opt_state), value=value)
    return optax.tree_utils.tree_set(opt_state, plateau=plateau)


def plateau_of(opt_state):
    """The state of the plateau rule in `opt_state`; None where there is none."""
    return optax.tree_utils.tree_get(opt_state, "plateau")
