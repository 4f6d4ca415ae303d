"""What the two stages of Faster R-CNN are trained towards, for one image.

The rules are of Section 3.1.2 of the paper, https://arxiv.org/abs/1506.01497, and of
Section 2.3 of Fast R-CNN, https://arxiv.org/abs/1504.08083, in the form of the authors'
py-faster-rcnn. Objects are padded to G boxes, of which `real` [G] says which can be
matched; crowds and padding cannot. Every array has a fixed shape, and masks say which
entries count. A sample depends on its key alone, so `jax.vmap` over images gives each
what it would have alone.

Differs from Caffe: an object that no anchor overlaps gets no anchor. There it gets all
the anchors that overlap nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from models.boxes import area, encode, intersection, iou

# Anchors whose IoU with an object is the largest up to this part are equally good. In
# float32 two equal overlaps can differ by some units of 6e-8.
ROUNDING = 1e-6
IN_CROWD = 0.7  # the share of a candidate's area


class AnchorTargets(NamedTuple):
    """The sampled anchors, S of A.

    index: int32 [S], their numbers; positive: bool [S], those on an object;
    deltas: [S, 4], the codes of the objects, 0 where not positive;
    sampled: bool [S], the entries that count.
    """

    index: jax.Array
    positive: jax.Array
    deltas: jax.Array
    sampled: jax.Array


class RoiTargets(NamedTuple):
    """The sampled regions of interest, S of them.

    rois: [S, 4]; classes: int32 [S], 0 for background, else 1 + the object's label;
    deltas: [S, 4], the weighted codes of the objects, 0 for background;
    sampled: bool [S], the entries that count.
    """

    rois: jax.Array
    classes: jax.Array
    deltas: jax.Array
    sampled: jax.Array


def assign_anchors(anchors, boxes, real, counts, positive=0.7, negative=0.3):
    """Says which anchors are on an object, and which on none; others do not train.

    An anchor is positive if its IoU with an object is at least `positive`, or the
    largest that the object has, ties included. Any other is negative if its IoU with
    each object is below `negative`.

    Args:
      anchors: [A, 4]; boxes: [G, 4].
      counts: bool [A], the anchors that may train, such as those inside the image.

    Returns:
      bool [A] positive, bool [A] negative, and int32 [A], the object of the largest IoU
      with each anchor, even where another object made it positive.
    """
    overlaps = jnp.where(counts[:, None] & real[None], iou(anchors, boxes), 0)
    best, most = overlaps.max(1), overlaps.max(0)[None]
    chosen = ((overlaps >= most * (1 - ROUNDING)) & (most > 0)).any(1)
    on = counts & (chosen | (best >= positive))
    return on, counts & ~on & (best < negative), overlaps.argmax(1)


def inside_crowd(candidates, boxes, crowd):
    """Says [N] which candidates have more than IN_CROWD of their area in a crowd.

    Such a candidate may be left out as a negative, as Detectron does for proposals.
    `crowd` [G] says which boxes are crowds.
    """
    shared = jnp.where(crowd[None], intersection(candidates, boxes), 0)
    return (shared > IN_CROWD * area(candidates)[:, None]).any(1)


def anchor_targets(
    key,
    anchors,
    boxes,
    real,
    counts,
    spared=None,
    *,
    size=256,
    most_positive=128,
    overlaps=(0.7, 0.3),
):
    """Samples the anchors that train the region proposal network.

    Args:
      counts: bool [A], as for `assign_anchors`, whose thresholds are `overlaps`.
      spared: bool [A], anchors that are no negatives; None means none.
      size, most_positive: as for `sample`.

    Returns:
      `AnchorTargets`.
    """
    anchors, boxes = jnp.asarray(anchors), jnp.asarray(boxes)
    on, off, match = assign_anchors(anchors, boxes, real, counts, *overlaps)
    off = off if spared is None else off & ~spared
    index, positive, sampled = sample(key, on, off, size, most_positive)
    deltas = encode(boxes[match[index]], anchors[index])
    return AnchorTargets(
        index, positive, jnp.where(positive[:, None], deltas, 0), sampled
    )


def roi_targets(
    key,
    proposals,
    there,
    boxes,
    labels,
    real,
    spared=None,
    *,
    size=128,
    most_positive=32,
    foreground=0.5,
    background=(0.0, 0.5),
    weights=(10.0, 10.0, 5.0, 5.0),
):
    """Samples the regions that train the second stage, from proposals and real objects.

    Args:
      proposals: [N, 4]; there: bool [N], the entries that are proposals.
      labels: int [G], from 0.
      spared: bool [N], proposals that are no background; None means none.
      size, most_positive: as for `sample`.
      foreground: the least IoU of a region with its object.
      background: a region is background if its largest IoU is in [low, high).
      weights: of the codes (models/boxes.py).

    Returns:
      `RoiTargets`. No gradient goes through the proposals.
    """
    boxes = jnp.asarray(boxes)
    rois = lax.stop_gradient(jnp.concatenate([proposals, boxes]))
    there = jnp.concatenate([there, real])
    overlaps = jnp.where(real[None], iou(rois, boxes), 0)
    best, match = overlaps.max(1), overlaps.argmax(1)
    low, high = background
    off = there & (best >= low) & (best < high)
    if spared is not None:
        off &= ~jnp.pad(spared, (0, len(boxes)))
    on = there & (best >= foreground)
    index, positive, sampled = sample(key, on, off, size, most_positive)
    rois, match = rois[index], match[index]
    deltas = encode(boxes[match], rois, weights)
    classes = jnp.where(positive, 1 + jnp.asarray(labels)[match], 0)
    deltas = jnp.where(positive[:, None], deltas, 0)
    return RoiTargets(rois, classes.astype(jnp.int32), deltas, sampled)


def sample(key, positive, negative, size, most_positive):
    """Samples without replacement: positives up to a number, and then negatives.

    Each candidate has a random priority, a function of the key and of its place.

    Args:
      positive, negative: bool [N], the candidates of either kind.

    Returns:
      int32 [size], the candidates, positives first; bool [size], which are positives;
      and bool [size], which entries count. The others are 0.
    """
    priority = jax.random.uniform(key, positive.shape)
    priority = jnp.pad(priority, (0, max(0, size - len(positive))))

    def best(kind, most):
        kind = jnp.pad(kind, (0, len(priority) - len(kind)))
        found, index = lax.top_k(jnp.where(kind, priority, -1), most)
        return index, found >= 0

    on, is_on = best(positive, min(most_positive, size))
    off, is_off = best(negative, size)
    counts = jnp.concatenate([is_on, is_off])
    order = jnp.argsort(~counts)[:size]  # stable: positives stay before negatives
    index, counts = jnp.concatenate([on, off])[order], counts[order]
    return jnp.where(counts, index, 0), jnp.arange(size) < is_on.sum(), counts
