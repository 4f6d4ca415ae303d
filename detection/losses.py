"""The four losses of Faster R-CNN for one image, in float32 at least.

Equation 1 of https://arxiv.org/abs/1506.01497 with the normalisation of the authors'
py-faster-rcnn: every loss is divided by the number of entries that were sampled. The
paper divides the first stage's box loss by the number of positions and weighs it by 10,
which is nearly the same.
"""

import jax.numpy as jnp
import optax


def smooth_l1(x, beta):
    """Returns |x| - beta / 2, and x^2 / (2 beta) where |x| < beta.

    Caffe's sigma is 1 / sqrt(beta). For beta 0 it is |x|.
    """
    x = jnp.abs(x)
    return jnp.where(x < beta, x * x / (2 * beta or 1), x - beta / 2)


def rpn_losses(logits, deltas, targets, beta=1 / 9):
    """Returns the class loss and the box loss of the region proposal network.

    Args:
      logits: [A], of an anchor being on an object. The softmax of the paper's two
        scores is the sigmoid of their difference.
      deltas: [A, 4].
      targets: `targets.AnchorTargets`.
      beta: of `smooth_l1`; 1/9 is Caffe's sigma of 3.
    """
    logits, deltas = (_full(x[targets.index]) for x in (logits, deltas))
    labels = targets.positive.astype(logits.dtype)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    boxes = _box_losses(deltas, targets.deltas, targets.positive, beta)
    return _mean(losses, targets.sampled), _mean(boxes, targets.sampled)


def roi_losses(logits, deltas, targets, beta=1.0):
    """Returns the class loss and the box loss of the second stage.

    Args:
      logits: [S, K + 1], the background first.
      deltas: [S, N, 4]; N is K + 1, or K without the background, or 1 for all classes.
      targets: `targets.RoiTargets`.
      beta: of `smooth_l1`.
    """
    logits, deltas = _full(logits), _full(deltas)
    classes = targets.classes
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    column = jnp.maximum(classes - (logits.shape[1] - deltas.shape[1]), 0)
    deltas = jnp.take_along_axis(deltas, column[:, None, None], 1)[:, 0]
    boxes = _box_losses(deltas, targets.deltas, classes > 0, beta)
    return _mean(losses, targets.sampled), _mean(boxes, targets.sampled)


def _full(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _box_losses(deltas, wanted, positive, beta):
    losses = smooth_l1(deltas - wanted, beta).sum(1)
    return jnp.where(positive, losses, 0)


def _mean(losses, sampled):
    total = jnp.where(sampled, losses, 0).sum()
    return total / jnp.maximum(sampled.sum(), 1)
