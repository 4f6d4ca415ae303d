"""Pools in the form that XLA's CPU backend runs well, and `once`, which it needs.

A window and its strides are (height, width), `pads` ((top, bottom), (left, right)).
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kernels.choice import choice

_ONCE = 2**24  # numbers in the image of a pool with disjoint windows, at most


def max_pool(x, window, strides, pads):
    """Maximum over the windows that fit: [..., H, W, C] to [..., h, w, C].

    Padding is minus infinity. At a tie the first pixel, row by row, has the gradient.
    """
    if choice.plain:
        x = jnp.pad(x, _pad_width(x, pads), constant_values=-jnp.inf)
        return nn.max_pool(x, window_shape=window, strides=strides)
    (top, below), (left, right) = (
        _whole_tiles(*sizes)
        for sizes in zip(x.shape[-3:-1], window, strides, pads, strict=True)
    )
    # Negative: what no window sees is cut off.
    config = [(0, 0, 0)] * x.ndim
    config[-3:-1] = (top, below, 0), (left, right, 0)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), config)
    if window == strides:
        # It halves LeNet-5's step, but would cost VGG-16's a sixth more memory.
        x = once(x) if x.size <= _ONCE else x
        return _maximum(x, window, strides)
    # Along the rows, then across them: a tie is won by the first row's first.
    x = once(_maximum(x, (1, window[1]), (1, strides[1])))
    return once(_maximum(x, (window[0], 1), (strides[0], 1)))


def avg_pool(x, window, strides, pads):
    """Mean over the windows that fit, [..., H, W, C] to [..., h, w, C].

    Padding is zeros, which count in the mean.
    """
    if choice.plain:
        x, pads = jnp.pad(x, _pad_width(x, pads)), "VALID"
    elif _disjoint(x, window, strides, pads):
        return _windows(x, window).mean((-4, -2))
    return nn.avg_pool(x, window_shape=window, strides=strides, padding=pads)


def once(x):
    """x, which XLA's CPU backend computes once, not anew for each of its users.

    It joins cheap operations to each of their users, without an end: the sum at the end
    of a residual block becomes that of all blocks before. The same holds for gradients.
    """
    if choice.plain:
        return x
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def _pad_width(x, pads):
    """`jnp.pad`'s for `pads` of H and W of [..., H, W, C]."""
    return [(0, 0)] * (x.ndim - 3) + [*pads, (0, 0)]


def _whole_tiles(size, window, stride, pads):
    """`pads` of an axis with which windows end where a tile of `stride` pixels ends."""
    count = max(0, (size + sum(pads) - window) // stride + 1)
    tiles = count + -(-window // stride) - 1 if count else 0
    return pads[0], tiles * stride - size - pads[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _maximum(x, window, strides):
    """Maximum over the windows of an [..., H, W, C] of whole tiles (`_whole_tiles`).

    The gradient goes by the number of the pixel that each window chose. XLA's (select
    and scatter) takes five times as long on a CPU, and on a GPU adds in no fixed order;
    that of a chain of selections is a sum of as many arrays as a window has pixels.
    """
    return _first_maximum(x, window, strides)[0]


@_maximum.defjvp
def _maximum_jvp(window, strides, primals, tangents):
    y, chosen = _first_maximum(*primals, window, strides)
    *_, h, w, _ = y.shape
    chosen = jnp.expand_dims(chosen, (-4, -2))
    # Without the barrier XLA computes the gradient anew in each of its users.
    tiles = _windows(once(*tangents), strides)
    t = jnp.zeros_like(y)
    starts = itertools.product(*map(range, (0, 0), window, strides)) if y.size else ()
    for i, j in starts:
        row, column = i + np.arange(strides[0])[:, None], j + np.arange(strides[1])
        # Pixels right of the window would have numbers of its next row.
        number = np.where(column < window[1], row * window[1] + column, -1)
        number = np.expand_dims(number[:, None, :, None], tuple(range(tiles.ndim - 4)))
        seen = lax.slice_in_dim(tiles, i // strides[0], i // strides[0] + h, axis=-5)
        seen = lax.slice_in_dim(seen, j // strides[1], j // strides[1] + w, axis=-3)
        t += jnp.where(chosen == number, seen, 0).sum((-4, -2))
    return y, t


def _first_maximum(x, window, strides):
    """(maximum over the windows, the number of the first of its pixels that has it)."""
    pixels = [
        column
        for row in _taps(x, x.ndim - 3, window[0], strides[0])
        for column in _taps(row, x.ndim - 2, window[1], strides[1])
    ]
    best, chosen = pixels[0], jnp.zeros(pixels[0].shape, jnp.int32)
    for number, pixel in enumerate(pixels[1:], 1):
        better = (pixel > best) | (pixel != pixel)  # A NaN stays, as in lax.max.
        best = jnp.where(better, pixel, best)
        chosen = jnp.where(better, number, chosen)
    return best, chosen


def _taps(x, axis, window, stride):
    """The first pixels of all windows on an axis, their second pixels, ..."""
    if x.shape[axis] < window:  # None fits.
        return [lax.slice_in_dim(x, 0, 0, axis=axis)]
    span = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(window)]


def _disjoint(x, window, strides, padding):
    """Whether windows tile the image, so that reshaping it lays them apart."""
    return (
        window == strides
        and not any(low or high for low, high in padding)
        and x.shape[-3] % window[0] == x.shape[-2] % window[1] == 0
    )


def _windows(x, window):
    """[..., H, W, C] to [..., h, window, w, window, C]."""
    *batch, h, w, c = x.shape
    return x.reshape(*batch, h // window[0], window[0], w // window[1], window[1], c)
