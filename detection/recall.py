"""The score of a region proposal network by itself: how many objects it proposes."""

import numpy as np

from detection import evaluator, metrics

LEAST = 0.5  # the IoU from which a proposal finds an object


class Result(evaluator.Result):
    """The recall of proposals.

    `metrics` has recall in per cent, error, which is 100 - recall, and the counts of
    images, objects and proposals.
    """

    def describe(self, step):
        proposals = self.metrics["proposals"] / self.size
        return (
            f"{self.split} recall {self.metrics['recall']:.1f} % (IoU {LEAST}, "
            f"{proposals:.0f} proposals per image), {self.metrics['count']}/{self.size}"
            f" images counted after step {step}"
        )


class Recall(evaluator.Detection):
    """Finds proposals in a split's images, and says how many objects they find."""

    def score(self, detections):
        """Returns the `Result` of a `metrics.Detections` for each image."""
        objects, hits = 0, 0
        for truth, found in zip(self.split.objects, detections, strict=True):
            wanted = truth.boxes[evaluator.counted(truth, self.rule)]
            objects += len(wanted)
            overlaps = metrics.iou(wanted, found.boxes)
            hits += np.count_nonzero((overlaps >= LEAST).any(1))
        recall = 100 * hits / objects
        numbers = {"error": 100 - recall, "recall": recall, "count": len(detections)}
        numbers["objects"] = objects
        numbers["proposals"] = sum(len(found.boxes) for found in detections)
        return Result(
            self.split.split,
            len(self.split),
            numbers,
            reported=("error", "recall"),
            rule="recall",
        )
