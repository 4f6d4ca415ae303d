"""Pre-activation ResNet against timm, whose nets are adapted where they differ."""

import pytest
from parity import ours, port

from models.preact_resnet import CifarPreactResNet, PreactResNet

torch = port.torch


@pytest.mark.slow
@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
def test_preact_resnet50_is_timms(stride_on):
    """timm's BN and ReLU of the stem follow its pool. That is the same, because a scale
    that is not negative keeps the order of values."""
    net = port.timm().create_model("resnetv2_50")
    if stride_on == "1x1":
        move_strides(net)
    model = PreactResNet(num_classes=1000, depth=50, stride_on=stride_on)
    check(net, model, (64, 96))


@pytest.mark.slow
def test_preact_resnet200_is_timms():
    net = port.timm().create_model("resnetv2_50", layers=[3, 24, 36, 3])
    check(net, PreactResNet(num_classes=1000), 64)


@pytest.mark.parametrize("depth", [29, pytest.param(164, marks=pytest.mark.slow)])
def test_bottlenecks_for_cifar(depth):
    net = cifar_net((depth - 2) // 9, (64, 128, 256), basic=False)
    move_strides(net)
    check(net, CifarPreactResNet(num_classes=10, depth=depth), (32, 40))


@pytest.mark.parametrize("depth", [20, pytest.param(110, marks=pytest.mark.slow)])
def test_basic_units_for_cifar(depth):
    net = cifar_net((depth - 2) // 6, (16, 32, 64), basic=True)
    # The first unit's shortcut takes the activated stem; option A where it widens.
    net.stages[0].blocks[0].downsample = torch.nn.Identity()
    for stage in net.stages[1:]:
        stage.blocks[0].downsample = HalveAndPad()
    model = CifarPreactResNet(num_classes=10, depth=depth, bottleneck=False)
    check(net, model, (32, 40))


class HalveAndPad(torch.nn.Module):
    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


def cifar_net(size, channels, basic):
    options = {"layers": [size] * 3, "channels": channels, "basic": basic}
    options["bottle_ratio"] = 1.0 if basic else 0.25
    net = port.timm().create_model(
        "resnetv2_50", num_classes=10, stem_chs=16, **options
    )
    net.stem = torch.nn.Sequential()
    net.stem.conv = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return net


def move_strides(net):
    """From the 3x3 convolutions to the 1x1 before them."""
    for stage in net.stages:
        block = stage.blocks[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def check(net, model, size):
    images = ours.random_images(size)
    port.check_logits(net, model, images, "preact_resnet200")
