"""The plateau schedule: the learning rate falls when evaluations stop improving."""

from typing import NamedTuple

import jax
import optax


class PlateauState(NamedTuple):
    """`plateau` is the state of optax.contrib.reduce_on_plateau."""

    plateau: optax.contrib.ReduceLROnPlateauState


def scale_by_plateau():
    """Multiplies updates by the scale that `observe` keeps in the state."""

    def init(params):
        return PlateauState(optax.contrib.reduce_on_plateau().init(params))

    def update(updates, state, params=None, **extra):
        del params, extra
        return jax.tree.map(lambda g: g * state.plateau.scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def observe(opt_state, value, *, factor, patience, min_factor=0.0):
    """Returns `opt_state` after an evaluation gave `value` (lower is better).

    After `patience` evaluations without improvement the scale is multiplied by
    `factor`, and never falls below `min_factor`.
    """
    rule = optax.contrib.reduce_on_plateau(
        factor=factor, patience=patience, min_scale=min_factor
    )
    _, plateau = rule.update({}, state_of(opt_state), value=value)
    return optax.tree_utils.tree_set(opt_state, plateau=plateau)


def scale_of(opt_state):
    """Fetches the factor of the learning rate from the device; 1 without the rule."""
    state = state_of(opt_state)
    return 1.0 if state is None else float(state.scale)


def state_of(opt_state):
    """Returns the state of the plateau rule in `opt_state`, or None."""
    return optax.tree_utils.tree_get(opt_state, "plateau")
