"""Exact evaluation of a detector: every image of a split is tested and counted once."""

import dataclasses
import math
import typing
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import input_pipeline
from data_source import DataError
from detection import metrics, views
from detection.split import Split
from evaluation import evaluator
from kernels import ops

# The rules of average precision, and what a result calls them.
RULES = {
    "voc07": "VOC 2007, 11 points",
    "voc": "VOC 2010",
    "coco": "COCO, IoU 0.50 to 0.95",
}


class ClassScore(typing.NamedTuple):
    """A class's average precision in per cent, nan without objects, and its counts.

    `objects` are those that count: without crowds and, for VOC, difficult ones.
    """

    name: str
    ap: float
    objects: int
    detections: int


@dataclasses.dataclass(frozen=True)
class Result(evaluator.Result):
    """The score of a detector.

    `metrics` has mAP, AP50 and with the rule "coco" the other of COCO's twelve numbers,
    in per cent; error, which is 100 - mAP; and the counts of images and objects.
    """

    rule: str = "voc"
    classes: tuple = ()

    def describe(self, step):
        return (
            f"{self.split} mAP {self.metrics['mAP']:.1f} % ({RULES[self.rule]}), "
            f"{self.metrics['count']}/{self.size} images counted after step {step}"
        )


@dataclasses.dataclass(frozen=True)
class Detection:
    """Finds the objects of a split's images, and scores them.

    Args:
      step: a jitted function of (variables, {"image": uint8 [B, H, W, C], "image_size":
        int32 [B, 2], and whatever else `view.tested` names}) that returns boxes
        [B, D, 4] in pixels of `image`, scores [B, D], labels int32 [B, D] and there
        bool [B, D], as attributes of a NamedTuple.
      view: a `views.View`.
      batch_size: images per step over all hosts, which is rounded up to a multiple of
        the devices.
      rule: of `RULES`.
      reading: reader options for views.eval_batches: num_threads, prefetch, damaged.

    Raises:
      DataError: the split has no objects that count, or an image that the view cannot
        show.
    """

    step: Callable
    split: Split
    view: views.View
    batch_size: int
    mesh: Mesh
    rule: str = "voc"
    reading: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"metric {self.rule!r} is none of {', '.join(RULES)}")
        if not any(counted(one, self.rule).any() for one in self.split.objects):
            raise DataError(
                f"{self.split.name}, {self.split.split}: the split has no objects that "
                "count, so there is nothing to evaluate"
            )
        self.view.groups(self.split)

    def run(self, variables, stop=lambda: False):
        """Returns the `Result` of a network.

        Raises:
          Interrupted: `stop()`, which is called between batches, returned true.
          DataError: an image cannot be read.
        """
        return self.score(self.detections(variables, stop))

    def score(self, detections):
        """Returns the `Result` of a `metrics.Detections` for each image."""
        return score(self.split, detections, self.rule)

    def detections(self, variables, stop=lambda: False):
        """Returns a `metrics.Detections` for each image, in pixels of the upright file.

        All processes return those of all images. The errors are those of `run`.
        """
        devices = self.mesh.devices.size
        batch_size = min(self.batch_size, len(self.split))
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        pending = []
        batches = views.eval_batches(
            self.split,
            self.view,
            math.ceil(batch_size / devices) * devices,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **self.reading,
        )
        for batch in evaluator.advised(batches, self.split):
            if stop():
                raise evaluator.Interrupted
            names = *self.view.tested, "index", "mask", "readable"
            sent = {name: input_pipeline.put(batch[name], sharding) for name in names}
            seen = {name: sent.pop(name) for name in ("index", "mask", "readable")}
            with ops.for_mesh(self.mesh):
                found = self.step(variables, sent)
            pending.append((found, seen | {"image_size": sent["image_size"]}))
        return self._by_image(pending)

    def _by_image(self, pending):
        """Returns the detections of all processes in the split's order."""
        results, count = [None] * len(self.split), 0
        for batch in pending:
            found, seen = multihost_utils.process_allgather(batch, tiled=True)
            for row in np.flatnonzero(seen["mask"]):
                index = seen["index"][row]
                there = found.there[row] & seen["readable"][row]
                boxes, scores, labels = (
                    x[row][there] for x in (found.boxes, found.scores, found.labels)
                )
                scale = np.divide(
                    self.split.objects[index].size, seen["image_size"][row]
                )
                boxes = np.float32(boxes * np.tile(scale[::-1], 2))
                results[index] = metrics.Detections(boxes, scores, labels)
                count += 1
        if count != len(results) or None in results:
            raise AssertionError(
                f"{count} images counted of {len(results)} in {self.split.name}"
            )
        return results


def score(split, detections, rule):
    """Returns the `Result` of a `metrics.Detections` for each image of a split."""
    truths, classes = split.objects, split.num_classes
    if rule == "coco":
        # In the order of pycocotools, which decides between equal scores.
        order = sorted(range(len(split)), key=lambda i: _key(truths[i].image))
        found = metrics.coco(
            [truths[i] for i in order], [detections[i] for i in order], classes
        )
        known = {name: 100 * x for name, x in found.numbers.items() if x >= 0}
        numbers = {"mAP": known.pop("AP")} | known
        aps = np.where(found.class_ap < 0, np.nan, found.class_ap)
    else:
        aps = [one.ap for one in curves(split, detections, rule)]
        mean = 100 * float(np.nanmean(aps))
        numbers = {"mAP": mean, "AP50": mean}
    labels = [truth.labels[counted(truth, rule)] for truth in truths]
    objects, found = (
        np.bincount(np.concatenate(each), minlength=classes).tolist()
        for each in (labels, [one.labels for one in detections])
    )
    rows = zip(split.label_names, aps, objects, found, strict=True)
    scores = tuple(ClassScore(name, 100 * float(ap), *n) for name, ap, *n in rows)
    numbers = {"error": 100 - numbers["mAP"]} | numbers
    return Result(
        split.split,
        len(split),
        numbers | {"count": len(detections), "objects": sum(objects)},
        reported=tuple(numbers),
        rule=rule,
        classes=scores,
    )


def curves(split, detections, rule="voc"):
    """Returns a `metrics.VocClass` for each class, with its curve at an IoU of 0.5.

    A crowd counts neither way, as a difficult object.
    """
    truths = [
        dataclasses.replace(truth, difficult=truth.difficult | truth.crowd)
        for truth in split.objects
    ]
    eleven = rule == "voc07"
    return metrics.voc(truths, detections, split.num_classes, eleven_points=eleven)


def counted(objects, rule):
    """Says [N] which objects count by a rule of average precision."""
    return ~objects.crowd & ((rule == "coco") | ~objects.difficult)


def _key(image):
    """Sorts ids of images: whole numbers by size, before names."""
    return (isinstance(image, str), image)
