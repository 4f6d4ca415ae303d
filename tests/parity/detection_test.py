"""Boxes, RoIAlign and the losses of detection against torchvision and torch.

The wheels' compiled operators may not fit torch's, so RoIAlign is compared with the
Python that torchvision keeps beside its own.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.port import torch, torchvision

from detection import losses
from detection.targets import RoiTargets
from models import boxes, roi_pooling

RNG = np.random.default_rng(0)


def draw(count, width=320, height=240):
    low = RNG.uniform(0, [width - 20, height - 20], (count, 2))
    high = np.minimum(low + RNG.uniform(5, 200, (count, 2)), [width, height])
    return np.concatenate([low, high], 1)


def same(ours, theirs, atol=1e-10):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), 0, atol)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_and_its_gradient(samples, aligned, float64):
    torchvision()
    theirs = importlib.import_module("torchvision.ops.roi_align")._roi_align.__wrapped__
    x, rois = RNG.normal(size=(15, 20, 4)), draw(12)
    options = {"bins": 7, "stride": 16, "samples": samples, "aligned": aligned}
    run = functools.partial(roi_pooling.roi_align, rois=rois, **options)
    y, back = jax.vjp(run, jnp.asarray(x))
    dy = RNG.normal(size=y.shape)
    image = torch.tensor(x.transpose(2, 0, 1)[None], requires_grad=True)
    batched = torch.tensor(np.insert(rois, 0, 0, axis=1))
    z = theirs(image, batched, 1 / 16, 7, 7, samples, aligned)
    same(y, z.permute(0, 2, 3, 1))
    z.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    same(back(jnp.asarray(dy))[0], image.grad[0].permute(1, 2, 0))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_coding(weights, float64):
    torchvision()
    coder = importlib.import_module("torchvision.models.detection._utils").BoxCoder
    found, anchors = draw(50), draw(50)
    coded = boxes.encode(jnp.asarray(found), anchors, weights)
    same(coded, coder(weights).encode_single(*map(torch.tensor, (found, anchors))))
    deltas = RNG.normal(size=(50, 4)) * 9
    decoded = boxes.decode(jnp.asarray(deltas), anchors, weights)
    tensors = torch.tensor(deltas), torch.tensor(anchors)
    same(decoded, coder(weights).decode_single(*tensors), 1e-6)


def test_overlaps(float64):
    torchvision()
    theirs = importlib.import_module("torchvision.ops.boxes")
    a, b = draw(30), draw(20)
    same(boxes.iou(jnp.asarray(a), b), theirs.box_iou(*map(torch.tensor, (a, b))))


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_losses_of_regions(beta, float64):
    """The sum over the foreground is divided by all regions, as in Caffe."""
    torchvision()
    heads = importlib.import_module("torchvision.models.detection.roi_heads")
    logits, deltas = RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4, 4))
    classes, wanted = RNG.integers(0, 4, 20), RNG.normal(size=(20, 4)) / 5
    targets = RoiTargets(wanted, jnp.asarray(classes), wanted, jnp.ones(20, bool))
    ours = losses.roi_losses(jnp.asarray(logits), jnp.asarray(deltas), targets, beta)
    own = torch.tensor(deltas.reshape(20, 16))
    labels, regression = [torch.tensor(classes)], [torch.tensor(wanted)]
    smooth = functools.partial(torch.nn.functional.smooth_l1_loss, beta=beta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            heads.F, "smooth_l1_loss", lambda *args, beta, **rest: smooth(*args, **rest)
        )
        theirs = heads.fastrcnn_loss(torch.tensor(logits), own, labels, regression)
    for mine, other in zip(ours, theirs, strict=True):
        same(mine, other, 1e-5)  # losses are float32
