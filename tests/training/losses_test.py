"""Losses against their formulas in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from training import losses

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(4, 6)).astype("f4"), np.array([0, 5, 2, 2])


def make(name, label_smoothing=0.0):
    return losses.make_loss(
        ConfigDict({"name": name, "label_smoothing": label_smoothing, "rubbish": 1.0})
    )


def targets(smoothing):
    return (1 - smoothing) * np.eye(6)[LABELS] + smoothing / 6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_is_that_of_the_smoothed_target(smoothing):
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    expected = -(targets(smoothing) * log_p).sum(1)
    loss = make("softmax_cross_entropy", smoothing)
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_the_mean_over_the_classes(smoothing):
    p, t = 1 / (1 + np.exp(-LOGITS)), targets(smoothing)
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1)
    loss = make("binary_cross_entropy", smoothing)
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-5)
    far = jnp.array([[300.0, -300.0]])  # a sigmoid of which is 0 or 1
    np.testing.assert_array_equal(
        make("binary_cross_entropy")(far, jnp.zeros(1, int)), 0
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_weight_multiplies_the_whole_loss_of_its_images(smoothing):
    loss = make("softmax_cross_entropy", smoothing)
    weights = np.array([0.5, 1, 3, 1, 1, 0])
    found = losses.weighted(loss, weights)(LOGITS, LABELS)
    expected = loss(LOGITS, LABELS) * np.array([0.5, 0, 3, 3])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert losses.weighted(loss, None) is loss


def test_balanced_weights_are_inverse_frequencies_with_mean_one():
    counts = np.array([1, 0, 4, 15])
    weights = losses.balanced_weights(counts)
    np.testing.assert_allclose(weights, [20 / 3, 0, 20 / 12, 20 / 45])
    assert weights @ counts / 20 == pytest.approx(1)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_a_loss_is_linear_in_the_target(name):
    """The loss of mixed labels is therefore the weighted sum of the losses; with a
    uniform target, as smoothing 1 gives, it is the mean over all labels."""
    each = [make(name)(LOGITS, np.full(4, label)) for label in range(6)]
    nearly = make(name, 1.0)(LOGITS, LABELS)
    np.testing.assert_allclose(np.mean(each, 0), nearly, rtol=1e-5)
