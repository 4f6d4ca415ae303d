"""Inception-v4 and Inception-ResNet-v2 against timm."""

import numpy as np
import pytest
from parity import port

import models

pytestmark = pytest.mark.slow


def timms(name):
    port.torchvision()  # which timm imports
    timm = pytest.importorskip("timm", reason="make parity installs the references")
    return timm.create_model(name, pretrained=False)


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_logits_are_timms(name):
    images = port.random_images((107, 139))
    # So deep a network with random weights and statistics hardly tells one image of
    # noise from another, but a loud one from a soft one.
    images[1] *= 16
    port.check_logits(timms(name), models.create(name, num_classes=1000), images)


def test_the_loss_and_the_gradients_of_inception_resnet_v2_are_timms():
    name = "inception_resnet_v2"
    model = models.create(name, num_classes=1000, dropout=0.0)
    labels = np.array([3, 999, 0, 41])
    images = port.random_images(107, batch=4)
    port.check_gradients(timms(name), model, images, labels)
