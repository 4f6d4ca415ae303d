"""Training criteria by name: functions (logits [B, K], labels [B]) -> losses [B].

If an image has two labels (mixup, cutmix), its loss is linear in the target: it is the
weighted sum of the loss for each label. So class weights hold for each label, too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import lenet


def make_loss(config):
    """Returns the function that `config.loss` describes, in float32."""
    if config.name == "map":
        return functools.partial(lenet.map_loss, rubbish=config.rubbish)
    if config.name == "ml":
        return lenet.ml_loss
    loss = {
        "softmax_cross_entropy": softmax_cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
    }[config.name]
    return functools.partial(loss, label_smoothing=config.label_smoothing)


def probabilities(name):
    """Returns the function from logits to what is shown as probabilities of classes.

    Binary cross entropy learns one for each class, and they do not add up to 1.
    """
    return jax.nn.sigmoid if name == "binary_cross_entropy" else jax.nn.softmax


def note(name):
    """Says where `probabilities` are none that the loss learns; else ""."""
    if name in ("softmax_cross_entropy", "binary_cross_entropy"):
        return ""
    return f"probabilities are the softmax of the scores of the loss {name!r}"


def make_criterion(config):
    """The criterion whose curvature "sdlm" uses: eq. 8 for "map", else the loss.

    The second derivatives of eq. 8 are the 2 of LeNet-5's appendix C. Those of eq. 9
    vanish for a pattern that is learnt, so steps would grow from pass to pass.
    """
    return lenet.ml_loss if config.name == "map" else make_loss(config)


def weighted(loss, class_weights):
    """Returns `loss` times the weight of the label's class; None changes nothing.

    The losses are not divided by the weights of a batch, so parts of a batch add up.
    """
    if class_weights is None:
        return loss
    weights = jnp.asarray(class_weights, jnp.float32)
    return lambda logits, labels: weights[labels] * loss(logits, labels)


def balanced_weights(counts):
    """Returns weights [K] in inverse proportion to the `counts` of images per class.

    Their mean over the images is 1; a class without images has the weight 0.
    """
    there = counts > 0
    return np.where(there, counts.sum() / (there.sum() * np.maximum(counts, 1)), 0.0)


def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
    """Smooths the labels as in Inception-v3 (Szegedy et al., 2015, Section 7)."""
    targets = _targets(logits, labels, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(logits, labels, label_smoothing=0.0):
    """Scores each class by its own sigmoid and averages over the classes.

    The source is ResNet strikes back (Wightman, Touvron, Jegou, 2021, Section 2.3),
    https://arxiv.org/abs/2110.00476.
    """
    targets = _targets(logits, labels, label_smoothing)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def _targets(logits, labels, label_smoothing):
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.smooth_labels(targets, label_smoothing)
