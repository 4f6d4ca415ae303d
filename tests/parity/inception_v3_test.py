"""Inception-v3 against torchvision."""

import numpy as np
import pytest
from parity import ours, port

import models

pytestmark = pytest.mark.slow


def torchvisions(size):
    """torchvision's network, which needs another auxiliary head for small images.

    Images below 299x299 leave less than 5x5 pixels for that head's convolution;
    107x107 leaves 1x1.
    """
    net = port.torchvision().inception_v3(
        aux_logits=True, transform_input=False, init_weights=False, dropout=0.0
    )
    if size < 299:
        block = type(net.AuxLogits.conv1)
        net.AuxLogits.conv1 = block(128, 768, kernel_size=1)
    return net


def create(**fields):
    return models.create("inception_v3", num_classes=1000, dropout=0.0, **fields)


@pytest.mark.parametrize("size", [107, 299])
def test_inception_v3_is_torchvisions(size):
    model = create(count_include_pad=True)
    images = ours.random_images(size)
    port.check_logits(torchvisions(size), model, images, "inception_v3")


@pytest.mark.parametrize("size", [107, 299])
def test_the_loss_and_the_gradients_are_torchvisions(size):
    cross_entropy = port.torch.nn.functional.cross_entropy
    port.check_gradients(
        torchvisions(size),
        create(count_include_pad=True),
        ours.random_images(size, batch=4),
        np.array([3, 999, 0, 41]),
        their_loss=lambda out, labels: (
            cross_entropy(out.logits, labels)
            + 0.4 * cross_entropy(out.aux_logits, labels)
        ),
        our_loss=lambda logits, auxiliary, labels: (
            port.cross_entropy(logits, labels)
            + 0.4 * port.cross_entropy(auxiliary["aux1"], labels)
        ),
        network="inception_v3",
    )
