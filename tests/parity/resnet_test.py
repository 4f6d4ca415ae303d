"""ResNet against torchvision."""

import functools

import numpy as np
import pytest
from parity import ours, port

import models

torch = port.torch
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", slow("resnet34"), slow("resnet101"), slow("resnet152")],
)
def test_resnet_is_torchvisions(name):
    model = models.create(name, num_classes=1000, **stride(name))
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, ours.random_images((64, 96)))


def test_the_loss_and_the_gradients_of_resnet18_are_torchvisions():
    model = models.create("resnet18", num_classes=1000)
    net = port.torchvision().resnet18()
    labels = np.array([3, 999, 0, 41])
    port.check_gradients(net, model, ours.random_images(64, batch=4), labels)


@pytest.mark.parametrize("option", ["A", slow("B")])
def test_resnet20_is_torchvisions_with_the_sizes_for_cifar(option):
    net = port.torchvision().resnet18(num_classes=10)
    block = type(net.layer1[0])
    net.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(16)
    net.inplanes = 16
    net.layer1 = net._make_layer(block, 16, 3)
    net.layer2 = net._make_layer(block, 32, 3, stride=2)
    net.layer3 = net._make_layer(block, 64, 3, stride=2)
    net.maxpool = net.layer4 = torch.nn.Identity()
    net.fc = torch.nn.Linear(64, 10)
    if option == "A":
        net.layer2[0].downsample = net.layer3[0].downsample = HalveAndPad()
    model = models.create("resnet20", num_classes=10, shortcut=option)
    port.check_logits(net, model, ours.random_images((32, 40)))


class HalveAndPad(torch.nn.Module):
    """Option A."""

    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


def stride(name):
    """torchvision's bottlenecks are v1.5."""
    return {"stride_on": "3x3"} if name not in ("resnet18", "resnet34") else {}
