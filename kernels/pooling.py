"""Pools in the form that XLA's CPU backend runs well, and `once`, which it needs.

A window and its strides are (height, width); `pads` are ((top, bottom), (left, right)).
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kernels.choice import choice

_ONCE = 2**24  # numbers in the image of a pool with disjoint windows, at most


def max_pool(x, window, strides, pads):
    """Takes the maximum over the windows that fit: [..., H, W, C] to [..., h, w, C].

    Padding is minus infinity. At a tie the first pixel, row by row, gets the gradient.
    """
    if choice.plain:
        x = jnp.pad(x, _pad_width(x, pads), constant_values=-jnp.inf)
        return nn.max_pool(x, window_shape=window, strides=strides)
    (top, below), (left, right) = (
        _whole_tiles(*sizes)
        for sizes in zip(x.shape[-3:-1], window, strides, pads, strict=True)
    )
    # A negative pad cuts off what no window sees.
    config = [(0, 0, 0)] * x.ndim
    config[-3:-1] = (top, below, 0), (left, right, 0)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), config)
    if window == strides:
        # It halves LeNet-5's step, but would cost VGG-16's a sixth more memory.
        x = once(x) if x.size <= _ONCE else x
        return _maximum(x, window, strides)
    # Pooling along the rows before across them gives a tie to the first row's first.
    x = once(_maximum(x, (1, window[1]), (1, strides[1])))
    return once(_maximum(x, (window[0], 1), (strides[0], 1)))


def avg_pool(x, window, strides, pads):
    """Takes the mean over the windows that fit: [..., H, W, C] to [..., h, w, C].

    Padding is zeros, which count in the mean.
    """
    if choice.plain:
        x, pads = jnp.pad(x, _pad_width(x, pads)), "VALID"
    elif _disjoint(x, window, strides, pads):
        return _windows(x, window).mean((-4, -2))
    return nn.avg_pool(x, window_shape=window, strides=strides, padding=pads)


def once(x):
    """Returns x and keeps XLA's CPU backend from computing it again for each user.

    That backend fuses a cheap operation into every operation that uses it, without
    limit: the sum at the end of a residual block becomes the sum of all blocks before.
    The same holds for the gradient.
    """
    if choice.plain:
        return x
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def _pad_width(x, pads):
    """Returns the pad_width of `jnp.pad` that pads H and W of [..., H, W, C]."""
    return [(0, 0)] * (x.ndim - 3) + [*pads, (0, 0)]


def _whole_tiles(size, window, stride, pads):
    """Returns pads with which windows end where a tile of `stride` pixels ends."""
    count = max(0, (size + sum(pads) - window) // stride + 1)
    tiles = count + -(-window // stride) - 1 if count else 0
    return pads[0], tiles * stride - size - pads[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _maximum(x, window, strides):
    """Takes the maximum over the windows of whole tiles (`_whole_tiles`).

    x is [..., H, W, C]. The gradient follows the number of the pixel that each window
    chose. XLA's own gradient (select and scatter) takes five times as long on a CPU and
    adds in no fixed order on a GPU. The gradient of a chain of selections would be a
    sum of as many arrays as a window has pixels.
    """
    return _first_maximum(x, window, strides)[0]


@_maximum.defjvp
def _maximum_jvp(window, strides, primals, tangents):
    y, chosen = _first_maximum(*primals, window, strides)
    # Without the barrier XLA computes the gradient anew in each of its users.
    tiles = _windows(once(*tangents), strides)
    *_, rows, _, columns, _, _ = tiles.shape
    *_, h, w, _ = y.shape
    below, right = rows - h, columns - w
    if window != strides:
        # With the barrier XLA keeps these bytes instead of x. Padded, they are read
        # without a condition, for which AVX2 has no instruction.
        pads = (below, below), (right, right)
        chosen = once(jnp.pad(chosen, _pad_width(chosen, pads)))
    chosen, never = jnp.expand_dims(chosen, (-4, -2)), math.prod(window)
    t = jnp.zeros_like(y)
    starts = itertools.product(*map(range, (0, 0), window, strides)) if y.size else ()
    for i, j in starts:
        row, column = i + np.arange(strides[0])[:, None], j + np.arange(strides[1])
        inside = (row < window[0]) & (column < window[1])
        number = np.where(inside, row * window[1] + column, never).astype(chosen.dtype)
        number = np.expand_dims(number[:, None, :, None], tuple(range(tiles.ndim - 4)))
        i, j = i // strides[0], j // strides[1]
        asked = lax.slice_in_dim(chosen, below - i, below - i + rows, axis=-5)
        asked = lax.slice_in_dim(asked, right - j, right - j + columns, axis=-3)
        seen = jnp.where(asked == number, tiles, 0)
        seen = lax.slice_in_dim(seen, i, i + h, axis=-5)
        t += lax.slice_in_dim(seen, j, j + w, axis=-3).sum((-4, -2))
    return y, t


def _first_maximum(x, window, strides):
    """Returns the maxima and, for each, the number of the first pixel that has it."""
    pixels = [
        column
        for row in _taps(x, x.ndim - 3, window[0], strides[0])
        for column in _taps(row, x.ndim - 2, window[1], strides[1])
    ]
    # A byte, unless the windows are large.
    kind = np.min_scalar_type(len(pixels))
    best, chosen = pixels[0], jnp.zeros(pixels[0].shape, kind)
    for number, pixel in enumerate(pixels[1:], 1):
        better = (pixel > best) | (pixel != pixel)  # A NaN stays, as in lax.max.
        best = jnp.where(better, pixel, best)
        chosen = jnp.where(better, kind.type(number), chosen)
    return best, chosen


def _taps(x, axis, window, stride):
    """Lists the first pixels of all windows along an axis, the second ones, ..."""
    if x.shape[axis] < window:  # No window fits.
        return [lax.slice_in_dim(x, 0, 0, axis=axis)]
    span = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(window)]


def _disjoint(x, window, strides, padding):
    """Whether the windows tile the image, so that a reshape separates them."""
    return (
        window == strides
        and not any(low or high for low, high in padding)
        and x.shape[-3] % window[0] == x.shape[-2] % window[1] == 0
    )


def _windows(x, window):
    """Reshapes [..., H, W, C] to [..., h, window, w, window, C]."""
    *batch, h, w, c = x.shape
    return x.reshape(*batch, h // window[0], window[0], w // window[1], window[1], c)
