"""Rematerialisation: stages whose activations are not kept for the backward pass.

Such a stage drops the activations of its blocks after the forward pass and computes
them again, from each block's input, when the block's gradient is due
(https://arxiv.org/abs/1604.06174). This saves memory for up to a third more arithmetic.
Parameters, dropout's draws and batch statistics stay those of the network itself;
numbers agree up to rounding.

A block is a module of the backbone whose call takes `train` (a bottleneck, an Inception
module, a dense layer; a convolution only with its batch normalisation, as in
Inception-v3's stem). Its stage is its name without its number or
letter: conv4_2 belongs to conv4, inception_4a to inception_4. A backbone of plain
layers has stages if it makes them in a method `stage` (models/vgg.py). Calls of both
pass images by position and everything else by keyword. On a CPU this saves memory only
in a program compiled with kernels.ops.compiler_options.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

ALL = "all"
AUTO = "auto"  # those that a budget of memory needs (remat_budget.py)


class Rematerialised:
    """Replaces `model` in training and computes the stages `names` twice."""

    def __init__(self, model, names):
        self._model, self._names = model, frozenset(names)

    def apply(self, *args, **kwargs):
        inside = False

        def intercept(call, args, kwargs, context):
            nonlocal inside
            stage = stage_of(context.module, context.method_name, kwargs)
            if inside or stage not in self._names:
                return call(*args, **kwargs)

            def again(module, *args):
                nonlocal inside
                inside = True  # `intercept` sees this call too.
                try:
                    return getattr(module, context.method_name)(*args, **kwargs)
                finally:
                    inside = False

            return nn.remat(again)(context.module, *args)

        with nn.intercept_methods(intercept):
            return self._model.apply(*args, **kwargs)


def rematerialised(model, names, shape):
    """Returns `model`, for images of `shape` [H, W, C], rematerialising some stages.

    `names` come from `stages(model, shape)`, or are "all" alone.

    Raises:
      ValueError: the network has no such stage; the message lists those it has.
    """
    known = stages(model, shape)
    if not known:
        raise ValueError(f"{type(model).__name__} has no stages to rematerialise")
    if tuple(names) == (ALL,):
        return Rematerialised(model, known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"{type(model).__name__} has no stage {name!r}; it has "
                f"{', '.join(known)}, or {ALL}"
            )
    return Rematerialised(model, names)


def stages(model, shape):
    """Returns the names of the stages that can be rematerialised, in order."""
    found = {}  # for its order

    def note(call, args, kwargs, context):
        stage = stage_of(context.module, context.method_name, kwargs)
        if stage:
            found[stage] = True
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        init = functools.partial(model.init, train=False)
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
    return list(found)


def stage_of(module, method, kwargs):
    """Returns the stage to which a method call belongs as a block, or None."""
    if method == "stage" and module.path == ("backbone",):
        return kwargs["name"]
    if method == "__call__" and module.path[:-1] == ("backbone",) and "train" in kwargs:
        return re.sub(r"(_\d+|(?<=\d)[a-z])$", "", module.name)
    return None
