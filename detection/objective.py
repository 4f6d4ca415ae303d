"""What training a detector minimises, with the interface of training/objective.py.

Both stages of Faster R-CNN train together on the proposals of the moment, through whose
boxes no gradient goes: the approximate joint training of
https://arxiv.org/abs/1506.01497, Section 3.2, where the paper alternates between the
stages. The four losses have equal weights.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from detection import losses
from detection.targets import anchor_targets, inside_crowd, roi_targets
from models import boxes, layers
from transforms.preprocessing import example_keys

# Class and box loss of the first stage and of the second, each a sum over images.
LOSSES = "rpn_class", "rpn_box", "class", "box"
COUNTS = "positives", "anchors", "foreground", "regions"
OBJECTS = "boxes", "labels", "real", "crowd"
SAMPLES = 2**31 - 3  # a random stream apart from those of an example's augmentation


@dataclasses.dataclass(frozen=True)
class Detection:
    """The losses of `models.faster_rcnn.FasterRCNN`, whose second stage sees samples.

    A sample depends on the seed, the epoch and the example, and on no other example.

    Args:
      model: the network, or what stands for it in training.
      prepare: prepare(batch) gives the network's input (detection/inputs.py).
      frozen_statistics: batch normalisation uses the statistics it is given and does
        not change them.
      rpn_batch, rpn_fg: the anchors sampled per image, and the largest share of
        positives among them.
      rpn_iou: the overlaps from which an anchor is positive, and below which it is
        negative.
      only_inside: only anchors wholly inside the image train.
      rpn_beta, box_beta: of the box losses of the two stages (`losses.smooth_l1`).
      roi_batch, roi_fg: the regions sampled per image, and the largest share of
        foreground among them.
      roi_iou: the overlap from which a region is foreground.
      roi_background: the overlaps [low, high) of background.
      spare_crowds: anchors and proposals inside crowds are no negatives.
    """

    model: nn.Module
    prepare: Callable
    frozen_statistics: bool = False
    rpn_batch: int = 256
    rpn_fg: float = 0.5
    rpn_iou: tuple = (0.7, 0.3)
    only_inside: bool = True
    rpn_beta: float = 1 / 9
    roi_batch: int = 128
    roi_fg: float = 0.25
    roi_iou: float = 0.5
    roi_background: tuple = (0.0, 0.5)
    box_beta: float = 1.0
    spare_crowds: bool = False

    keys = "image", "image_size", *OBJECTS, "index", "epoch"

    def __call__(self, variables, batch, seed, key):
        del key  # is of the step: a sample depends on the example alone
        keys = example_keys(seed, batch["epoch"], batch["index"])
        with layers.frozen_statistics(self.frozen_statistics):
            (total, sums), updated = self.model.apply(
                variables, batch, keys, method=self._run, mutable=["batch_stats"]
            )
        return total, sums, updated.get("batch_stats", {})

    def samples(self, variables, batch, seed):
        """Returns the `AnchorTargets` and `RoiTargets` of a batch's images."""
        keys = example_keys(seed, batch["epoch"], batch["index"])
        with layers.frozen_statistics(self.frozen_statistics):
            (*_, on_anchors, on_rois), _ = self.model.apply(
                variables, batch, keys, method=self._first, mutable=["batch_stats"]
            )
        return on_anchors, on_rois

    def _first(self, model, batch, keys):
        """Runs the first stage, and samples what both stages train on.

        Returns:
          The map, logits and deltas as FasterRCNN.first_stage, and the targets.
        """
        sizes = batch["image_size"]
        x, logits, deltas = model.first_stage(self.prepare(batch), sizes, train=True)
        shape = x.shape[1:3]
        proposals = model.proposals(logits, deltas, shape, sizes, train=True)
        targets = functools.partial(
            self._targets, model.anchor_boxes(shape), model.box_weights
        )
        there = model.anchors_there(shape, sizes)
        return x, logits, deltas, *jax.vmap(targets)(keys, batch, there, *proposals)

    def _run(self, model, batch, keys):
        """Returns the losses [B] and the sums, from inside the network's `apply`."""
        x, logits, deltas, on_anchors, on_rois = self._first(model, batch, keys)
        rpn_losses = functools.partial(losses.rpn_losses, beta=self.rpn_beta)
        found = jax.vmap(rpn_losses)(logits, deltas, on_anchors)
        logits, deltas = model.second_stage(x, on_rois.rois, train=True)
        roi_losses = functools.partial(losses.roi_losses, beta=self.box_beta)
        found += jax.vmap(roi_losses)(logits, deltas, on_rois)
        counted = {
            "positives": on_anchors.positive,
            "anchors": on_anchors.sampled,
            "foreground": on_rois.classes > 0,
            "regions": on_rois.sampled,
        }
        sums = {name: x.sum() for name, x in zip(LOSSES, found, strict=True)}
        sums |= {name: x.sum(dtype=jnp.int32) for name, x in counted.items()}
        return sum(found), sums

    def _targets(self, anchors, weights, key, example, there, proposals, kept):
        """Samples the anchors and the regions of one image."""
        found, labels, real, crowd = (example[name] for name in OBJECTS)
        anchor_key, roi_key = jax.random.split(jax.random.fold_in(key, SAMPLES))
        spared = [None, None]
        if self.spare_crowds:
            spared = [inside_crowd(x, found, crowd) for x in (anchors, proposals)]
        if self.only_inside:
            there &= boxes.inside(anchors, example["image_size"])
        on_anchors = anchor_targets(
            anchor_key,
            anchors,
            found,
            real,
            there,
            spared[0],
            size=self.rpn_batch,
            most_positive=round(self.rpn_batch * self.rpn_fg),
            overlaps=self.rpn_iou,
        )
        on_rois = roi_targets(
            roi_key,
            proposals,
            kept,
            found,
            labels,
            real,
            spared[1],
            size=self.roi_batch,
            most_positive=round(self.roi_batch * self.roi_fg),
            foreground=self.roi_iou,
            background=self.roi_background,
            weights=weights,
        )
        return on_anchors, on_rois

    @staticmethod
    def zero_sums():
        return {name: jnp.zeros(()) for name in LOSSES} | {
            name: jnp.zeros((), jnp.int32) for name in COUNTS
        }

    @staticmethod
    def scalars(sums, images):
        """The mean of each loss, and the shares of positives in percent."""
        means = {f"train/{name}_loss": sums[name] / images for name in LOSSES}
        return means | {
            f"train/{part}": 100.0 * sums[part] / max(sums[whole], 1)
            for part, whole in (("positives", "anchors"), ("foreground", "regions"))
        }

    @staticmethod
    def progress(scalars):
        values = (scalars[f"train/{name}_loss"] for name in LOSSES)
        return "rpn {:.4f} + {:.4f}, regions {:.4f} + {:.4f}".format(*values)
