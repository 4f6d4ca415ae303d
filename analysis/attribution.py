"""Finds the parts of an image that an answer rests on: Grad-CAM and occlusion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from analysis import stages


def grad_cam(model, variables, inputs, classes, stage):
    """Grad-CAM (Selvaraju et al., 2017, eq. 1 and 2, https://arxiv.org/abs/1610.02391).

    It weights each map of the stage by the mean gradient of the class's logit over the
    map's positions, adds them up and clips the sum at 0.

    Args:
      inputs: normalised images [B, H, W, C].
      classes: int [B], the class to explain for each image.
      stage: the index of a stage in `stages.Forward`.

    Returns:
      float32 [B, h, w], the stage's size.
    """

    def run(inputs):
        result = stages.forward(model, variables, inputs)
        return result.logits, result.stages[stage]

    values = run(inputs)[1]
    logits = _from(run, inputs, values)

    def score(values):
        return jnp.take_along_axis(logits(values), classes[:, None], axis=1).sum()

    gradient = jax.grad(score)(values).astype(jnp.float32)
    weights = gradient.mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * values.astype(jnp.float32)).sum(-1))


def _from(run, inputs, values):
    """The function from values to result inside `run(inputs) -> (result, values)`.

    It is cut out of the traced program, and so works wherever a network computes the
    values.
    """
    program = jax.make_jaxpr(run)(inputs)
    result, cut = program.jaxpr.outvars
    rest = program.jaxpr.replace(
        invars=[*program.jaxpr.invars, cut],
        outvars=[result],
        eqns=[e for e in program.jaxpr.eqns if cut not in e.outvars],
    )
    rest = jaxpr_as_fun(ClosedJaxpr(rest, program.consts))
    return lambda values: rest(inputs, values)[0]


@functools.partial(jax.jit, static_argnames="size")
def occluded(image, centres, size, fill):
    """Copies an image [H, W, C] with a square of `size` pixels at each centre [P, 2].

    The part of a square outside the image is cut off. `fill` is its colour: one number
    for all channels, or [C].
    """
    first = centres - size // 2

    def covers(length, start):
        places = jnp.arange(length)[None, :]
        return (places >= start[:, None]) & (places < start[:, None] + size)

    rows = covers(image.shape[0], first[:, 0])[:, :, None, None]
    columns = covers(image.shape[1], first[:, 1])[:, None, :, None]
    return jnp.where(rows & columns, fill, image[None])


def occlusion(probabilities, image, *, size, stride, fill, batch_size=64):
    """The classes' probabilities while a square slides over an image.

    The method is that of Zeiler and Fergus, 2013, Section 4.2 and Figure 7.

    Args:
      probabilities: a function from images [B, H, W, C] to [B, K]; it includes the
        normalisation, which therefore sees the square.
      image: one such image [H, W, C].
      size: the side of the square, in pixels.
      stride: its step, in pixels, fitted to the sides of the image: its centres are the
        middles of equal cells that cover the image.
      fill: the square's colour: one number for all channels, or [C].

    Returns:
      float32 [rows, columns, K].
    """
    axes = [_centres(n, max(1, round(n / stride))) for n in image.shape[:2]]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    centres = grid.reshape(-1, 2)
    # All batches have one size, so that one program runs them.
    padded = np.pad(centres, [(0, -len(centres) % batch_size), (0, 0)])
    found = [
        np.asarray(probabilities(occluded(image, part, size, fill)))
        for part in padded.reshape(-1, batch_size, 2)
    ]
    found = np.concatenate(found)[: len(centres)]
    return found.reshape(*grid.shape[:2], -1)


def _centres(length, number):
    """The pixels in the middle of `number` equal parts of `length` pixels."""
    return ((np.arange(number) + 0.5) * length / number).astype(int)
