"""Wide ResNet: for ImageNet against torchvision, for CIFAR against the paper's rule."""

import numpy as np
import pytest
from parity import ours, port

import models
from models.wide_resnet import CifarWideResNet

torch = port.torch
functional = torch.nn.functional


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_wide_resnet_is_torchvisions(depth):
    model = models.create(f"wrn_{depth}_2", num_classes=1000)
    net = getattr(port.torchvision(), f"wide_resnet{depth}_2")()
    port.check_logits(net, model, ours.random_images((64, 96)))


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
    port.check_logits(net, model, ours.random_images(64))


class Unit(torch.nn.Module):
    """Section 2 and Figure 1(d), without its dropout."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1 = torch.nn.BatchNorm2d(before)
        self.conv1 = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(after)
        self.conv2 = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = None
        if before != after or stride != 1:
            self.shortcut = torch.nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        activated = self.bn1(x).relu()
        y = self.conv2(self.bn2(self.conv1(activated)).relu())
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(torch.nn.Module):
    """Table 1: WRN-n-k as the table's rows say it."""

    def __init__(self, depth, factor):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        units, before = [], 16
        for features, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range((depth - 4) // 6):
                after = features * factor
                units.append(Unit(before, after, stride if i == 0 else 1))
                before = after
        self.units = torch.nn.Sequential(*units)
        self.bn = torch.nn.BatchNorm2d(before)
        self.fc = torch.nn.Linear(before, 10)

    def forward(self, x):
        x = self.bn(self.units(self.conv1(x))).relu()
        return self.fc(functional.avg_pool2d(x, x.shape[2:]).flatten(1))


@pytest.mark.parametrize(
    "name", ["wrn_16_4", pytest.param("wrn_40_2", marks=pytest.mark.slow)]
)
def test_wide_resnet_for_cifar(name):
    _, depth, factor = name.split("_")
    model = models.create(name, num_classes=10)
    net = WideResNet(int(depth), int(factor))
    port.check_logits(net, model, ours.random_images((16, 24)))


def test_the_loss_and_the_gradients_of_a_wide_resnet_for_cifar():
    model = CifarWideResNet(num_classes=10, depth=10, widening_factor=2)
    images, labels = ours.random_images(16, batch=4), np.array([3, 9, 0, 4])
    port.check_gradients(WideResNet(10, 2), model, images, labels)
