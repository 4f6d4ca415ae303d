"""PyTorch networks for benchmarks/: torchvision's, timm's, and those that neither has.

tests/parity checks that each gives the same logits as ours.
"""

import functools

import torch
from torch import nn
from torch.nn import functional

from weights.twins import torchvision_models


def create(name):
    """Creates the network that models.create calls `name`, in training mode.

    It is initialised. `resnet50` has its strides on the 3x3 convolutions and
    `googlenet_bn` its two side heads. Networks for images of 28x28 or 32x32 pixels have
    10 classes, others 1000.

    Raises:
      ImportError: torchvision or timm is not installed.
    """
    if name in OWN:
        return OWN[name]()
    torchvision = torchvision_models()
    if name == "googlenet_bn":
        return torchvision.GoogLeNet(
            aux_logits=True, transform_input=False, init_weights=False
        )
    if name in TIMM:
        import timm

        return timm.create_model(TIMM[name])
    return getattr(torchvision, name)()


def lenet5():
    """LeNet-5 for 28x28 images, with 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def alexnet():
    """AlexNet in two groups, with local response normalisation, for 227x227 images."""
    norm = functools.partial(nn.LocalResponseNorm, 5, 1e-4, 0.75, 2.0)
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4),
        nn.ReLU(),
        norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    )


def nin():
    """NIN for 32x32 images: three blocks of a convolution and two 1x1 convolutions."""
    layers, before = [], 3
    for block, (kernel, *maps) in enumerate(
        [(5, 192, 160, 96), (5, 192, 192, 192), (3, 192, 192, 10)]
    ):
        if block:
            layers += [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout()]
        for after in maps:
            layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU()]
            before, kernel = after, 1
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def cifar_resnet20(option="A"):
    """torchvision's ResNet-18 with sizes for 32x32 images and shortcut A or B."""
    net = torchvision_models().resnet18(num_classes=10)
    block = type(net.layer1[0])
    net.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    net.bn1 = nn.BatchNorm2d(16)
    net.inplanes = 16
    net.layer1 = net._make_layer(block, 16, 3)
    net.layer2 = net._make_layer(block, 32, 3, stride=2)
    net.layer3 = net._make_layer(block, 64, 3, stride=2)
    net.maxpool = net.layer4 = nn.Identity()
    net.fc = nn.Linear(64, 10)
    if option == "A":
        net.layer2[0].downsample = net.layer3[0].downsample = HalveAndPad()
    return net


class HalveAndPad(nn.Module):
    """The shortcut of option A."""

    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


class WideResNet(nn.Module):
    """WRN-n-k by the rows of its paper's Table 1."""

    def __init__(self, depth, factor):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        units, before = [], 16
        for features, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range((depth - 4) // 6):
                after = features * factor
                units.append(WideUnit(before, after, stride if i == 0 else 1))
                before = after
        self.units = nn.Sequential(*units)
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, 10)

    def forward(self, x):
        x = self.bn(self.units(self.conv1(x))).relu()
        return self.fc(functional.avg_pool2d(x, x.shape[2:]).flatten(1))


class WideUnit(nn.Module):
    """The unit of Section 2 and Figure 1(d), without its dropout."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = None
        if before != after or stride != 1:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        activated = self.bn1(x).relu()
        y = self.conv2(self.bn2(self.conv1(activated)).relu())
        return y + (x if self.shortcut is None else self.shortcut(activated))


OWN = {
    "lenet5_modern": lenet5,
    "alexnet": alexnet,
    "nin": nin,
    "resnet20": cifar_resnet20,
    "wrn_16_4": functools.partial(WideResNet, 16, 4),
}
TIMM = {"se_resnet50": "legacy_seresnet50", "dpn68": "dpn68"}
