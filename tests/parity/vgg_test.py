"""VGG against torchvision, and columns of Table 1 that it lacks against the table."""

import functools

import numpy as np
import pytest
from parity import ours, port

import models

torch = port.torch
SIZE = (64, 96)


def smaller(net):
    """torchvision's `net` for images of SIZE, whose map is 2x3 instead of 7x7.

    Its pool to 7x7 would enlarge that; at 224x224 it does nothing.
    """
    net.avgpool = torch.nn.Identity()
    net.classifier[0] = torch.nn.Linear(512 * 2 * 3, 4096)
    return net


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
DEPTHS = [11, slow(13), slow(16), slow(19)]


@pytest.mark.parametrize("norm", ["", "_bn"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_vgg_is_torchvisions(depth, norm):
    name = f"vgg{depth}{norm}"
    model = models.create(name, num_classes=1000)
    net = smaller(getattr(port.torchvision(), name)())
    port.check_logits(net, model, ours.random_images(SIZE), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "vgg19"])
def test_vgg_is_torchvisions_at_its_own_size(name):
    model = models.create(name, num_classes=1000)
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, ours.random_images(224), name)


def from_the_table(column):
    """A column of Table 1 as the paper prints it, for images of SIZE."""
    layers, channels = [], 3
    for word in column.split():
        if word == "maxpool":
            layers.append(torch.nn.MaxPool2d(2, 2))
        elif word == "LRN":
            layers.append(torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
        else:
            kernel, width = map(int, word.removeprefix("conv").split("-"))
            conv = torch.nn.Conv2d(channels, width, kernel, padding=(kernel - 1) // 2)
            layers += [conv, torch.nn.ReLU()]
            channels = width
    layers.append(torch.nn.Flatten())
    inputs = 512 * 2 * 3
    for units in (4096, 4096):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        inputs = units
    return torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 1000))


A_LRN = """
    conv3-64 LRN maxpool conv3-128 maxpool conv3-256 conv3-256 maxpool
    conv3-512 conv3-512 maxpool conv3-512 conv3-512 maxpool
"""
C = """
    conv3-64 conv3-64 maxpool conv3-128 conv3-128 maxpool
    conv3-256 conv3-256 conv1-256 maxpool conv3-512 conv3-512 conv1-512 maxpool
    conv3-512 conv3-512 conv1-512 maxpool
"""


@pytest.mark.parametrize(("name", "column"), [("vgg11_lrn", A_LRN), ("vgg16_c", C)])
def test_vgg_is_the_papers_table(name, column):
    model = models.create(name, num_classes=1000)
    # Images as large as the paper's, so that the normalisation does something.
    images = 100 * ours.random_images(SIZE)
    port.check_logits(from_the_table(column), model, images)


def test_the_loss_and_the_gradients_of_vgg11_with_normalisation():
    model = models.create("vgg11_lrn", num_classes=1000, dropout=0.0)
    labels = np.array([3, 999])
    images = 100 * ours.random_images(SIZE)
    port.check_gradients(from_the_table(A_LRN), model, images, labels)


class CifarNet(torch.nn.Module):
    """torchvision's convolutions with batch normalisation, and one linear layer."""

    def __init__(self, name):
        super().__init__()
        self.features = getattr(port.torchvision(), name)().features
        self.fc = torch.nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


@pytest.mark.parametrize("depth", DEPTHS)
def test_vgg_for_cifar(depth):
    model = models.create(f"vgg{depth}_cifar", num_classes=10)
    net = CifarNet(f"vgg{depth}_bn")
    port.check_logits(net, model, ours.random_images(32))
