"""ResNet against torchvision."""

import numpy as np
import pytest
from parity import port

import models


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnet_is_torchvisions(name):
    model = models.create(name, num_classes=1000, **stride(name))
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, port.random_images((64, 96)))


def test_the_loss_and_the_gradients_of_resnet18_are_torchvisions():
    model = models.create("resnet18", num_classes=1000)
    net = port.torchvision().resnet18()
    labels = np.array([3, 999, 0, 41])
    port.check_gradients(net, model, port.random_images(64, batch=4), labels)


def stride(name):
    """torchvision's bottlenecks are v1.5."""
    return {"stride_on": "3x3"} if name not in ("resnet18", "resnet34") else {}
