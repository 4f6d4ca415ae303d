"""The four losses against their formulas, entry by entry, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detection import losses
from detection.targets import AnchorTargets, RoiTargets

RNG = np.random.default_rng(0)
DELTAS = RNG.normal(size=(6, 4)).astype(np.float32)
SAMPLED = np.array([True, True, True, True, False, False])


def plain_smooth_l1(x, sigma):
    """Caffe's form."""
    x = np.abs(np.float64(x))
    return np.where(x < 1 / sigma**2, 0.5 * sigma**2 * x**2, x - 0.5 / sigma**2)


@pytest.mark.parametrize("sigma", [1, 3])
def test_smooth_l1_is_caffe_s(sigma):
    x = np.float32(np.linspace(-2, 2, 41))
    own = losses.smooth_l1(x, 1 / sigma**2)
    np.testing.assert_allclose(own, plain_smooth_l1(x, sigma), 0, 1e-6)
    slope = jax.vmap(jax.grad(lambda x: losses.smooth_l1(x, 1 / sigma**2)))(x)
    np.testing.assert_allclose(slope, np.clip(sigma**2 * x, -1, 1), 0, 1e-5)


def test_smooth_l1_without_its_parabola():
    x = jnp.float32([-2, 0, 0.5])
    np.testing.assert_array_equal(losses.smooth_l1(x, 0.0), [2, 0, 0.5])
    slopes = jax.vmap(jax.grad(lambda x: losses.smooth_l1(x, 0.0)))(x)
    assert jnp.isfinite(slopes).all() and slopes[0] == -1 and slopes[2] == 1


def test_rpn_losses():
    logits = RNG.normal(size=10).astype(np.float32)
    deltas = RNG.normal(size=(10, 4)).astype(np.float32)
    index, positive = np.array([7, 2, 9, 4, 0, 0]), np.arange(6) < 2
    targets = AnchorTargets(index, positive, DELTAS * positive[:, None], SAMPLED)
    own = jax.jit(losses.rpn_losses)(logits, deltas, targets)
    scores = np.stack([0 * logits, logits], 1)[index[:4]]  # background, object
    softmax = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = -np.log(softmax[np.arange(4), positive[:4].astype(int)]).mean()
    np.testing.assert_allclose(own[0], expected, 1e-5)
    boxes = plain_smooth_l1(deltas[index[:2]] - DELTAS[:2], 3).sum() / 4
    np.testing.assert_allclose(own[1], boxes, 1e-5)


@pytest.mark.parametrize("columns", [5, 4, 1])
def test_roi_losses(columns):
    """Four classes, with boxes for the background too, without, or for all alike."""
    logits = RNG.normal(size=(6, 5)).astype(np.float32)
    deltas = RNG.normal(size=(6, columns, 4)).astype(np.float32)
    classes = np.array([4, 1, 0, 0, 0, 0])
    wanted = DELTAS * (classes > 0)[:, None]
    targets = RoiTargets(np.zeros((6, 4)), classes, wanted, SAMPLED)
    own = jax.jit(losses.roi_losses)(logits, deltas, targets)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(softmax[np.arange(4), classes[:4]]).mean()
    np.testing.assert_allclose(own[0], expected, 1e-5)
    column = {5: [4, 1], 4: [3, 0], 1: [0, 0]}[columns]
    boxes = plain_smooth_l1(deltas[[0, 1], column] - DELTAS[:2], 1).sum() / 4
    np.testing.assert_allclose(own[1], boxes, 1e-5)


def test_an_image_without_samples_has_no_loss_and_no_gradient():
    none = np.zeros(6, bool)
    anchors = AnchorTargets(np.zeros(6, int), none, 0 * DELTAS, none)
    rois = RoiTargets(0 * DELTAS, np.zeros(6, int), 0 * DELTAS, none)

    def total(logits, deltas, scores):
        first = losses.rpn_losses(logits, deltas, anchors)
        return sum(first + losses.roi_losses(scores, deltas[:, None], rois))

    arrays = jnp.ones(6), jnp.ones((6, 4)), jnp.ones((6, 3))
    value, slopes = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*arrays)
    assert value == 0 and not any(slope.any() for slope in slopes)


def test_losses_of_low_precision_are_computed_in_float32():
    targets = RoiTargets(DELTAS, np.zeros(6, int), 0 * DELTAS, SAMPLED)
    logits = jnp.ones((6, 3), jnp.bfloat16)
    found = losses.roi_losses(logits, jnp.ones((6, 1, 4), jnp.bfloat16), targets)
    assert all(loss.dtype == jnp.float32 for loss in found)
    np.testing.assert_allclose(found[0], np.log(3), 1e-6)
