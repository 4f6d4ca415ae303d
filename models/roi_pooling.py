"""Pooling of regions of interest (RoIs): RoIPool and RoIAlign.

RoIPool is of Fast R-CNN (Girshick, 2015, Section 2.1), https://arxiv.org/abs/1504.08083,
with the rounding of its code in Caffe. RoIAlign is of Mask R-CNN (He et al., 2017,
Section 3), https://arxiv.org/abs/1703.06870, with the sampling of its authors' code.

Both take one image's map [H, W, C] and boxes [R, 4] of models/boxes.py in pixels of the
image, and return [R, P, P, C] for P x P bins; `jax.vmap` takes many images. The map's
pixels are `stride` image pixels apart. No gradient goes to the boxes.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def roi_pool(x, rois, bins, stride):
    """Takes the maximum over each bin, which is of whole pixels of the map; empty is 0.

    The gradient goes to a bin's first maximum, row by row. RoIs must lie inside the
    image: one that is longer than the map is cut to its side plus one pixel.
    """
    return _pool(x, rois, bins, stride)[0]


@roi_pool.defjvp
def _roi_pool_jvp(bins, stride, primals, tangents):
    y, pixel = _pool(*primals, bins, stride)
    pixels = tangents[0].reshape(-1, y.shape[-1])
    rows = pixel.reshape(-1, y.shape[-1])
    t = jnp.take_along_axis(pixels, jnp.maximum(rows, 0), 0).reshape(y.shape)
    return y, jnp.where(pixel < 0, 0, t)


def _pool(x, rois, bins, stride):
    """Returns the maxima, and the number of the pixel that each is from, or -1."""
    height, width, channels = x.shape
    pixels = jnp.asarray(x).reshape(-1, channels)

    def pool(edges):
        (top, below), (left, right) = edges
        across = (right - left).max()

        def take(i, best):
            row, column = (top + i // across)[:, None], (left + i % across)[None]
            there = (row < below[:, None]) & (column < right[None])
            number = jnp.where(there, row * width + column, 0)
            value, number = pixels[number], number[..., None]
            better = there[..., None] & ((value > best[0]) | jnp.isnan(value))
            return jnp.where(better, value, best[0]), jnp.where(better, number, best[1])

        shape = bins, bins, channels
        none = jnp.full(shape, -jnp.inf, x.dtype), jnp.full(shape, -1, jnp.int32)
        best, number = lax.fori_loop(0, (below - top).max() * across, take, none)
        return jnp.where(number < 0, 0, best), number

    rows = _edges(rois[:, 1], rois[:, 3], height, bins, stride)
    columns = _edges(rois[:, 0], rois[:, 2], width, bins, stride)
    # One RoI at a time stays in the processor's cache.
    return lax.map(pool, (rows, columns))


def _edges(low, high, side, bins, stride):
    """Returns the first pixel and the end of each bin along an axis, int32 [R, P] each.

    With s = round(low / stride), e = round(last / stride) for a box's last pixel, and
    b = (e - s + 1) / P in float32, bin i is [floor(i b), ceil((i + 1) b)) + s, cut to
    the map. These are read from tables that numpy makes: XLA turns a division by P into
    a multiplication by the rounded 1 / P, with which many a ceil is too large by one.
    """
    span = np.arange(side + 2, dtype=np.float32)[:, None]
    number = np.arange(bins + 1, dtype=np.float32)
    edges = number * (span / np.float32(bins))
    start, end = np.floor(edges[:, :-1]), np.ceil(edges[:, 1:])
    first, last = (
        lax.round(z * (1 / stride), lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)
        for z in (low, high - 1)
    )
    length = jnp.clip(last - first + 1, 1, side + 1)
    return tuple(
        jnp.clip(first[:, None] + jnp.asarray(table, jnp.int32)[length], 0, side)
        for table in (start, end)
    )


def roi_align(x, rois, bins, stride, samples=0, aligned=True, size=None):
    """Takes the mean of bilinear samples in each bin, as products with two matrices.

    Args:
      samples: samples per bin and axis; 0 takes as many as a bin has pixels of the map,
        rounded up. RoIs must then be no longer than the map.
      aligned: places the centre of the map's first pixel at half a stride, as
        Detectron2 does. Mask R-CNN's first code puts it at 0 and makes sides at least
        one pixel of the map.
      size: int [2], the rows and columns of the map that are not padding, none of which
        is sampled; None means all.
    """
    rois = lax.stop_gradient(rois)
    size = x.shape[:2] if size is None else size
    rows, columns = (
        _weights(rois[:, i], rois[:, i + 2], *sides, bins, stride, samples, aligned)
        for i, *sides in ((1, x.shape[0], size[0]), (0, x.shape[1], size[1]))
    )
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    y = product("rph,hwc->rpwc", rows, x)
    return product("rqw,rpwc->rpqc", columns, y).astype(x.dtype)


def _weights(low, high, side, own, bins, stride, samples, aligned):
    """Returns [R, P, side]: what each bin takes of the map's pixels along an axis.

    Of its `side` pixels the first `own` are the image's. A sample more than a pixel
    outside those counts as 0, and one nearer takes the pixel at the edge.
    """
    offset = 0.5 if aligned else 0.0
    start, end = low / stride - offset, high / stride - offset
    length = end - start if aligned else jnp.maximum(end - start, 1)
    length, start = length[:, None, None], start[:, None, None]
    number = jnp.arange(samples or math.ceil(side / bins))[None, None]
    # The length over P, rounded up, without XLA's rounding of 1 / P.
    count = samples or (length > bins * number).sum(-1, keepdims=True)
    divisor = jnp.maximum(count, 1)
    place = jnp.arange(bins)[None, :, None] + (number + 0.5) / divisor
    place = start + place * length / bins
    taken = (number < count) & (place >= -1) & (place <= own)
    distance = (
        jnp.clip(place, 0, own - 1)[..., None] - jnp.arange(side)[None, None, None]
    )
    hats = jnp.maximum(1 - jnp.abs(distance), 0)
    return jnp.where(taken[..., None], hats, 0).sum(2) / divisor
