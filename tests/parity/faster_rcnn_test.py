"""Faster R-CNN against a C4 of torchvision's Python parts, in float64.

Detectron2's C4 is the same network. Torchvision's compiled operators may not fit torch,
so NMS is a loop here and RoIAlign the Python that torchvision keeps beside its own.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import ours, port
from parity.port import torch

import weights
from detection.objective import LOSSES, Detection
from models import resnet
from models.faster_rcnn import FasterRCNN
from weights import twins

CLASSES, HEIGHT, WIDTH = 3, 64, 80
OBJECTS = np.array([[8.0, 4, 52, 50], [46, 24, 79, 62], [4, 38, 27, 61]])
LABELS = np.array([1, 0, 2])


def plain_nms(boxes, scores, threshold):
    order = torch.argsort(scores, descending=True, stable=True)
    overlaps = twins.torchvision_models().detection.rpn.box_ops.box_iou(boxes, boxes)
    kept = []
    for i in order.tolist():
        if not (overlaps[i, kept] > threshold).any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture
def networks(monkeypatch, float64):
    """Our network and its twin with one block in each stage, and the variables."""
    monkeypatch.setitem(resnet.TABLE_1, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    model = FasterRCNN(
        CLASSES,
        depth=18,
        rpn_channels=256,
        objectness="sigmoid",
        pooling="align",
        pool_size=4,
        anchor_style="centred",
        anchor_sizes=(24, 48),
        anchor_ratios=(0.25, 1, 4),  # whose sides float32 has exactly
        min_size=1e-3,
        pre_nms=(500, 500),
        post_nms=(40, 16),
        nms=0.5,
        dtype=jnp.float64,
    )
    twins.torchvision_models()
    align = importlib.import_module("torchvision.ops.roi_align")
    monkeypatch.setattr(align, "_roi_align", align._roi_align.__wrapped__)
    monkeypatch.setattr(align, "_has_ops", lambda: False)
    monkeypatch.setattr(
        importlib.import_module("torchvision.ops.boxes"), "nms", plain_nms
    )
    mean, std = (0.0,) * 3, (1.0,) * 3
    net = twins.faster_rcnn(model, mean, std, HEIGHT, WIDTH)
    net = port.randomize(net.double())
    net.rpn.head.cls_logits.weight.data /= 10
    net.rpn.head.bbox_pred.weight.data /= 50  # proposals resemble anchors
    net.roi_heads.box_predictor.bbox_pred.weight.data /= 2
    images = np.float64(ours.random_images((HEIGHT, WIDTH), batch=1))
    variables = ours.by_name("torch", "faster_rcnn", model, images, port.state(net))
    return model, net, variables, images


def same(ours, theirs, atol=1e-9):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), 0, atol)


def test_proposals_regions_and_detections(networks):
    model, net, variables, images = networks

    def run(model, images):
        sizes = jnp.array([[HEIGHT, WIDTH]])
        x, logits, deltas = model.first_stage(images, train=False)
        rois, there = model.proposals(logits, deltas, x.shape[1:3], sizes, train=False)
        regions = model.second_stage([(x, sizes)], rois, sizes, train=False)
        return x, logits, deltas, rois, there, regions, model(images, train=False)

    apply = jax.jit(functools.partial(model.apply, method=run))
    x, logits, deltas, rois, there, regions, found = apply(variables, images)
    net.eval()
    inputs = port.to_torch(images)
    with torch.no_grad():
        features = net.backbone(inputs)
        scores, codes = net.rpn.head([features])
        image_list = importlib.import_module(
            "torchvision.models.detection.image_list"
        ).ImageList(inputs, [(HEIGHT, WIDTH)])
        proposals, _ = net.rpn(image_list, {"0": features})
        pooled = net.roi_heads.box_roi_pool({"0": features}, proposals, None)
        second = net.roi_heads.box_predictor(net.roi_heads.box_head(pooled))
        (theirs,) = net(list(inputs))
    same(x, features.permute(0, 2, 3, 1))
    same(logits[0], scores[0].permute(0, 2, 3, 1).reshape(-1))
    same(deltas[0], codes[0].permute(0, 2, 3, 1).reshape(-1, 4))
    assert there.sum() == len(proposals[0]) == 16
    same(rois[there], proposals[0])
    same(regions[0][there], second[0])
    same(regions[1][there].reshape(there.sum(), -1), second[1])
    assert found.there.sum() == len(theirs["scores"]) > 10
    same(found.scores[found.there], theirs["scores"])
    same(found.boxes[found.there], theirs["boxes"])
    same(found.labels[found.there] + 1, theirs["labels"])


def test_context(networks):
    """The twin's head of regions sees the whole image too, before linear layers."""
    model, net, variables, images = networks
    given = model.clone(context=True)
    rng = np.random.default_rng(0)
    rois = np.array([[[8.0, 4, 52, 50], [46, 24, 80, 62]]])
    channels = net.roi_heads.box_predictor.cls_score.in_features
    weights = {
        name: rng.normal(0, 0.05, (2 * channels, outputs))
        for name, outputs in (("cls", CLASSES + 1), ("reg", 4 * (CLASSES + 1)))
    }
    head = {
        name: {"kernel": kernel, "bias": np.zeros(kernel.shape[1])}
        for name, kernel in weights.items()
    }
    variables = {**variables, "params": {**variables["params"], "head": head}}

    def run(model, images):
        sizes = jnp.array([[HEIGHT, WIDTH]])
        x = model.trunk(images, train=False)
        return model.second_stage([(x, sizes)], rois, sizes, train=False)

    scores, codes = jax.jit(functools.partial(given.apply, method=run))(
        variables, images
    )
    net.eval()
    whole = np.array([[0.0, 0, WIDTH, HEIGHT]])
    with torch.no_grad():
        features = {"0": net.backbone(port.to_torch(images))}
        seen = [
            net.roi_heads.box_head(
                net.roi_heads.box_roi_pool(features, [torch.tensor(boxes)], None)
            )
            for boxes in (rois[0], whole)
        ]
        seen = torch.cat([seen[0], seen[1].expand(len(seen[0]), -1)], 1)
        expected = [seen @ torch.tensor(kernel) for kernel in weights.values()]
    same(scores[0], expected[0])
    same(codes[0].reshape(len(rois[0]), -1), expected[1])


def test_losses_and_gradients(networks):
    """Everything is sampled, so that chance has no part in it."""
    model, net, variables, images = networks
    task = Detection(
        model,
        lambda batch: batch["image"],
        frozen_statistics=True,
        only_inside=False,
        box_beta=1 / 9,
        rpn_batch=120,
        rpn_fg=1.0,
        roi_batch=45,
        roi_fg=1.0,
        roi_iou=0.4,
        roi_background=(0.0, 0.4),
    )
    batch = {
        "image": images,
        "image_size": np.array([[HEIGHT, WIDTH]]),
        "boxes": np.pad(OBJECTS, ((0, 2), (0, 0)))[None],
        "labels": np.pad(LABELS, (0, 2))[None],
        "real": np.arange(5)[None] < 3,
        "crowd": np.zeros((1, 5), bool),
        "index": np.zeros(1, np.int32),
        "epoch": np.zeros(1, np.int32),
    }

    @jax.jit
    def run(params):
        def loss(params):
            losses, sums, _ = task({**variables, "params": params}, batch, 0, None)
            return losses[0], sums

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, sums), gradients = run(variables["params"])

    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for part in (net.rpn, net.roi_heads):
        part.fg_bg_sampler.batch_size_per_image = 1000
        part.fg_bg_sampler.positive_fraction = 1.0
    assign = net.rpn.assign_targets_to_anchors

    def double(*args):  # torch's loss has its labels' precision
        labels, found = assign(*args)
        return [x.double() for x in labels], found

    net.rpn.assign_targets_to_anchors = double
    matcher = net.roi_heads.proposal_matcher
    matcher.high_threshold = matcher.low_threshold = 0.4
    target = {"boxes": torch.tensor(OBJECTS), "labels": torch.tensor(LABELS + 1)}
    theirs = net(list(port.to_torch(images)), [target])
    names = "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"
    assert 3 <= sums["positives"] < sums["anchors"] <= 120
    assert 6 <= sums["foreground"] < sums["regions"] <= 43
    for mine, name in zip(LOSSES, names, strict=True):
        np.testing.assert_allclose(sums[mine], theirs[name].item(), 1e-10)
    sum(theirs.values()).backward()
    named = port.state(net, lambda tensor: tensor.grad)
    expected = ours.by_name("torch", "faster_rcnn", model, images, named)["params"]
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, mine), other in zip(flat, jax.tree.leaves(expected), strict=True):
        difference = np.abs(mine - other).max() / np.abs(other).max()
        assert difference < 1e-8, f"{jax.tree_util.keystr(path)}: {difference}"


def test_names_come_back_to_the_bit(networks):
    model, net, variables, _ = networks
    port.check_round_trip(net.float(), "faster_rcnn", variables)
    with pytest.raises(weights.WeightsError, match="need pooling 'align', not 'pool'"):
        twins.faster_rcnn(model.clone(pooling="pool"))
