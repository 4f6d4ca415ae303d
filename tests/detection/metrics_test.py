"""Average precision against pycocotools and a literal reading of VOC's rule."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection import metrics
from detection.records import Objects

CLASSES = 3
NONE = metrics.Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def objects(boxes, labels=None, difficult=None, crowd=None, area=None, image=0):
    boxes = np.float32(boxes).reshape(-1, 4)
    count = len(boxes)
    no = np.zeros(count, bool)
    return Objects(
        *("", image, (500, 500), boxes),
        labels=np.zeros(count, int) if labels is None else np.array(labels),
        difficult=no if difficult is None else np.array(difficult),
        crowd=no if crowd is None else np.array(crowd),
        area=np.prod(boxes[:, 2:] - boxes[:, :2], 1) if area is None else area,
    )


def detected(boxes, scores, labels=None):
    labels = np.zeros(len(scores), int) if labels is None else labels
    return metrics.Detections(
        np.float32(boxes).reshape(-1, 4), np.array(scores), labels
    )


def draw(seed, images=12, most=14, found=60, levels=25):
    """Objects and detections of all sizes, with ties of scores and of overlaps."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for image in range(images):
        count = int(rng.integers(0, most))
        low = rng.integers(0, 300, (count, 2))
        sides = np.round(np.exp(rng.uniform(1.5, 5.3, (count, 2))))
        boxes = np.concatenate([low, low + sides], 1)
        area = np.prod(sides, 1) * rng.uniform(0.3, 1, count)
        kinds = rng.random((2, count)) < [[0.2], [0.15]]
        labels = rng.integers(0, CLASSES, count)
        truths.append(objects(boxes, labels, *kinds, area, image + 1))
        near = boxes[rng.integers(0, count, found)] if count else np.zeros((found, 4))
        noise = np.round(rng.normal(0, 4, (found, 4)) * rng.integers(0, 2, (found, 1)))
        other = rng.integers(0, 300, (found, 2))
        other = np.concatenate([other, other + rng.integers(4, 200, (found, 2))], 1)
        boxes = np.where(rng.random((found, 1)) < 0.7, near + noise, other)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = rng.integers(1, levels, found) / levels
        detections.append(detected(boxes, scores, rng.integers(0, CLASSES, found)))
    return truths, detections


def pycocotools(truths, detections):
    """The twelve numbers, and the AP of each class."""

    def box(corners):
        x1, y1, x2, y2 = map(float, corners)
        return [x1, y1, x2 - x1, y2 - y1]

    annotations, results = [], []
    for truth, found in zip(truths, detections, strict=True):
        columns = truth.boxes, truth.labels, truth.crowd, truth.area
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": truth.image,
                "category_id": int(label),
                "bbox": box(corners),
                "iscrowd": int(crowd),
                "area": float(area),
            }
            for i, (corners, label, crowd, area) in enumerate(
                zip(*columns, strict=True), 1
            )
        ]
        results += [
            {
                "image_id": truth.image,
                "category_id": int(label),
                "bbox": box(corners),
                "score": float(score),
            }
            for corners, score, label in zip(*found, strict=True)
        ]
    gold = COCO()
    gold.dataset = {
        "info": {},
        "images": [{"id": truth.image} for truth in truths],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in range(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gold.createIndex()
        evaluation = COCOeval(gold, gold.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][..., 0, -1]
    return evaluation.stats, [
        precision[..., k][precision[..., k] > -1].mean() for k in range(CLASSES)
    ]


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {"levels": 3}),  # most scores are equal
        (2, {"images": 4, "found": 500}),  # more than 100 in an image and class
        (3, {"images": 30, "most": 3, "found": 9}),
    ],
)
def test_coco_s_numbers_are_pycocotools(seed, options):
    truths, detections = draw(seed, **options)
    score = metrics.coco(truths, detections, CLASSES)
    expected, by_class = pycocotools(truths, detections)
    names = "AP AP50 AP75 AP_small AP_medium AP_large"
    names += " AR_1 AR_10 AR_100 AR_small AR_medium AR_large"
    assert list(score.numbers) == names.split()
    assert ((expected > 0) & (expected < 1)).sum() >= 8
    np.testing.assert_allclose(list(score.numbers.values()), expected, 0, 1e-12)
    np.testing.assert_allclose(score.class_ap, by_class, 0, 1e-12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_objects_with_equal_overlaps_coco_takes_the_last(order):
    """If the first detection takes the second's object, the second finds none."""
    boxes = np.float32([[0, 0, 10, 10], [4, 0, 14, 10]])[list(order)]
    truths = [objects(boxes, [1, 1], image=1), objects([[0, 0, 9, 9]] * 2, [0, 2])]
    found = detected([[2, 0, 12, 10], [0, 0, 10, 10]], [0.9, 0.8], np.array([1, 1]))
    numbers = metrics.coco(truths, [found, NONE], CLASSES).numbers
    expected, _ = pycocotools(truths, [found, NONE])
    np.testing.assert_allclose(list(numbers.values()), expected, 0, 1e-12)
    recall = metrics.coco(truths[:1], [found], CLASSES).numbers["AR_100"]
    # Both are right at the four thresholds below 8 / 12, or one; above that, one is.
    assert recall == pytest.approx({(0, 1): 0.7, (1, 0): 0.5}[order])


def test_coco_s_numbers_without_detections_or_objects():
    truths, detections = draw(4)
    nothing = metrics.coco(truths, [NONE] * len(truths), CLASSES)
    assert set(nothing.numbers.values()) == {0.0}
    empty = [objects([])] * len(truths)
    unknown = metrics.coco(empty, detections, CLASSES)
    assert set(unknown.numbers.values()) == {-1.0}
    assert unknown.class_ap.tolist() == [-1] * CLASSES


def test_a_class_without_objects_is_left_out_of_coco_s_mean():
    truth = objects([[0, 0, 50, 50]], [1])
    found = detected([[0, 0, 50, 50], [9, 9, 99, 99]], [0.5, 0.9], np.array([1, 0]))
    score = metrics.coco([truth], [found], CLASSES)
    assert score.numbers["AP"] == pytest.approx(1, abs=1e-12)
    assert score.class_ap.tolist() == [-1, score.numbers["AP"], -1]


def plain_voc(truths, detections, label, eleven):
    """The development kit's rule, in words of numpy's own; the result of one class."""
    lines = sorted(
        (
            (-score, image, number)
            for image, found in enumerate(detections)
            for number, score in enumerate(found.scores)
            if found.labels[number] == label
        ),
        key=lambda line: line[0],
    )
    total = sum((~t.difficult[t.labels == label]).sum() for t in truths)
    used, tp, fp, curve = set(), 0, 0, []
    for _, image, number in lines:
        x1, y1, x2, y2 = np.float64(detections[image].boxes[number])
        best, match = -np.inf, None
        for g in np.flatnonzero(truths[image].labels == label):
            a1, b1, a2, b2 = np.float64(truths[image].boxes[g])
            # Inclusive corners, 1 more in each width, as the kit has them.
            width = min(x2 - 1, a2 - 1) - max(x1, a1) + 1
            height = min(y2 - 1, b2 - 1) - max(y1, b1) + 1
            shared = max(width, 0) * max(height, 0)
            both = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1)
            if shared / (both - shared) > best:
                best, match = shared / (both - shared), g
        if best > 0.5 and truths[image].difficult[match]:
            pass
        elif best > 0.5 and (image, match) not in used:
            used.add((image, match))
            tp += 1
        else:
            fp += 1
        curve.append((tp / total, tp / max(tp + fp, np.finfo(float).eps)))
    if eleven:
        levels = np.arange(0.0, 1.1, 0.1)
        return sum(max([p for r, p in curve if r >= t], default=0) / 11 for t in levels)
    area, last = 0, 0
    for i, (r, _) in enumerate(curve):
        area += (r - last) * max(p for _, p in curve[i:])
        last = r
    return area


@pytest.mark.parametrize("eleven", [True, False])
@pytest.mark.parametrize(("seed", "levels"), [(5, 25), (6, 3), (7, 1000)])
def test_voc_s_rule(seed, levels, eleven):
    truths, detections = draw(seed, levels=levels)
    found = metrics.voc(truths, detections, CLASSES, eleven_points=eleven)
    for label, one in enumerate(found):
        expected = plain_voc(truths, detections, label, eleven)
        assert 0 < expected < 1
        np.testing.assert_allclose(one.ap, expected, 0, 1e-12)
        difficult = sum((t.difficult & (t.labels == label)).sum() for t in truths)
        everything = sum((t.labels == label).sum() for t in truths)
        assert one.objects == everything - difficult > 0 < difficult
        assert one.detections == sum((d.labels == label).sum() for d in detections)
        assert len(one.recall) == len(one.precision) <= one.detections


def test_an_iou_of_one_half_is_too_little_for_voc():
    truth, half = objects([[0, 0, 10, 10]]), [[0, 0, 10, 5]]
    (one,) = metrics.voc([truth], [detected(half, [0.9])], 1)
    assert one.ap == 0
    (one,) = metrics.voc([truth], [detected(half, [0.9])], 1, least=0.49)
    assert one.ap == 1


def test_a_second_detection_of_an_object_is_wrong_even_if_another_is_free():
    truth = objects([[0, 0, 10, 10], [0, 2, 10, 12]])
    found = detected([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [0.9, 0.8])
    (one,) = metrics.voc([truth], [found], 1)
    assert one.recall.tolist() == [0.5, 0.5] and one.precision.tolist() == [1, 0.5]


def test_a_difficult_object_counts_neither_way():
    truth = objects([[0, 0, 10, 10], [50, 50, 60, 60]], difficult=[True, False])
    found = detected(
        [[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], [0.9, 0.8, 0.7]
    )
    (one,) = metrics.voc([truth], [found], 1)
    assert (one.ap, one.objects, one.detections) == (1, 1, 3)
    assert one.recall.tolist() == [1] and one.precision.tolist() == [1]


def test_eleven_points_are_numpy_s_arange():
    """A recall of 3/10 does not reach the fourth point, 0.30000000000000004."""
    recall, precision = np.arange(1, 4) / 10, np.ones(3)
    assert metrics.eleven_point_ap(recall, precision) == pytest.approx(3 / 11, 1e-12)
    recall, precision = np.arange(1, 5) / 10, np.ones(4)
    assert metrics.eleven_point_ap(recall, precision) == pytest.approx(5 / 11, 1e-12)


def test_voc_without_detections_or_objects():
    truth = objects([[0, 0, 10, 10]], [1])
    found = metrics.voc([truth], [NONE], 2)
    assert np.isnan(found[0].ap) and found[1].ap == 0
    wrong = detected([[0, 0, 9, 9]], [0.5], np.array([0]))
    for eleven in (True, False):
        found = metrics.voc([objects([])], [wrong], 2, eleven_points=eleven)
        assert np.isnan([one.ap for one in found]).all()
        assert found[0].detections == 1
