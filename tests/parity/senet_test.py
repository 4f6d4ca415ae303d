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
def test_se_resnet50_with_strides_on_the_3x3_is_timms_with_the_authors_pool():
    model = models.create("se_resnet50", num_classes=1000, stride_on="3x3")
    net = port.timm().create_model("seresnet50")
    net.maxpool = port.torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    port.check_logits(net, model, ours.random_images((96, 64)))
