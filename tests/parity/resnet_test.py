"""ResNet against torchvision."""

import functools

import numpy as np
import pytest
from parity import ours, port

import models
from benchmarks import torch_networks

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", slow("resnet34"), slow("resnet101"), slow("resnet152")],
)
def test_resnet_is_torchvisions(name):
    model = models.create(name, num_classes=1000, **stride(name))
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, ours.random_images((64, 96)), name)


def test_the_loss_and_the_gradients_of_resnet18_are_torchvisions():
    model = models.create("resnet18", num_classes=1000)
    net = port.torchvision().resnet18()
    labels = np.array([3, 999, 0, 41])
    images = ours.random_images(64, batch=4)
    port.check_gradients(net, model, images, labels, network="resnet18")


@pytest.mark.parametrize("option", ["A", slow("B")])
def test_resnet20_is_torchvisions_with_the_sizes_for_cifar(option):
    net = torch_networks.cifar_resnet20(option)
    model = models.create("resnet20", num_classes=10, shortcut=option)
    port.check_logits(net, model, ours.random_images((32, 40)), "resnet20")


def stride(name):
    """torchvision's bottlenecks are v1.5."""
    return {"stride_on": "3x3"} if name not in ("resnet18", "resnet34") else {}
