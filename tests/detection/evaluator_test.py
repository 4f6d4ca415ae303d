"""The evaluation of a detector: every image counts once, in pixels of its file."""

import collections
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.sharding import Mesh

from data_source import DataError
from detection import evaluator, metrics, records, results, views
from detection.split import Split
from evaluation.evaluator import Interrupted

Found = collections.namedtuple("Found", "boxes scores labels there")
NONE = metrics.Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def made(sizes, ids=None, **flags):
    """A split of grey images: image i has the level 10 + i and one box of a class."""
    objects, reads = [], []
    for i, (height, width) in enumerate(sizes):
        box = 2, 3, width - 1, height - 2
        row = records.Row("row", box, box, i % 2, **flags)
        image = i if ids is None else ids[i]
        objects.append(
            records.objects(str(i), image, (height, width), [row], records.Damage())
        )
        pixels = np.full((height, width, 1), 10 + i, np.uint8)
        reads.append(functools.partial(np.asarray, pixels))
    names = ("a", "b", "c")
    return Split("made", "val", names, tuple(objects), tuple(reads), channels=1)


# The last become 40x52, so the two sides have different scales.
SIZES = [(20, 30)] * 6 + [(30, 20)] * 4 + [(23, 30)] * 3


@jax.jit
def step(variables, batch):
    """Finds in each image, by its level, the box that it has, and one that is not."""
    del variables
    number = batch["image"][:, 0, 0, 0].astype(jnp.int32) - 10
    height, width = batch["image_size"].astype(jnp.float32).T
    sizes = jnp.array(SIZES)[number]
    y, x = height / sizes[:, 0], width / sizes[:, 1]
    box = jnp.stack([2 * x, 3 * y, width - x, height - 2 * y], 1)
    boxes = jnp.stack([box, box / 2, jnp.zeros_like(box)], 1)
    there = jnp.broadcast_to(jnp.array([[True, True, False]]), boxes.shape[:2])
    scores = jnp.broadcast_to(jnp.array([[0.9, 0.3, 0.99]]), there.shape)
    labels = jnp.broadcast_to((number % 2)[:, None], there.shape)
    return Found(boxes, scores, labels, there)


def make(split, rule="voc", batch_size=4, devices=2, **reading):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    view = views.make_view([split], short_side=40)
    reading = {"num_threads": 0} | reading
    return evaluator.Detection(step, split, view, batch_size, mesh, rule, reading)


@pytest.mark.parametrize(("batch_size", "devices"), [(4, 2), (5, 1), (100, 8)])
def test_each_image_s_detections_are_in_its_file_s_pixels(batch_size, devices):
    split = made(SIZES)
    found = make(split, batch_size=batch_size, devices=devices).detections({})
    assert len(found) == 13
    for objects, one in zip(split.objects, found, strict=True):
        assert one.boxes.shape == (2, 4) and one.boxes.dtype == np.float32
        np.testing.assert_allclose(one.boxes[0], objects.boxes[0], 1e-5)
        assert one.labels.tolist() == [objects.labels[0]] * 2


@pytest.mark.parametrize("rule", [*evaluator.RULES])
def test_a_result(rule):
    split = made(SIZES)
    result = make(split, rule).run({})
    assert result.value == 0 and result.metrics["mAP"] == pytest.approx(100, abs=1e-9)
    assert result.metrics["AP50"] == result.metrics["mAP"]
    assert result.metrics["count"] == result.metrics["objects"] == 13
    text = f"val mAP 100.0 % ({evaluator.RULES[rule]}), 13/13 images counted after"
    assert result.describe(7) == f"{text} step 7"
    assert result.scalars()["eval/error"] == 0 and "eval/count" not in result.scalars()
    assert [one.objects for one in result.classes] == [7, 6, 0]
    assert [one.detections for one in result.classes] == [14, 12, 0]
    assert np.isnan(result.classes[2].ap)
    assert results.class_csv(result).splitlines() == [
        "class,ap,objects,detections",
        "a,100.00,7,14",
        "b,100.00,6,12",
        "c,,0,0",
    ]


def test_coco_s_numbers_have_their_names_and_are_in_per_cent():
    split = made([(200, 200)] * 2)
    boxes = split.objects[0].boxes
    exact = metrics.Detections(boxes, np.array([0.9]), np.array([0]))
    numbers = evaluator.score(split, [exact, NONE], "coco").metrics
    for name in ("mAP", "AP75", "AP_large", "AR_1", "error"):
        assert numbers[name] == pytest.approx(50)
    assert "AP_small" not in numbers and "AP" not in numbers  # none is small


def test_equal_scores_are_ordered_by_the_image_s_number():
    """The detection of image 2 is wrong; by its number it comes first of the two."""
    split = made([(20, 30)] * 4, ids=[9, 8, 2, 7]).chosen([0, 2])
    boxes = np.float32([[0, 0, 3, 3]])
    wrong = metrics.Detections(boxes, np.array([0.5]), np.array([0]))
    right = metrics.Detections(split.objects[0].boxes, np.array([0.5]), np.array([0]))
    result = evaluator.score(split, [right, wrong], "coco")
    assert result.metrics["AP50"] == pytest.approx(100 * 51 * 0.5 / 101)


def test_eleven_points_differ_from_the_area():
    split = made([(20, 30)] * 4).chosen([0, 2])
    found = metrics.Detections(split.objects[0].boxes, np.array([0.5]), np.array([0]))
    score = functools.partial(evaluator.score, split, [found, NONE])
    assert score("voc").metrics["mAP"] == pytest.approx(50)
    assert score("voc07").metrics["mAP"] == pytest.approx(100 * 6 / 11)


def test_an_image_that_cannot_be_read_has_no_detections():
    split = made(SIZES)
    images = [lambda: b"none", *split.images[1:]]
    split = Split("made", "val", split.label_names, split.objects, tuple(images), 1)
    with pytest.raises(DataError, match="0 is damaged"):
        make(split).run({})
    evaluation = make(split, damaged="wrong")
    found = evaluation.detections({})
    assert [len(one.scores) for one in found] == [0] + [2] * 12
    result = evaluation.run({})
    assert result.metrics["count"] == 13 and result.classes[0].ap < 90


def test_a_split_without_objects_is_refused():
    split = made(SIZES, difficult=True)
    with pytest.raises(DataError, match="made, val: the split has no objects that cou"):
        make(split)
    assert make(split, "coco").run({}).metrics["objects"] == 13
    with pytest.raises(DataError, match="no objects that count"):
        make(made(SIZES, crowd=True), "coco")
    with pytest.raises(ValueError, match="metric 'map' is none of voc07, voc, coco"):
        make(made(SIZES), "map")


def test_an_evaluation_stops():
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        make(made(SIZES)).run({}, lambda: next(asked))


def test_an_image_that_is_lost_is_noticed(monkeypatch):
    evaluation = make(made(SIZES))
    batches = views.eval_batches

    def fewer(*args, **kwargs):
        yield from list(batches(*args, **kwargs))[1:]

    monkeypatch.setattr(views, "eval_batches", fewer)
    with pytest.raises(AssertionError, match="9 images counted of 13 in made"):
        evaluation.run({})


def test_crowds_count_neither_way_by_voc_s_rule():
    split = made([(20, 30)] * 2, crowd=True)
    real = made([(20, 30)] * 2)
    split = Split(
        *("made", "val", split.label_names, real.objects[:1] + split.objects[1:]),
        images=split.images,
        channels=1,
    )
    one = metrics.Detections(real.objects[1].boxes, np.array([0.9]), np.array([1]))
    (first, second, _) = evaluator.curves(split, [NONE, one])
    assert (first.objects, second.objects, len(second.recall)) == (1, 0, 0)


@pytest.mark.slow
def test_two_processes_evaluate_their_shares_and_have_all_detections():
    """Each has two devices and half of every batch."""
    (port,) = runs.free_ports(1)
    address = f"localhost:{port}"
    program = (
        "import sys, jax\n"
        "jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))\n"
        "import evaluator_test\n"
        "evaluator_test.share()"
    )
    here = pathlib.Path(__file__).parent
    path = f"{runs.ROOT}:{here.parent}:{here}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(number)],
            cwd=runs.ROOT,
            env=runs.environment(2) | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]
    outputs = [child.communicate(timeout=100)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs


def share():
    """What a process of the test above does."""
    assert (jax.process_count(), jax.device_count()) == (2, 4)
    split = made(SIZES)
    evaluation = make(split, devices=4)
    for objects, one in zip(split.objects, evaluation.detections({}), strict=True):
        np.testing.assert_allclose(one.boxes[0], objects.boxes[0], 1e-5)
    assert evaluation.run({}).metrics["count"] == 13


# Files.


def test_detections_in_coco_s_form():
    split = made([(20, 30)] * 2, ids=[139, "b"]).renumbered([0, 2, 1], ("a", "c", "b"))
    found = metrics.Detections(
        np.float32([[1, 2, 5, 8], [0, 0, 30, 20]]), np.array([0.75, 0.5]), [2, 0]
    )
    assert json.loads(results.coco_results(split, [found, NONE])) == [
        {"image_id": 139, "category_id": 2, "bbox": [1, 2, 4, 6], "score": 0.75},
        {"image_id": 139, "category_id": 1, "bbox": [0, 0, 30, 20], "score": 0.5},
    ]
    assert json.loads(results.coco_results(split, [NONE, NONE])) == []
    assert results.unnumbered(split, [found, NONE]) == 0


def test_detections_of_a_class_without_an_id_are_left_out_and_counted():
    """The split has three of the network's four classes."""
    split = made([(20, 30)], ids=[7]).renumbered([0, 1, 3], "abdc")
    found = metrics.Detections(np.zeros((3, 4)), np.array([0.9, 0.8, 0.7]), [2, 3, 2])
    (row,) = json.loads(results.coco_results(split, [found]))
    assert (row["category_id"], row["score"]) == (3, 0.8)
    assert results.unnumbered(split, [found]) == 2


def test_the_worst_images_come_first(monkeypatch):
    split = made([(20, 30)] * 5)
    box = split.objects[0].boxes
    cases = [  # of class 0 in even images and 1 in odd ones
        ([box], [0.9], [0]),  # right
        ([box], [0.4], [1]),  # missed: its score is too low
        ([box, box, box], [0.9, 0.8, 0.7], [0, 0, 2]),  # twice, and another class
        ([box / 3], [0.9], [1]),  # missed, and a wrong one
        ([], [], []),
    ]
    found = [
        metrics.Detections(
            np.reshape(boxes, (-1, 4)), np.array(scores), np.array(labels, int)
        )
        for boxes, scores, labels in cases
    ]
    assert results.mistakes(split, found).tolist() == [0, 1, 2, 2, 1]
    monkeypatch.setattr(results, "SHOWN", 0.4)
    assert results.mistakes(split, found).tolist() == [0, 0, 2, 2, 1]
