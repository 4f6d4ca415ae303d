"""ResNeXt against torchvision and timm."""

import pytest
from parity import ours, port

import models

torch = port.torch


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
)
def test_resnext_is_torchvisions(name):
    net = getattr(port.torchvision(), name)()
    check(name, net, 1000)


@pytest.mark.slow
def test_resnext101_32x4d_is_timms():
    check("resnext101_32x4d", port.timm().create_model("resnext101_32x4d"), 1000)


@pytest.mark.slow
@pytest.mark.parametrize(("cardinality", "width"), [(1, 64), (2, 40), (4, 24), (8, 14)])
def test_the_templates_of_table_2_are_torchvisions(cardinality, width):
    options = {"groups": cardinality, "width_per_group": width}
    net = port.torchvision().resnet50(**options)
    fields = {"cardinality": cardinality, "bottleneck_width": width}
    check("resnext50_32x4d", net, 1000, **fields)


@pytest.mark.slow
def test_resnext29_8x64d_is_torchvisions_with_another_stem():
    net = port.torchvision().resnet50(groups=8, width_per_group=64, num_classes=10)
    net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = net.layer4 = torch.nn.Identity()
    net.fc = torch.nn.Linear(1024, 10)
    for layer in (net.layer2, net.layer3):
        del layer[3:]
    check("resnext29_8x64d", net, 10, size=32)


def check(name, net, num_classes, size=64, **fields):
    model = models.create(name, num_classes=num_classes, **fields)
    port.check_logits(net, model, ours.random_images(size), name)
