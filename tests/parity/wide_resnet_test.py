"""Wide ResNet: for ImageNet against torchvision, for CIFAR against the paper's rule."""

import numpy as np
import pytest
from parity import ours, port

import models
from benchmarks import torch_networks
from models.wide_resnet import CifarWideResNet

torch = port.torch


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_wide_resnet_is_torchvisions(depth):
    name = f"wrn_{depth}_2"
    model = models.create(name, num_classes=1000)
    net = getattr(port.torchvision(), f"wide_resnet{depth}_2")()
    port.check_logits(net, model, ours.random_images((64, 96)), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrn_18_1.5", "wrn_34_2"])
def test_wide_basic_blocks_are_torchvisions_with_more_maps(name):
    _, depth, factor = name.split("_")
    net = getattr(port.torchvision(), f"resnet{depth}")()
    block = type(net.layer1[0])
    for i in range(1, 5):
        features = int(64 * float(factor) * 2 ** (i - 1))
        size = len(getattr(net, f"layer{i}"))
        if i == 1:
            net.inplanes = 64
        layer = net._make_layer(block, features, size, stride=1 if i == 1 else 2)
        setattr(net, f"layer{i}", layer)
    net.fc = torch.nn.Linear(features, 1000)
    model = models.create(name, num_classes=1000)
    port.check_logits(net, model, ours.random_images(64), name)


@pytest.mark.parametrize(
    "name", ["wrn_16_4", "wrn_40_1", pytest.param("wrn_40_2", marks=pytest.mark.slow)]
)
def test_wide_resnet_for_cifar(name):
    _, depth, factor = name.split("_")
    model = models.create(name, num_classes=10)
    net = torch_networks.WideResNet(int(depth), int(factor))
    port.check_logits(net, model, ours.random_images((16, 24)))


def test_the_loss_and_the_gradients_of_a_wide_resnet_for_cifar():
    model = CifarWideResNet(num_classes=10, depth=10, widening_factor=2)
    images, labels = ours.random_images(16, batch=4), np.array([3, 9, 0, 4])
    port.check_gradients(torch_networks.WideResNet(10, 2), model, images, labels)
