"""Boxes: areas, overlaps, coding, and suppression against a loop in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import boxes

IMAGE = (60, 80)


def draw(count, seed=0, side=40, whole=True):
    """Boxes float32 [N, 4]; whole numbers make many equal overlaps."""
    rng = np.random.default_rng(seed)
    low, size = rng.uniform(0, 60, (count, 2)), rng.uniform(1, side, (count, 2))
    found = np.concatenate([low, low + size], 1).astype(np.float32)
    return np.round(found) if whole else found


def plain_iou(a, b):
    """The IoU of two boxes by its definition, in float64."""
    a, b = [*map(float, a)], [*map(float, b)]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum(max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def plain_nms(found, scores, threshold, most, valid, classes):
    kept = []
    for i in sorted(np.flatnonzero(valid), key=lambda i: -scores[i]):
        alike = [j for j in kept if classes[i] == classes[j]]
        if all(plain_iou(found[i], found[j]) <= threshold for j in alike):
            kept.append(i)
    return kept[:most]


@functools.partial(jax.jit, static_argnums=3)
def nms(found, scores, threshold, most, valid=None, classes=None):
    return boxes.nms(found, scores, threshold, most, valid, classes)


def test_area_and_iou():
    pair = np.float32([[0, 0, 4, 2], [2, 1, 6, 3]])
    np.testing.assert_array_equal(boxes.area(pair), [8, 8])
    np.testing.assert_allclose(boxes.iou(pair, pair), [[1, 1 / 7], [1 / 7, 1]], 1e-6)
    a, b = draw(30, 1, whole=False), draw(20, 2, whole=False)
    expected = [[plain_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(boxes.iou(a, b), expected, 0, 1e-6)


@pytest.mark.parametrize(
    "damaged", [(5, 5, 5, 5), (5, 5, 5, 9), (9, 9, 5, 5), (9, 5, 5, 9), (0, 0, 0, 0)]
)
def test_a_box_without_area_overlaps_nothing(damaged):
    pair = np.float32([damaged, (0, 0, 20, 20)])
    assert boxes.area(pair)[0] == 0
    np.testing.assert_array_equal(boxes.iou(pair, pair), [[0, 0], [0, 1]])


def test_inside_and_clip():
    found = np.float32(
        [[0, 0, 80, 60], [-1, 0, 9, 9], [70, 50, 80.5, 60], [1, 2, 3, 4]]
    )
    expected = [True, False, False, True]
    np.testing.assert_array_equal(boxes.inside(found, IMAGE), expected)
    clipped = boxes.clip(found, IMAGE)
    np.testing.assert_array_equal(
        clipped, [[0, 0, 80, 60], [0, 0, 9, 9], [70, 50, 80, 60], [1, 2, 3, 4]]
    )
    assert boxes.inside(clipped, IMAGE).all()


def test_coding_is_equation_2():
    anchor, box = np.float32([10, 20, 30, 60]), np.float32([15, 10, 25, 90])
    expected = [0, 0.25, math.log(0.5), math.log(2)]
    np.testing.assert_allclose(boxes.encode(box, anchor), expected, 0, 1e-6)
    weights = (10.0, 10.0, 5.0, 5.0)
    weighted = boxes.encode(box, anchor, weights)
    np.testing.assert_allclose(weighted, np.multiply(expected, weights), 0, 1e-5)
    np.testing.assert_allclose(boxes.decode(weighted, anchor, weights), box, 0, 1e-4)


def test_decode_undoes_encode_for_each_class():
    found, anchors = draw(40, 1), draw(40, 2)
    coded = jnp.repeat(boxes.encode(found, anchors)[:, None], 3, 1)
    back = boxes.decode(coded, anchors[:, None])
    assert back.shape == (40, 3, 4)
    np.testing.assert_allclose(back[:, 2], found, 0, 1e-4)


def test_the_growth_of_a_decoded_box_has_a_limit():
    anchor, deltas = np.float32([0, 0, 16, 16]), np.float32([0, 0, 9, 5])
    free = boxes.decode(deltas, anchor, largest=None)
    np.testing.assert_allclose(free[2:] - free[:2], 16 * np.exp([9, 5]), 1e-5)
    limited = boxes.decode(deltas, anchor)
    np.testing.assert_allclose(limited[2:] - limited[:2], [1000, 1000], 1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("count", [1, 255, 256, 700])
def test_nms_is_the_greedy_loop(count, threshold):
    """Scores of twenty values and corners of whole numbers make ties of both kinds."""
    rng = np.random.default_rng(count)
    found, scores = draw(count, count), np.float32(rng.integers(0, 20, count) / 20)
    valid, classes = rng.random(count) < 0.8, rng.integers(0, 3, count)
    for most in (5, 300):
        expected = plain_nms(found, scores, threshold, most, valid, classes)
        index, mask = nms(found, scores, threshold, most, valid, classes)
        assert index.shape == mask.shape == (most,)
        np.testing.assert_array_equal(index[mask], expected)
        np.testing.assert_array_equal(mask, np.arange(most) < len(expected))
        assert not index[~mask].any()


def test_nms_without_masks_takes_all_boxes_as_one_class():
    found, scores = (
        draw(600, 3, whole=False),
        np.float32(draw(150, 4, whole=False)).ravel(),
    )
    everything = np.ones(600, bool), np.zeros(600, int)
    expected = plain_nms(found, scores, 0.4, 400, *everything)
    index, mask = nms(found, scores, 0.4, 400)
    np.testing.assert_array_equal(index[mask], expected)


def test_a_chain_of_suppressed_boxes_is_resolved_in_order():
    """Each box suppresses the next one, so every second one is kept."""
    start = 4.0 * np.arange(300, dtype=np.float32)
    found = np.stack([start, 0 * start, start + 10, 0 * start + 10], 1)
    index, mask = nms(found, -start, 0.4, 300)
    np.testing.assert_array_equal(index[mask], np.arange(0, 300, 2))


def test_an_iou_equal_to_the_threshold_does_not_suppress():
    found = np.float32([[0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 3]])
    index, mask = nms(found, np.float32([3, 2, 1]), 0.5, 3)
    np.testing.assert_array_equal(index[mask], [0, 1])


@pytest.mark.parametrize("valid", [True, False])
def test_damaged_boxes_and_none(valid):
    """Boxes without area neither suppress nor are suppressed."""
    found = np.float32([[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 1, 1], [0, 0, 20, 20]])
    index, mask = nms(found, np.float32([4, 3, 2, 1]), 0.5, 8, np.full(4, valid))
    np.testing.assert_array_equal(index[mask], np.arange(4) if valid else [])


def test_nms_of_many_images_is_that_of_each():
    found = np.stack([draw(300, seed, side=side) for seed, side in ((1, 9), (2, 60))])
    scores = np.random.default_rng(0).random((2, 300), np.float32)
    valid = np.arange(300) < np.array([[300], [40]])
    together = jax.jit(jax.vmap(lambda b, s, v: boxes.nms(b, s, 0.5, 100, v)))(
        found, scores, valid
    )
    for i in range(2):
        alone = nms(found[i], scores[i], 0.5, 100, valid[i])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_array_equal(x[i], y)
    assert together[1].sum(1).tolist() != [100, 100]
