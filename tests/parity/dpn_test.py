"""Dual path networks against timm, where they come from the authors."""

import numpy as np
import pytest
from parity import ours, port

import models
from models import dpn


@pytest.mark.parametrize(
    "name",
    [
        "dpn68",
        pytest.param("dpn92", marks=pytest.mark.slow),
        pytest.param("dpn98", marks=pytest.mark.slow),
        pytest.param("dpn131", marks=pytest.mark.slow),
        pytest.param("dpn107", marks=pytest.mark.slow),
    ],
)
def test_dpn_is_timms(name):
    model = models.create(name, num_classes=1000)
    net = port.timm().create_model(name)
    port.check_logits(net, model, ours.random_images(64), name)


def test_the_loss_and_the_gradients_of_a_small_dpn(monkeypatch):
    sizes, increments = (1, 2, 1, 1), (2, 3, 4, 5)
    small = ((3, 10), 64, 8, 4, sizes, increments)
    monkeypatch.setitem(dpn.NETWORKS, 17, small)
    net = port.timm().models.dpn.DPN(
        sizes,
        increments,
        k_r=8,
        groups=4,
        num_classes=7,
        small=True,
        num_init_features=10,
    )
    labels = np.array([3, 6, 0, 4])
    images = ours.random_images(64, batch=4)
    port.check_gradients(net, dpn.DPN(7, depth=17), images, labels, network="dpn17")
