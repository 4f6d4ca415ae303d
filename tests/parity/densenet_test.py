"""DenseNet against torchvision and keras."""

import numpy as np
import pytest
from parity import port

import models


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        pytest.param("densenet161", marks=pytest.mark.slow),
        pytest.param("densenet169", marks=pytest.mark.slow),
        pytest.param("densenet201", marks=pytest.mark.slow),
    ],
)
def test_densenet_is_torchvisions(name):
    model = models.create(name, num_classes=1000)
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, port.random_images((64, 96)))


@pytest.mark.slow
def test_the_loss_and_the_gradients_of_densenet121_are_torchvisions():
    model = models.create("densenet121", num_classes=1000)
    net = port.torchvision().densenet121()
    labels = np.array([3, 999, 0, 41])
    port.check_gradients(net, model, port.random_images(64, batch=4), labels)
