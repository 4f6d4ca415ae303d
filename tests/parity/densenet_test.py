"""DenseNet against torchvision."""

import numpy as np
import pytest
from parity import ours, port

import models
from models import densenet


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("densenet161", marks=pytest.mark.slow),
        pytest.param("densenet169", marks=pytest.mark.slow),
        pytest.param("densenet201", marks=pytest.mark.slow),
    ],
)
def test_densenet_is_torchvisions(name):
    model = models.create(name, num_classes=1000)
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, ours.random_images((64, 96)), name)


@pytest.mark.slow
def test_the_loss_and_the_gradients_of_densenet121_are_torchvisions():
    model = models.create("densenet121", num_classes=1000)
    net = port.torchvision().densenet121()
    labels = np.array([3, 999, 0, 41])
    images = ours.random_images(64, batch=4)
    port.check_gradients(net, model, images, labels, network="densenet121")


def test_the_loss_and_the_gradients_of_a_small_densenet(monkeypatch):
    monkeypatch.setitem(densenet.IMAGENET, 14, (4, (1, 2, 1, 1)))
    model = densenet.DenseNet(7, depth=14)
    net = port.torchvision().DenseNet(4, (1, 2, 1, 1), 8, num_classes=7)
    labels = np.array([3, 6, 0, 4])
    port.check_gradients(net, model, ours.random_images(64, batch=4), labels)


@pytest.mark.parametrize("bc", [False, True])
def test_networks_for_cifar_are_torchvisions_with_another_stem(bc):
    stem = 24 if bc else 16
    net = port.torchvision().DenseNet(12, (2, 2, 2), stem, num_classes=10)
    net.features.conv0 = port.torch.nn.Conv2d(3, stem, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, port.torch.nn.Identity())
    if not bc:
        leave_out_bottlenecks_and_compression(net)
    depth = 16 if bc else 10
    model = densenet.CifarDenseNet(
        10, depth=depth, bottleneck=bc, compression=0.5 if bc else 1.0
    )
    port.check_logits(net, model, ours.random_images(16))


def leave_out_bottlenecks_and_compression(net):
    torch, features, maps = port.torch, net.features, 16
    for block in (1, 2, 3):
        for layer in features.get_submodule(f"denseblock{block}").values():
            layer.norm1 = layer.relu1 = layer.conv1 = torch.nn.Identity()
            layer.norm2 = torch.nn.BatchNorm2d(maps)
            layer.conv2 = torch.nn.Conv2d(maps, 12, 3, padding=1, bias=False)
            maps += 12
        if block < 3:
            transition = features.get_submodule(f"transition{block}")
            transition.norm = torch.nn.BatchNorm2d(maps)
            transition.conv = torch.nn.Conv2d(maps, maps, 1, bias=False)
    features.norm5 = torch.nn.BatchNorm2d(maps)
    net.classifier = torch.nn.Linear(maps, 10)
