"""Boxes as arrays [..., 4] of x1, y1, x2, y2 in pixels: geometry, coding and NMS.

Coordinates are continuous: the first pixel of an image is the box (0, 0, 1, 1), a
box's width is x2 - x1, and the image is the box (0, 0, width, height). Caffe and Pascal
VOC name a box by its first and last pixels and add 1 to every width. Such a box is
(x1, y1, x2 + 1, y2 + 1) here, with the same areas, overlaps and coding. A box whose x2
or y2 is not the larger coordinate has no area and overlaps nothing.
"""

import functools
import math

import jax.numpy as jnp
from jax import lax

# A decoded box is at most this much larger than its anchor, as a logarithm. The number
# is Detectron's: an anchor of 16 pixels may become an image of 1,000.
LARGEST = math.log(1000 / 16)
# Boxes that non-maximum suppression handles at a time.
BLOCK = 256


def area(boxes):
    """Returns the areas [...] of boxes [..., 4] in square pixels."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def intersection(a, b):
    """Returns the areas [N, M] that boxes [N, 4] and [M, 4] share."""
    a, b = a[:, None], b[None]
    corners = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    return area(jnp.concatenate(corners, -1))


def iou(a, b):
    """Returns intersection over union [N, M]; it is 0 where neither box has an area."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def inside(boxes, size):
    """Says [...] which boxes lie wholly in an image of size [2]: height, width."""
    height, width = size
    low = (boxes[..., 0] >= 0) & (boxes[..., 1] >= 0)
    return low & (boxes[..., 2] <= width) & (boxes[..., 3] <= height)


def clip(boxes, size):
    """Moves the corners that lie outside an image of size [2]: height, width."""
    height, width = size
    most = jnp.array([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, jnp.broadcast_to(most, boxes.shape))


def encode(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Returns the deltas [..., 4] that `decode` turns anchors into boxes with.

    They are dx, dy, dw, dh of Faster R-CNN's equation 2 times the weights. A box or an
    anchor without an area gives numbers that are not finite.
    """
    centre, size = _centre_and_size(boxes)
    own_centre, own_size = _centre_and_size(anchors)
    deltas = (centre - own_centre) / own_size, jnp.log(size / own_size)
    return jnp.concatenate(deltas, -1) * _row(weights, boxes)


def decode(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0), largest=LARGEST):
    """Returns the boxes [..., 4] that deltas [..., 4] make of anchors [..., 4].

    dw and dh are at most `largest`; the papers have no such limit, which is None.
    """
    deltas = deltas / _row(weights, deltas)
    shift, growth = deltas[..., :2], deltas[..., 2:]
    centre, size = _centre_and_size(anchors)
    if largest is not None:
        growth = jnp.minimum(growth, largest)
    centre, half = centre + shift * size, jnp.exp(growth) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def _centre_and_size(boxes):
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def _row(weights, boxes):
    return jnp.array(weights, boxes.dtype).reshape((1,) * (boxes.ndim - 1) + (4,))


def nms(boxes, scores, threshold, most, valid=None, classes=None):
    """Keeps the best boxes of which no two overlap: exact greedy suppression.

    A box is kept unless its IoU with a kept one of a higher score is above `threshold`.
    Of equal scores the first box counts as the higher. Boxes are handled in blocks, in
    the order of their scores; the loop ends as soon as `most` are kept.

    Args:
      boxes: [N, 4]; scores: [N].
      most: how many boxes are kept at most, K.
      valid: bool [N], the boxes that count; None means all.
      classes: int [N]; boxes of two classes do not suppress each other. None means that
        all are of one.

    Returns:
      The indices int32 [K] of the kept boxes by falling score, and bool [K], which of
      them are boxes. The others are 0.
    """
    boxes, count = jnp.asarray(boxes), len(scores)
    blocks = -(-count // BLOCK)
    valid = jnp.ones(count, bool) if valid is None else jnp.asarray(valid)
    classes = jnp.zeros(count, int) if classes is None else jnp.asarray(classes)
    order = jnp.argsort(jnp.where(valid, scores, -jnp.inf), descending=True)
    order = jnp.pad(order, (0, blocks * BLOCK - count)).astype(jnp.int32)
    valid = valid[order] & (jnp.arange(blocks * BLOCK) < count)
    same = functools.partial(_suppresses, boxes, classes, threshold)

    def more(state):
        block, _, found = state
        return (block < blocks) & (found < most)

    def advance(state):
        block, kept, found = state
        own = lax.dynamic_slice(order, [block * BLOCK], [BLOCK])
        there = lax.dynamic_slice(valid, [block * BLOCK], [BLOCK])
        before = same(kept, own) & (jnp.arange(most) < found)[:, None]
        keep = _greedy(there & ~before.any(0), jnp.triu(same(own, own), 1))
        place = jnp.where(keep, found + jnp.cumsum(keep) - 1, most)
        kept = kept.at[place].set(own, mode="drop")
        return block + 1, kept, found + keep.sum(dtype=jnp.int32)

    state = jnp.int32(0), jnp.zeros(most, jnp.int32), jnp.int32(0)
    _, kept, found = lax.while_loop(more, advance, state)
    return kept, jnp.arange(most) < found


def _suppresses(boxes, classes, threshold, a, b):
    """Says [n, m] which boxes of indices a [n] and b [m] cannot be kept together."""
    alike = classes[a][:, None] == classes[b][None]
    return (iou(boxes[a], boxes[b]) > threshold) & alike


def _greedy(candidates, suppresses):
    """Returns which candidates [n] are kept; `suppresses` [n, n] is above the diagonal.

    What is kept is the one solution of: a candidate is kept unless a kept one
    suppresses it. After step i the first i answers are final.
    """

    def step(state):
        kept, _ = state
        return candidates & ~(kept[:, None] & suppresses).any(0), kept

    def changed(state):
        return (state[0] != state[1]).any()

    return lax.while_loop(changed, step, step((candidates, candidates)))[0]
