"""Inception-v4 and Inception-ResNet-v2 against timm."""

import numpy as np
import pytest
from parity import ours, port

import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_logits_are_timms(name):
    images = ours.random_images((107, 139))
    # So deep a network with random weights and statistics hardly tells one image of
    # noise from another, but a loud one from a soft one.
    images[1] *= 16
    model = models.create(name, num_classes=1000)
    port.check_logits(port.timm().create_model(name), model, images, name)


def test_the_loss_and_the_gradients_of_inception_resnet_v2_are_timms():
    name = "inception_resnet_v2"
    model = models.create(name, num_classes=1000, dropout=0.0)
    labels = np.array([3, 999, 0, 41])
    images = ours.random_images(107, batch=4)
    net = port.timm().create_model(name)
    port.check_gradients(net, model, images, labels, network=name)
