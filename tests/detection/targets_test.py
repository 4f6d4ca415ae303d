"""The targets of both stages against py-faster-rcnn's rules, written as loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detection import targets
from models import anchors, boxes

# The image is 600 x 800; each box has 1 added to its last pixel.
OBJECTS = np.float32([[100, 150, 301, 451], [400, 50, 800, 600], [10, 10, 41, 61]])
SIZE = (600, 800)
GRID = anchors.grid(anchors.caffe(), (38, 50), 16)
INSIDE = np.asarray(boxes.inside(GRID, SIZE))


STATIC = "size", "most_positive", "foreground", "background", "weights"
anchor_targets = jax.jit(targets.anchor_targets, static_argnames=STATIC[:2])
roi_targets = jax.jit(targets.roi_targets, static_argnames=STATIC)
sample = jax.jit(targets.sample, static_argnums=(3, 4))
assign_anchors = jax.jit(targets.assign_anchors)


def draw(count, seed, side=60):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 100, (count, 2))
    high = low + rng.integers(4, side, (count, 2))
    return np.concatenate([low, high], 1).astype(np.float32)


def padded(objects):
    """The objects [5, 4], and which are real; the padding overlaps much."""
    more = np.tile(np.float32([[0, 0, 300, 300]]), (5 - len(objects), 1))
    return np.concatenate([objects, more]), np.arange(5) < len(objects)


def test_the_test_vector_of_an_image_of_600_by_800():
    """Counts and overlaps are those of py-faster-rcnn's formulas in numpy."""
    found, real = padded(OBJECTS)
    on, off, match = assign_anchors(GRID, found, real, INSIDE)
    assert [on.sum(), off.sum(), (INSIDE & ~on & ~off).sum()] == [17, 5_313, 614]
    assert not (on & off).any() and not (on & ~INSIDE).any()
    overlaps = np.where(INSIDE[:, None], boxes.iou(GRID, OBJECTS), 0)
    expected = [0.762497, 0.713132, 0.096497]
    np.testing.assert_allclose(overlaps.max(0), expected, 0, 1e-6)
    # The third box has an anchor by rule (i) alone.
    assert on[overlaps[:, 2].argmax()] and match[overlaps[:, 2].argmax()] == 2


def plain_assign(anchors, objects, counts):
    overlaps = np.asarray(boxes.iou(anchors, objects)) * counts[:, None]
    labels = np.full(len(anchors), -1)
    labels[overlaps.max(1) < 0.3] = 0
    for g in range(len(objects)):
        if overlaps[:, g].max() > 0:
            labels[overlaps[:, g] == overlaps[:, g].max()] = 1
    labels[overlaps.max(1) >= 0.7] = 1
    labels[~counts] = -1
    return labels, overlaps.argmax(1)


@pytest.mark.parametrize("seed", range(4))
def test_anchors_are_assigned_as_in_the_loop(seed):
    own, objects = draw(300, seed), draw(4, seed + 10)
    own[:8] = own[0]  # equally good
    counts = np.random.default_rng(seed).random(300) < 0.8
    found, real = padded(objects)
    on, off, match = assign_anchors(own, found, real, counts)
    labels, expected = plain_assign(own, objects, counts)
    np.testing.assert_array_equal(on, labels == 1)
    np.testing.assert_array_equal(off, labels == 0)
    np.testing.assert_array_equal(match, expected)


def test_all_the_best_anchors_of_an_object_are_positive():
    own = np.float32([[0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [90, 0, 99, 9]])
    found, real = padded(np.float32([[5, 0, 15, 10]]))
    on, off, _ = assign_anchors(own, found, real, np.ones(4, bool))
    assert on.tolist() == [True, True, False, False]
    assert off.tolist() == [False, False, True, True]


def test_an_object_that_no_anchor_overlaps_gets_none():
    own, objects = draw(20, 0), np.float32([[500, 500, 520, 520]])
    on, off, _ = assign_anchors(own, *padded(objects), np.ones(20, bool))
    assert not on.any() and off.all()


def test_without_objects_all_anchors_that_count_are_negative():
    found, real = padded(OBJECTS[:0])
    on, off, _ = assign_anchors(GRID, found, real, INSIDE)
    assert not on.any()
    np.testing.assert_array_equal(off, INSIDE)
    chosen = anchor_targets(jax.random.key(0), GRID, found, real, INSIDE)
    assert chosen.sampled.all() and not chosen.positive.any()
    assert not chosen.deltas.any() and INSIDE[chosen.index].all()


def test_sampled_anchors_regress_to_the_object_of_their_largest_overlap():
    found, real = padded(OBJECTS)
    chosen = anchor_targets(jax.random.key(1), GRID, found, real, INSIDE)
    on, off, match = assign_anchors(GRID, found, real, INSIDE)
    assert chosen.positive.sum() == 17 and chosen.sampled.sum() == 256
    assert len(set(chosen.index.tolist())) == 256
    np.testing.assert_array_equal(on[chosen.index], chosen.positive)
    np.testing.assert_array_equal(off[chosen.index], ~chosen.positive)
    back = boxes.decode(chosen.deltas, GRID[chosen.index])
    wanted = found[match[chosen.index]]
    np.testing.assert_allclose(back[:17], wanted[:17], 0, 1e-3)
    assert not chosen.deltas[17:].any()


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        (20, 50, (4, 12)),
        (2, 50, (2, 14)),
        (0, 50, (0, 16)),
        (20, 3, (4, 3)),
        (0, 0, (0, 0)),
    ],
)
def test_a_sample_is_filled_with_negatives(positives, negatives, expected):
    order = np.random.default_rng(0).permutation(80)
    on = np.isin(np.arange(80), order[:positives])
    off = np.isin(np.arange(80), order[positives : positives + negatives])
    index, positive, counts = sample(jax.random.key(3), on, off, 16, 4)
    assert index.shape == positive.shape == counts.shape == (16,)
    assert (positive.sum(), (counts & ~positive).sum()) == expected
    assert on[index[positive]].all() and off[index[counts & ~positive]].all()
    assert len(set(index[counts].tolist())) == counts.sum()
    assert not index[~counts].any() and counts[: counts.sum()].all()


def test_a_sample_may_be_larger_than_the_candidates():
    on, off = np.array([True, False, False]), np.array([False, False, True])
    index, positive, counts = sample(jax.random.key(0), on, off, 8, 4)
    np.testing.assert_array_equal(index, [0, 2] + [0] * 6)
    np.testing.assert_array_equal(positive, [True] + [False] * 7)
    np.testing.assert_array_equal(counts, [True] * 2 + [False] * 6)


def test_every_candidate_is_sampled_equally_often():
    on, off = np.arange(40) < 10, np.arange(40) >= 20
    run = jax.vmap(lambda key: sample(key, on, off, 16, 4)[0])
    index = np.asarray(run(jax.random.split(jax.random.key(0), 4000)))
    times = np.bincount(index.ravel(), minlength=40)
    # 4 of 10 and 12 of 20 each time; five standard deviations of a binomial.
    np.testing.assert_allclose(times[:10], 1600, 0, 5 * 31)
    np.testing.assert_allclose(times[20:], 2400, 0, 5 * 31)
    assert not times[10:20].any()


def test_neither_the_order_of_a_batch_nor_the_devices_change_a_sample():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(8))
    found, real = map(
        np.stack, zip(*(padded(draw(3, s, 200)) for s in range(8)), strict=True)
    )

    def run(key, found, real):
        return anchor_targets(key, GRID, found, real, INSIDE)

    alone = [jax.jit(run)(keys[i], found[i], real[i]) for i in (0, 5)]
    order = np.arange(8)[::-1]
    turned = jax.jit(jax.vmap(run))(keys[order], found[order], real[order])
    placed = NamedSharding(Mesh(jax.devices(), "x"), PartitionSpec("x"))
    spread = jax.jit(jax.vmap(run), in_shardings=placed)(keys, found, real)
    assert len(spread.index.sharding.device_set) == 8
    for i, single in zip((0, 5), alone, strict=True):
        for own, reversed_batch, many in zip(single, turned, spread, strict=True):
            np.testing.assert_array_equal(own, reversed_batch[7 - i])
            np.testing.assert_array_equal(own, many[i])
    assert (alone[0].index != alone[1].index).any()


def region(seed=0, **options):
    """RoI targets of 60 proposals, of which 50 are there, and three real objects."""
    objects = draw(3, seed + 20)
    found, real = padded(objects)
    jitter = np.random.default_rng(seed).normal(0, 4, (40, 4))
    near = found[np.arange(40) % 3] + jitter.astype(np.float32)
    proposals = np.concatenate([near, draw(20, seed)])
    there, labels = np.arange(60) < 50, np.array([4, 0, 7, 9, 9])
    run = functools.partial(roi_targets, **options)
    key = jax.random.key(seed)
    chosen = run(key, proposals, there, found, labels, real)
    return chosen, proposals[:50], objects, labels


@pytest.mark.parametrize("background", [(0.0, 0.5), (0.1, 0.5)])
def test_regions_have_the_class_of_their_object(background):
    chosen, proposals, objects, labels = region(background=background)
    overlaps = np.asarray(boxes.iou(chosen.rois, objects))
    best, match = overlaps.max(1), overlaps.argmax(1)
    on = chosen.classes > 0
    assert 0 < on.sum() <= 32 and chosen.sampled[on].all()
    assert (best[on] >= 0.5).all()
    np.testing.assert_array_equal(chosen.classes[on], 1 + labels[match[on]])
    off = chosen.sampled & ~on
    assert off.any() and (best[off] < 0.5).all() and (best[off] >= background[0]).all()
    back = boxes.decode(chosen.deltas[on], chosen.rois[on], (10.0, 10.0, 5.0, 5.0))
    np.testing.assert_allclose(back, objects[match[on]], 0, 1e-3)
    assert not chosen.deltas[~on].any()
    candidates = np.concatenate([proposals, objects])
    near = (candidates[:, None] == chosen.rois[chosen.sampled][None]).all(2).any(0)
    assert near.all()


def test_real_objects_are_proposals_themselves():
    """Without any proposal the objects are the foreground, with deltas of zero."""
    found, real = padded(OBJECTS)
    none, labels = np.zeros((6, 4), np.float32), np.arange(5)
    chosen = roi_targets(
        jax.random.key(0), none, np.zeros(6, bool), found, labels, real
    )
    assert chosen.sampled.sum() == 3
    order = np.argsort(chosen.classes[:3])
    np.testing.assert_array_equal(chosen.rois[:3][order], OBJECTS)
    np.testing.assert_array_equal(chosen.classes[:3][order], [1, 2, 3])
    assert not chosen.deltas.any()


def test_an_image_without_objects_has_background_alone():
    found, real = padded(OBJECTS[:0])
    chosen = roi_targets(
        *(jax.random.key(0), draw(200, 1), np.ones(200, bool)),
        *(found, np.zeros(5, int), real),
    )
    assert chosen.sampled.all() and not chosen.classes.any()
    assert np.isfinite(chosen.deltas).all()


def test_proposals_get_no_gradient():
    found, real = padded(OBJECTS)

    def total(proposals):
        there = jnp.ones(20, bool)
        chosen = roi_targets(
            jax.random.key(0), proposals, there, found, np.zeros(5, int), real
        )
        return chosen.deltas.sum() + chosen.rois.sum()

    assert not jax.grad(total)(OBJECTS[np.arange(20) % 3] + 1).any()


def test_candidates_inside_a_crowd_can_be_spared():
    found = np.float32([[0, 0, 100, 100], [200, 0, 240, 40]])
    crowd, real = np.array([True, False]), np.array([False, True])
    own = np.float32(
        [[10, 10, 40, 40], [80, 0, 130, 50], [70, 0, 110, 50], [200, 0, 240, 38]]
    )
    spared = targets.inside_crowd(own, found, crowd)
    assert spared.tolist() == [True, False, True, False]
    key, all_count = jax.random.key(0), np.ones(4, bool)
    chosen = anchor_targets(key, own, found, real, all_count, spared, size=4)
    assert chosen.index[chosen.sampled].tolist() == [3, 1]
    chosen = roi_targets(
        key, own, all_count, found, np.array([0, 2]), real, spared, size=8
    )
    assert sorted(chosen.classes[chosen.sampled].tolist()) == [0, 3, 3]
