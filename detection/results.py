"""What an evaluation of a detector leaves: tables, and the images it fails on most."""

import json

import numpy as np

from detection import evaluator, metrics
from evaluation import scoring

# Detections with a lower score are neither drawn nor counted as mistakes.
SHOWN = 0.5


def coco_results(split, detections):
    """Returns detections as COCO's results format has them, as text of JSON.

    Each has the image's id, the class's id in `split.categories`, x, y, width and
    height in pixels of the upright image, and the score. Those of a class without an id
    are left out; `unnumbered` counts them.
    """
    found = [
        {
            "image_id": truth.image,
            "category_id": split.categories[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for truth, one in zip(split.objects, detections, strict=True)
        for (x1, y1, x2, y2), score, label in zip(
            *(np.asarray(column).tolist() for column in one), strict=True
        )
        if split.categories[label] is not None
    ]
    return json.dumps(found)


def unnumbered(split, detections):
    """Counts the detections of classes without an id, which the split lacks."""
    labels = (label for one in detections for label in one.labels)
    return sum(split.categories[label] is None for label in labels)


def class_csv(result):
    """Returns a CSV of each class's average precision, objects and detections.

    The average precision is in per cent, and empty for a class without objects.
    """
    rows = [
        [name, "" if np.isnan(ap) else f"{ap:.2f}", *counts]
        for name, ap, *counts in result.classes
    ]
    return scoring.csv_text(("class", "ap", "objects", "detections"), rows)


def shown(found):
    """Returns the `metrics.Detections` whose scores are at least `SHOWN`."""
    chosen = np.asarray(found.scores) >= SHOWN
    return metrics.Detections(*(np.asarray(column)[chosen] for column in found))


def mistakes(split, detections):
    """Counts each image's missed objects and wrong detections, int [N].

    Only detections with a score of `SHOWN` or more count. They are right as by VOC's
    rule, with an IoU above 0.5.
    """
    return np.array(
        [
            _mistakes(split.chosen([i]), shown(found))
            for i, found in enumerate(detections)
        ]
    )


def _mistakes(one, found):
    wrong = 0
    for scored in evaluator.curves(one, [found]):
        counted = len(scored.recall)
        hits = round(counted * scored.precision[-1]) if counted else 0
        wrong += scored.objects - hits + counted - hits
    return wrong
