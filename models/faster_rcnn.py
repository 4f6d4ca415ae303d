"""Faster R-CNN (Ren, He, Girshick, Sun, 2015), https://arxiv.org/abs/1506.01497.

It is built on a ResNet as in Appendix A of https://arxiv.org/abs/1512.03385. conv1 to
conv4_x see the whole image. A region proposal network (RPN) on their map proposes
boxes, and conv5_x sees what RoI pooling takes of the map for each of them.

Differs from the paper: a proposal's least side is in pixels of the resized image, where
the authors' code (py-faster-rcnn) has it in pixels of the original one. A decoded box
is at most 62.5 times as large as its anchor (models/boxes.py). At equal scores around
the last detection, fewer are kept. Five fields make Detectron2's form of the network
(https://github.com/facebookresearch/detectron2): `rpn_channels=1024` are as many as
conv4_x has, `objectness="sigmoid"` has one score per anchor, `pooling="align"` is
RoIAlign, `box_outputs="classes"` leaves out the boxes of the background, and
`anchor_style="centred"` does not round. `agnostic` boxes are of R-FCN
(https://arxiv.org/abs/1605.06409).

Three rows of Table 9 of the ResNet paper are here: box refinement (`refine`, `voting`),
context (`context`), and tests at several scales (`scaled` of a call). The paper leaves
open which class's box refines a region, the overlap of votes, which two scales a region
is seen at, and whether their maximum comes before the mean over positions, as it does
here.

Images of a batch are padded below and right. The map is set to 0 outside an image,
and no anchor or proposal starts there. Within an image, the convolutions up to conv4_x
still see a little of the padding near its edges, and batch normalisation that trains
averages over the padding too.

Counts: tests/models/faster_rcnn_test.py; the twin of torchvision's parts:
tests/parity/faster_rcnn_test.py.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kernels import ops
from models import anchors, boxes, checks, resnet
from models.layers import Conv
from models.roi_pooling import roi_align, roi_pool

# Pixels of an image between neighbours of the map of conv4_x.
STRIDE = 16
# The stages that see the whole image.
TRUNK = ("conv1", "conv2_x", "conv3_x", "conv4_x")
# Scales of an image at which a region is seen, where there are more.
SCALES = 2
OBJECTNESS = ("softmax", "sigmoid")
POOLINGS = {"pool": roi_pool, "align": roi_align}
# Boxes that the second stage codes for each region, by the number of classes.
BOX_OUTPUTS = {
    "background": lambda classes: classes + 1,
    "classes": lambda classes: classes,
    "agnostic": lambda classes: 1,
}
# Fields of FasterRCNN that may differ between training and testing.
TESTED = (
    "pre_nms post_nms proposal_nms min_size min_score nms max_detections refine voting"
).split()


class Detections(NamedTuple):
    """What is found in images: at most D objects in each, by falling score.

    boxes: [B, D, 4] in pixels of the input, inside the image; scores: [B, D];
    labels: int32 [B, D], from 0; there: bool [B, D], the entries that are detections.
    The others are 0.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    there: jax.Array


class RegionProposalNetwork(nn.Module):
    """Section 3.1: scores and codes boxes for the anchors of each position of a map."""

    anchors: int  # at each position
    channels: int
    objectness: str  # of OBJECTNESS
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """[B, h, w, C] to logits [B, A] and deltas [B, A, 4], A = h * w * anchors.

        A logit is of an anchor being on an object. Of the softmax's two scores, which
        are first all anchors' background and then all anchors' object, it is the
        difference.
        """
        conv = functools.partial(
            Conv, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, padding=0
        )
        x = ops.relu(conv(self.channels, 3, padding=1, name="conv")(x))
        scores = 2 if self.objectness == "softmax" else 1
        logits = _full(conv(scores * self.anchors, 1, name="cls")(x))
        deltas = _full(conv(4 * self.anchors, 1, name="reg")(x))
        if self.objectness == "softmax":
            background, on_object = jnp.split(logits, 2, -1)
            logits = on_object - background
        return logits.reshape(x.shape[0], -1), deltas.reshape(x.shape[0], -1, 4)


class RegionHead(nn.Module):
    """Fast R-CNN's two sibling layers: class scores and box codes."""

    num_classes: int
    num_boxes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """[R, C] to logits [R, num_classes + 1] and deltas [R, num_boxes, 4]."""

        def dense(features, std, name):
            init = nn.initializers.normal(std)
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        logits = dense(self.num_classes + 1, 0.01, "cls")(x)
        deltas = dense(4 * self.num_boxes, 0.001, "reg")(x)
        return _full(logits), _full(deltas).reshape(x.shape[0], self.num_boxes, 4)


class FasterRCNN(nn.Module):
    """Images [B, H, W, C] to `Detections`, by way of two stages.

    Training and testing differ in how many proposals they keep, so two fields have a
    number for each.

    Raises:
      ValueError: when constructed, if a field has a value that its comment excludes.
    """

    num_classes: int  # without the background
    depth: int = 101  # of resnet.TABLE_1
    features: int = 64  # of conv2_x
    stride_on: str = "1x1"  # of resnet.STRIDES_ON
    frozen_until: str = ""  # a stage of TRUNK; it and those before get no gradient
    rpn_channels: int = 512
    objectness: str = "softmax"  # of OBJECTNESS
    anchor_sizes: tuple = anchors.SIZES
    anchor_ratios: tuple = anchors.RATIOS
    anchor_style: str = "caffe"  # of anchors.STYLES
    pre_nms: tuple = (12_000, 6_000)  # proposals before NMS, in training and testing
    post_nms: tuple = (2_000, 300)  # proposals after NMS, in training and testing
    proposal_nms: float = 0.7  # the largest IoU of two proposals, in [0, 1)
    min_size: float = 16  # the least side of a proposal in pixels, above 0
    pooling: str = "pool"  # of POOLINGS
    pool_size: int = 14  # pixels of a region's side, which conv5_x halves
    box_outputs: str = "background"  # of BOX_OUTPUTS
    box_weights: tuple = (10.0, 10.0, 5.0, 5.0)  # of the second stage's codes
    min_score: float = 0.05  # detections have a higher one, in [0, 1)
    nms: float = 0.3  # the largest IoU of two detections of a class, in [0, 1)
    max_detections: int = 100
    # Table 9 of the ResNet paper: each region is also seen where its best class's box
    # lies, and both give detections.
    refine: bool = False
    # Then a detection's box is the mean, weighted by scores, of its class's boxes with
    # at least this IoU with it; 0 is none. The paper has no number, Detectron 0.8.
    voting: float = 0.0
    # Table 9: conv5_x also sees the whole image as a region, and what it makes of it
    # stands beside what it makes of each region.
    context: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.at_least(self, 1, "num_classes", "features", "rpn_channels")
        checks.at_least(self, 1, "pool_size", "max_detections")
        checks.choice(self, "depth", resnet.TABLE_1)
        checks.choice(self, "stride_on", resnet.STRIDES_ON)
        checks.choice(self, "frozen_until", ("", *TRUNK))
        checks.choice(self, "objectness", OBJECTNESS)
        checks.choice(self, "anchor_style", anchors.STYLES)
        checks.choice(self, "pooling", POOLINGS)
        checks.choice(self, "box_outputs", BOX_OUTPUTS)
        checks.all_positive(self, "anchor_sizes", "anchor_ratios")
        checks.all_positive(self, "box_weights", count=4)
        checks.pairs(self, 1, "pre_nms", "post_nms")
        checks.rates(self, "proposal_nms", "min_score", "nms", "voting")
        checks.switches(self, "refine", "context")
        checks.positive(self, "min_size")
        super().__post_init__()

    def setup(self):
        block, stage_sizes = resnet.TABLE_1[self.depth]
        if block is resnet.Bottleneck:
            block = functools.partial(block, stride_on=self.stride_on)
        block = functools.partial(
            block, shortcut="B", zero_init=False, dtype=self.dtype
        )
        self.backbone = resnet.ResNetBackbone(
            block, stage_sizes, self.dtype, self.features
        )
        num_anchors = len(self.anchor_sizes) * len(self.anchor_ratios)
        self.rpn = RegionProposalNetwork(
            num_anchors, self.rpn_channels, self.objectness, self.dtype
        )
        num_boxes = BOX_OUTPUTS[self.box_outputs](self.num_classes)
        self.head = RegionHead(self.num_classes, num_boxes, self.dtype)

    def __call__(self, images, sizes=None, scaled=(None,), proposals=None, *, train):
        """Normalised images [B, H, W, C], padded with 0, to `Detections`.

        Args:
          sizes: [B, 2], the height and width of each; None means that none is padded.
          scaled: the scales at which regions are seen: the same images and their sizes
            there, as a pair; None is `images`, whose proposals are used at all scales.
          proposals: as `proposals` returns them; None means the network's own.
        """
        sizes = _sizes(images, sizes)
        x, *found = self.first_stage(images, sizes, train=train)
        if proposals is None:
            proposals = self.proposals(*found, x.shape[1:3], sizes, train=train)
        maps = self.scale_maps((x, sizes), scaled, train=train)
        return self.detected(maps, *proposals, sizes, train=train)

    def scale_maps(self, own, scaled, *, train):
        """Returns (map, sizes) of each scale; a scale that is None has `own`."""
        return [(self.trunk(*x, train=train), x[1]) if x else own for x in scaled]

    def detected(self, maps, rois, there, sizes, *, train):
        """Makes `Detections` of proposals, which `refine` brings into a second look.

        Args:
          maps, rois, sizes: as for `second_stage`.
          there: as for `detections`.
        """
        regions = rois, there, *self.second_stage(maps, rois, sizes, train=train)
        if self.refine:
            rois = self.refined(rois, *regions[2:], sizes)
            again = rois, there, *self.second_stage(maps, rois, sizes, train=train)
            regions = map(_joined, regions, again)
        return self.detections(*regions, sizes)

    def trunk(self, images, sizes=None, *, train):
        """Images, as in a call, to the map of conv4_x [B, h, w, C], 0 in the padding.

        No gradient goes to the stages up to frozen_until.
        """
        x, first = images, 0
        if self.frozen_until:
            x = self.backbone(x, train=train, last=self.frozen_until)[self.frozen_until]
            x = lax.stop_gradient(x)
            first = TRUNK.index(self.frozen_until) + 1
        if first < len(TRUNK):
            x = self.backbone(x, train=train, first=TRUNK[first], last=TRUNK[-1])
            x = x[TRUNK[-1]]
        there = content(x.shape[1:3], _sizes(images, sizes), STRIDE)
        return jnp.where(there[..., None], x, 0)

    def first_stage(self, images, sizes=None, *, train):
        """Images, as in a call, to the map of conv4_x and what the RPN says of it.

        Returns:
          The map [B, h, w, C], and logits [B, A] and deltas [B, A, 4] of the anchors.
        """
        x = self.trunk(images, sizes, train=train)
        return x, *self.rpn(x)

    def anchor_boxes(self, shape):
        """Returns float32 [A, 4]: the anchors of a map of `shape` (h, w)."""
        make = anchors.STYLES[self.anchor_style]
        base = make(self.anchor_sizes, self.anchor_ratios)
        return anchors.grid(base, shape, STRIDE)

    def anchors_there(self, shape, sizes):
        """Says [B, A] which anchors are at a position of an image, not of padding."""
        there = content(shape, sizes, STRIDE).reshape(sizes.shape[0], -1)
        count = len(self.anchor_sizes) * len(self.anchor_ratios)
        return jnp.repeat(there, count, axis=1)

    def proposals(self, logits, deltas, shape, sizes, *, train):
        """Makes boxes of what the RPN says of a map of `shape` (h, w).

        Boxes are decoded and clipped to the image, and those with a side below min_size
        are dropped. Of the best pre_nms, NMS leaves the best post_nms.

        Returns:
          Boxes [B, N, 4] by falling score, and bool [B, N], which are there; the others
          are 0. No gradient goes through them.
        """
        return self.scored_proposals(logits, deltas, shape, sizes, train=train)[:2]

    def scored_proposals(self, logits, deltas, shape, sizes, *, train):
        """Works as `proposals`, and returns their logits [B, N] too."""
        mode = 0 if train else 1
        propose = functools.partial(
            _propose,
            self.anchor_boxes(shape),
            before=self.pre_nms[mode],
            after=self.post_nms[mode],
            threshold=self.proposal_nms,
            min_size=self.min_size,
        )
        there = self.anchors_there(shape, sizes)
        logits, deltas = lax.stop_gradient((logits, deltas))
        return jax.vmap(propose)(logits, deltas, there, sizes)

    def second_stage(self, maps, rois, sizes, *, train):
        """Pools regions and judges them.

        Args:
          maps: for each scale a pair, the map [B, h, w, C] and the sizes [B, 2] of its
            images; training has one.
          rois: [B, R, 4], inside images of `sizes` [B, 2].

        Returns:
          What `judged` returns.
        """

        def pool(x, rois, size):
            # A maximum of what ReLU leaves needs no edge: the padding is 0.
            edge = {"size": -(-size // STRIDE)} if self.pooling == "align" else {}
            return POOLINGS[self.pooling](x, rois, self.pool_size, STRIDE, **edge)

        if self.context:
            whole = jnp.pad(sizes[:, None, ::-1], ((0, 0), (0, 0), (2, 0)))
            rois = jnp.concatenate([rois, whole.astype(rois.dtype)], 1)
        pooled = _pooled(pool, maps, rois, sizes, STRIDE * self.pool_size)
        return self.judged(pooled, train=train)

    def judged(self, pooled, *, train):
        """Says what pooled regions are, [B, R, P, P, C] at one scale or at several.

        Of several scales, the maximum of what conv5_x makes of them counts. With
        context, the last region is the whole image.

        Returns:
          Logits [B, R, num_classes + 1], the background first, and deltas [B, R, N, 4];
          R is without the whole image.
        """
        images, regions = pooled[0].shape[:2]
        x = jnp.concatenate(pooled).reshape(-1, *pooled[0].shape[2:])
        x = self.backbone(x, train=train, first="conv5_x")["conv5_x"]
        x = functools.reduce(jnp.maximum, jnp.split(x, len(pooled))).mean((1, 2))
        if self.context:
            x = x.reshape(images, regions, -1)
            x, whole = x[:, :-1], x[:, -1:]
            x = _joined(x, jnp.broadcast_to(whole, x.shape), -1)
            x, regions = x.reshape(-1, x.shape[-1]), regions - 1
        found = self.head(x)
        return tuple(y.reshape(images, regions, *y.shape[1:]) for y in found)

    def refined(self, rois, logits, deltas, sizes):
        """Returns the boxes [B, R, 4] of the best class of regions [B, R, 4]."""
        best = logits[..., 1:].argmax(-1)
        own = deltas[:, :, -self.num_classes :]
        if own.shape[2] > 1:
            own = jnp.take_along_axis(own, best[..., None, None], 2)
        found = boxes.decode(own[:, :, 0], rois, self.box_weights)
        return jax.vmap(boxes.clip)(found, sizes)

    def detections(self, rois, there, logits, deltas, sizes):
        """Makes `Detections` of the scores and codes of regions [B, R, 4].

        Each class has its own NMS, and the best max_detections of all classes are kept.
        `there` [B, R] says which regions count.
        """
        detect = functools.partial(
            _detect,
            weights=self.box_weights,
            min_score=self.min_score,
            threshold=self.nms,
            most=self.max_detections,
            voting=self.voting,
        )
        return jax.vmap(detect)(rois, there, logits, deltas, sizes)


def content(shape, sizes, stride=1):
    """Says [B, h, w] which positions of a padded map of `shape` are of the images.

    `sizes` [B, 2] are the images' heights and widths in pixels, of which `stride` lie
    between two positions.
    """
    there = [
        jnp.arange(side)[None] * stride < sizes[:, i : i + 1]
        for i, side in enumerate(shape)
    ]
    return there[0][:, :, None] & there[1][:, None]


def _sizes(images, sizes):
    if sizes is not None:
        return sizes
    return jnp.broadcast_to(jnp.array(images.shape[1:3])[None], (images.shape[0], 2))


def _full(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _propose(own, logits, deltas, there, size, *, before, after, threshold, min_size):
    """One image's `FasterRCNN.scored_proposals`, of its anchors `own` [A, 4]."""
    found = boxes.clip(boxes.decode(deltas, own), size)
    sides = found[:, 2:] - found[:, :2]
    there &= (sides >= min_size).all(1)
    scores = jnp.where(there, logits, -jnp.inf)
    scores, best = lax.top_k(scores, min(before, len(scores)))
    found = found[best]
    index, kept = boxes.nms(found, scores, threshold, after, valid=there[best])
    found = jnp.where(kept[:, None], found[index], 0)
    return found, kept, jnp.where(kept, scores[index], 0)


def _joined(first, second, axis=1):
    return jnp.concatenate([first, second], axis)


def _pooled(pool, maps, rois, sizes, side):
    """Pools each region at the scales where its side is nearest to `side` pixels.

    A region's side is the root of its area. It grows with the scale, so the two nearest
    scales are adjacent. The ResNet paper chooses as NoC does
    (https://arxiv.org/abs/1504.06066). That the side nearest to 224 pixels decides, as
    in SPP-net (https://arxiv.org/abs/1406.4729), is a guess; 224 pixels fill 14 of the
    map.

    Args:
      pool: of a map [h, w, C], regions [R, 4] and its image's size makes [R, P, P, C].
      maps, rois, sizes: as for `FasterRCNN.second_stage`.

    Returns:
      A list of SCALES arrays [B, R, P, P, C], or of one for one map.
    """
    regions = [rois * jnp.tile((own / sizes)[:, None, ::-1], 2) for _, own in maps]
    pooled = [
        jax.vmap(pool)(x, own, size)
        for (x, size), own in zip(maps, regions, strict=True)
    ]
    if len(maps) == 1:
        return pooled
    sides = jnp.sqrt(boxes.area(jnp.stack(regions)))
    chosen = jnp.argsort(jnp.abs(sides - side), axis=0)[:SCALES, ..., None, None, None]
    numbers = range(len(maps))
    return [jnp.select([one == n for n in numbers], pooled) for one in chosen]


def _detect(
    rois, there, logits, deltas, size, *, weights, min_score, threshold, most, voting
):
    """One image's `FasterRCNN.detections`."""
    regions, classes = logits.shape[0], logits.shape[1] - 1
    scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
    found = boxes.decode(deltas[:, -classes:], rois[:, None], weights)
    found = jnp.broadcast_to(found, (regions, classes, 4)).reshape(-1, 4)
    found = boxes.clip(found, size)
    labels = jnp.tile(jnp.arange(classes, dtype=jnp.int32), regions)
    valid = (scores > min_score) & jnp.repeat(there, classes)
    index, kept = boxes.nms(found, scores, threshold, most, valid, labels)
    chosen = found[index]
    if voting:
        same = (labels[index][:, None] == labels[None]) & valid[None]
        votes = jnp.where(same & (boxes.iou(chosen, found) >= voting), scores[None], 0)
        chosen = votes @ found / jnp.maximum(votes.sum(1, keepdims=True), 1e-12)
    return Detections(
        jnp.where(kept[:, None], chosen, 0),
        jnp.where(kept, scores[index], 0),
        jnp.where(kept, labels[index], 0),
        kept,
    )


DETECTORS = {"faster_rcnn": FasterRCNN}
