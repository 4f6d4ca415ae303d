"""What training a detector minimises, with the interface of training/objective.py.

In `Detection` both stages of Faster R-CNN train together on the proposals of the
moment, through whose boxes no gradient goes: the approximate joint training of
https://arxiv.org/abs/1506.01497, Section 3.2. The four losses have equal weights.
`Proposals` and `FastRCNN` train one stage each, as the four steps of that section do.
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
# What adds up over images, by stage.
SUMS = {"rpn": (LOSSES[:2], COUNTS[:2]), "regions": (LOSSES[2:], COUNTS[2:])}
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
    stages = "rpn", "regions"

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
        on_anchors = self._on_anchors(model, shape, batch, keys)
        on_rois = self._on_rois(model, batch, keys, proposals)
        return x, logits, deltas, on_anchors, on_rois

    def _run(self, model, batch, keys):
        """Returns the losses [B] and the sums, from inside the network's `apply`."""
        x, logits, deltas, on_anchors, on_rois = self._first(model, batch, keys)
        first = self._of_anchors(logits, deltas, on_anchors)
        return _summed(first | self._of_rois(model, x, batch, on_rois))

    def _of_anchors(self, logits, deltas, targets):
        """Returns the first stage's losses [B], and what counts in its samples."""
        each = functools.partial(losses.rpn_losses, beta=self.rpn_beta)
        found = jax.vmap(each)(logits, deltas, targets)
        counted = {"positives": targets.positive, "anchors": targets.sampled}
        return dict(zip(LOSSES[:2], found, strict=True)) | counted

    def _of_rois(self, model, x, batch, targets):
        """Returns the second stage's losses [B], and what counts in its samples."""
        sizes = batch["image_size"]
        found = model.second_stage([(x, sizes)], targets.rois, sizes, train=True)
        each = functools.partial(losses.roi_losses, beta=self.box_beta)
        found = jax.vmap(each)(*found, targets)
        counted = {"foreground": targets.classes > 0, "regions": targets.sampled}
        return dict(zip(LOSSES[2:], found, strict=True)) | counted

    def _on_anchors(self, model, shape, batch, keys):
        """Samples the anchors of each image."""
        anchors = model.anchor_boxes(shape)

        def sample(key, example, there):
            found, _, real, crowd = (example[name] for name in OBJECTS)
            if self.only_inside:
                there &= boxes.inside(anchors, example["image_size"])
            return anchor_targets(
                _keys(key)[0],
                anchors,
                found,
                real,
                there,
                inside_crowd(anchors, found, crowd) if self.spare_crowds else None,
                size=self.rpn_batch,
                most_positive=round(self.rpn_batch * self.rpn_fg),
                overlaps=self.rpn_iou,
            )

        there = model.anchors_there(shape, batch["image_size"])
        return jax.vmap(sample)(keys, batch, there)

    def _on_rois(self, model, batch, keys, proposals):
        """Samples the regions of each image among proposals [B, N, 4], bool [B, N]."""

        def sample(key, example, proposals, there):
            found, labels, real, crowd = (example[name] for name in OBJECTS)
            return roi_targets(
                _keys(key)[1],
                proposals,
                there,
                found,
                labels,
                real,
                inside_crowd(proposals, found, crowd) if self.spare_crowds else None,
                size=self.roi_batch,
                most_positive=round(self.roi_batch * self.roi_fg),
                foreground=self.roi_iou,
                background=self.roi_background,
                weights=model.box_weights,
            )

        return jax.vmap(sample)(keys, batch, *proposals)

    def zero_sums(self):
        zeros = {}
        for names, counts in map(SUMS.get, self.stages):
            zeros |= {name: jnp.zeros(()) for name in names}
            zeros |= {name: jnp.zeros((), jnp.int32) for name in counts}
        return zeros

    def scalars(self, sums, images):
        """The mean of each loss, and the shares of positives in percent."""
        found = {}
        for names, (part, whole) in map(SUMS.get, self.stages):
            found |= {f"train/{name}_loss": sums[name] / images for name in names}
            found[f"train/{part}"] = 100.0 * sums[part] / max(sums[whole], 1)
        return found

    def progress(self, scalars):
        found = {
            s: [scalars[f"train/{n}_loss"] for n in SUMS[s][0]] for s in self.stages
        }
        return ", ".join(f"{s} {a:.4f} + {b:.4f}" for s, (a, b) in found.items())


class Proposals(Detection):
    """Trains the region proposal network alone: steps 1 and 3 of the alternation."""

    stages = ("rpn",)

    def _run(self, model, batch, keys):
        sizes = batch["image_size"]
        x, logits, deltas = model.first_stage(self.prepare(batch), sizes, train=True)
        on_anchors = self._on_anchors(model, x.shape[1:3], batch, keys)
        return _summed(self._of_anchors(logits, deltas, on_anchors))


class FastRCNN(Detection):
    """Trains the second stage on the batch's own proposals: steps 2 and 4."""

    keys = *Detection.keys, "proposals", "proposed"
    stages = ("regions",)

    def _run(self, model, batch, keys):
        proposals = batch["proposals"], batch["proposed"]
        x = model.trunk(self.prepare(batch), batch["image_size"], train=True)
        on_rois = self._on_rois(model, batch, keys, proposals)
        return _summed(self._of_rois(model, x, batch, on_rois))


# By config.detection.stage.
STAGES = {"joint": Detection, "rpn": Proposals, "fast_rcnn": FastRCNN}


def _keys(key):
    """Returns the keys of an example's anchors and of its regions."""
    return jax.random.split(jax.random.fold_in(key, SAMPLES))


def _summed(found):
    """Returns the losses [B] of images, and the sums of all that was found."""
    sums = {
        name: x.sum() if name in LOSSES else x.sum(dtype=jnp.int32)
        for name, x in found.items()
    }
    return sum(x for name, x in found.items() if name in LOSSES), sums
