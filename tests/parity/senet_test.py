"""SENet against timm's "legacy" nets, which are the authors' Caffe nets."""

import pytest
from parity import ours, port

import models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("se_resnet50", "legacy_seresnet50"),
        ("se_resnet101", "legacy_seresnet101"),
        ("se_resnet152", "legacy_seresnet152"),
        ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
        ("se_resnext101_32x4d", "legacy_seresnext101_32x4d"),
        ("senet154", "legacy_senet154"),
    ],
)
def test_senet_is_timms(name, theirs):
    model = models.create(name, num_classes=1000)
    net = port.timm().create_model(theirs)
    port.check_logits(net, model, ours.random_images((96, 64)), name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs", "fields"),
    [
        ("se_resnet50", "seresnet50", {"stride_on": "3x3"}),
        ("se_resnext50_32x4d", "seresnext50_32x4d", {}),
    ],
)
def test_with_the_fields_of_the_note_it_is_timms_newer_network(name, theirs, fields):
    model = models.create(name, num_classes=1000, padded_pool=True, **fields)
    net = port.timm().create_model(theirs)
    images = ours.random_images((96, 64))
    # Out it goes under the names of the older one.
    port.check_logits(net, model, images, name, round_trip=False)
