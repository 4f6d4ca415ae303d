"""Dual path networks against timm, where they come from the authors."""

import pytest
from parity import port

import models


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
    port.torchvision()  # timm imports it.
    timm = pytest.importorskip("timm")
    model = models.create(name, num_classes=1000)
    port.check_logits(timm.create_model(name), model, port.random_images(64))
