"""Average precision by the rules of Pascal VOC and of COCO, in float64.

VOC: the development kit, as py-faster-rcnn's voc_eval.py has it. COCO: pycocotools'
cocoeval.py for boxes, https://github.com/cocodataset/cocoapi, with the same numbers.

Differs from voc_eval.py: equal scores keep the order of the images and detections, and
neither scores nor boxes are rounded before. A class without objects has no average
precision (nan) and is left out of the mean, where voc_eval.py's mean would be nan.
"""

from typing import NamedTuple

import numpy as np

# COCO's thresholds of the IoU, its recalls, its ranges of area, and its numbers of
# detections per image and class. The linspaces are cocoeval.py's; arange differs.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
MOST = (1, 10, 100)


class Detections(NamedTuple):
    """The detections in one image, D of them: boxes [D, 4], scores [D], labels [D]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class VocClass(NamedTuple):
    """The score of a class.

    `ap` is nan without objects. `objects` counts those that are not difficult, and
    `detections` all of them. `recall` and `precision` are after each detection, by
    falling score, that counts.
    """

    ap: float
    objects: int
    detections: int
    recall: np.ndarray
    precision: np.ndarray


class CocoScore(NamedTuple):
    """COCO's twelve numbers by name, -1 where nothing counts, and AP by class [K]."""

    numbers: dict
    class_ap: np.ndarray


def iou(a, b, crowd=None):
    """Returns the IoU [N, M] of boxes [N, 4] and [M, 4].

    Of a crowd [M] it is the share of a's area that lies in the crowd.
    """
    a, b = np.float64(a), np.float64(b)
    low, high = (
        np.maximum(a[:, None, :2], b[:, :2]),
        np.minimum(a[:, None, 2:], b[:, 2:]),
    )
    shared = np.prod(np.maximum(high - low, 0), 2)
    area, other = (np.prod(x[:, 2:] - x[:, :2], 1) for x in (a, b))
    union = area[:, None] + other - shared
    if crowd is not None:
        union = np.where(crowd, area[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def voc(truths, detections, classes, least=0.5, eleven_points=False):
    """Scores each class by VOC's rule.

    A detection finds the object of its class that it overlaps most, if their IoU is
    above `least`. A difficult object counts neither way. A second detection of an
    object is wrong.

    Args:
      truths, detections: of the same images: a `records.Objects` and a `Detections`
        for each.
      classes: how many there are, K.
      eleven_points: takes the mean of the precision at eleven recalls, as VOC did until
        2009, instead of the area under the curve.

    Returns:
      A list of K `VocClass`.
    """
    average = eleven_point_ap if eleven_points else area_ap
    found = []
    for label in range(classes):
        pairs = [
            _of_class(*pair, label) for pair in zip(truths, detections, strict=True)
        ]
        outcomes = [_voc_outcomes(*pair, least) for pair in pairs]
        scores = _joined([found.scores for _, found in pairs])
        order = np.argsort(-scores, kind="stable")
        outcome = _joined(outcomes)[order]
        right, wrong = np.cumsum(outcome == 1), np.cumsum(outcome == 0)
        objects = sum(int((~truth.difficult).sum()) for truth, _ in pairs)
        recall = right / objects if objects else np.full(len(right), np.nan)
        precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
        ap = average(recall, precision) if objects else float("nan")
        counts = outcome >= 0
        curve = recall[counts], precision[counts]
        found.append(VocClass(ap, objects, len(scores), *curve))
    return found


def eleven_point_ap(recall, precision):
    """Returns the mean over eleven recalls of the best precision from there on.

    The recalls are voc_eval.py's np.arange, of which .3, .6 and .7 are a hair too
    large: a recall of 3/10 does not reach the fourth.
    """
    points = [precision[recall >= r].max(initial=0) for r in np.arange(0, 1.1, 0.1)]
    return float(np.sum(np.array(points) / 11))


def area_ap(recall, precision):
    """Returns the area under the best precision from each recall on, as since 2010."""
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))


class _Truth(NamedTuple):
    """The objects of one class in one image."""

    boxes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


def _of_class(truth, found, label):
    """Returns the `_Truth` of a class in an image, and its `Detections`."""
    own = truth.labels == label
    columns = truth.boxes, truth.difficult, truth.crowd, truth.area
    chosen = np.asarray(found.labels) == label
    return (
        _Truth(*(column[own] for column in columns)),
        Detections(*(np.asarray(column)[chosen] for column in found)),
    )


def _joined(parts):
    return np.concatenate(parts) if parts else np.zeros(0)


def _voc_outcomes(truth, found, least):
    """Returns int [D]: 1 for a detection that is right, 0 for wrong, -1 for neither."""
    outcomes = np.zeros(len(found.scores), int)
    if not len(truth.boxes):
        return outcomes
    overlaps = iou(found.boxes, truth.boxes)
    taken = np.zeros(len(truth.boxes), bool)
    for d in np.argsort(-found.scores, kind="stable"):
        g = overlaps[d].argmax()
        if overlaps[d, g] > least:
            outcomes[d] = -1 if truth.difficult[g] else not taken[g]
            taken[g] = True
    return outcomes


def coco(truths, detections, classes):
    """Returns the `CocoScore` of detections, as pycocotools computes it.

    Truths and detections are as for `voc`, in the order of pycocotools: of the images'
    ids. Crowds are ignored; difficult objects count as any others.
    """
    precision = np.full((len(AREAS), classes, len(THRESHOLDS), len(RECALLS)), -1.0)
    recall = np.full((len(AREAS), len(MOST), classes, len(THRESHOLDS)), -1.0)
    for label in range(classes):
        pairs = [
            _of_class(*pair, label) for pair in zip(truths, detections, strict=True)
        ]
        pairs = [
            _best(*pair) for pair in pairs if len(pair[0].boxes) + len(pair[1].boxes)
        ]
        for a, area in enumerate(AREAS.values()):
            images = [_coco_matches(*pair, area) for pair in pairs]
            objects = sum(image.objects for image in images)
            for m, most in enumerate(MOST if objects else ()):
                curve = _coco_curve(images, most, objects)
                recall[a, m, label], precision[a, label] = curve
    return CocoScore(_coco_numbers(precision, recall), _mean(precision[0], (1, 2)))


def _coco_numbers(precision, recall):
    """Returns the twelve numbers, in cocoeval.py's order."""
    numbers = {"AP": precision[0]}
    numbers |= {f"AP{t}": precision[0, :, t // 5 - 10] for t in (50, 75)}
    numbers |= {f"AP_{area}": precision[a] for a, area in enumerate(AREAS) if a}
    numbers |= {f"AR_{most}": recall[0, m] for m, most in enumerate(MOST)}
    numbers |= {f"AR_{area}": recall[a, -1] for a, area in enumerate(AREAS) if a}
    return {name: float(_mean(values)) for name, values in numbers.items()}


def _mean(values, axis=None):
    """Returns the mean of what is not -1, or -1."""
    there = values > -1
    total, count = np.where(there, values, 0).sum(axis), there.sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def _best(truth, found):
    """Returns a pair with the detections by falling score, and no more than counts."""
    order = np.argsort(-found.scores, kind="stable")[: MOST[-1]]
    return truth, Detections(*(column[order] for column in found))


class _Matches(NamedTuple):
    """An image's objects that count, and its detections by falling score.

    `right` and `ignored` are bool [T, D], for each of THRESHOLDS.
    """

    objects: int
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray


def _coco_matches(truth, found, area):
    """Matches the detections of a class in an image, for objects of a range of areas.

    Each takes the object with the largest IoU, the last of equal ones, from those that
    are free; crowds always are. One that is ignored is taken only if no other can be.
    """
    low, high = area
    ignored = truth.crowd | (truth.area < low) | (truth.area > high)
    sides = np.float64(found.boxes[:, 2:]) - found.boxes[:, :2]
    outside = (sides.prod(1) < low) | (sides.prod(1) > high)
    shape = len(THRESHOLDS), len(found.scores)
    right, out = np.zeros(shape, bool), np.zeros(shape, bool)
    overlaps = iou(found.boxes, truth.boxes, truth.crowd)[:, ::-1]
    ignored, crowd = ignored[::-1], truth.crowd[::-1]
    free = np.ones((len(THRESHOLDS), len(ignored)), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for d in range(len(found.scores) if len(ignored) else 0):
        able = (overlaps[d] >= least) & (free | crowd)
        real = able & ~ignored
        able = np.where(real.any(1, keepdims=True), real, able)
        g = np.where(able, overlaps[d], -1).argmax(1)
        right[:, d] = able.any(1)
        out[:, d] = right[:, d] & ignored[g]
        free[right[:, d], g[right[:, d]]] = False
    out |= ~right & outside
    return _Matches(int((~ignored).sum()), found.scores, right, out)


def _coco_curve(images, most, objects):
    """Returns the final recall [T], and the precision [T, R] at RECALLS."""
    scores = _joined([image.scores[:most] for image in images])
    order = np.argsort(-scores, kind="stable")
    right, out = (
        np.concatenate([part[:, :most] for part in parts], 1)[:, order]
        for parts in zip(*((i.right, i.ignored) for i in images), strict=True)
    )
    hits, misses = (np.cumsum(x & ~out, 1, np.float64) for x in (right, ~right))
    recall, precision = hits / objects, hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    # Beyond the last recall the precision is 0.
    precision = np.pad(precision, ((0, 0), (0, 1)))
    final = hits[:, -1] / objects if len(scores) else np.zeros(len(THRESHOLDS))
    at = [np.searchsorted(row, RECALLS) for row in recall]
    return final, np.take_along_axis(precision, np.array(at), 1)
