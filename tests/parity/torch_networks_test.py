"""The PyTorch networks that the benchmarks compare with are ours."""

import pytest
from parity import ours, port

import models
from benchmarks import torch_networks, train_step
from comparison import counting


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "channels"),
    [
        ("lenet5_modern", 10, 28, 1),
        ("nin", 10, 32, 3),
        pytest.param("alexnet", 1000, 227, 3, marks=pytest.mark.slow),
    ],
)
def test_logits(name, num_classes, size, channels):
    model = models.create(name, num_classes=num_classes)
    images = ours.random_images(size, channels)
    port.check_logits(torch_networks.create(name), model, images)


@pytest.mark.parametrize("name", train_step.NETWORKS)
def test_parameters(name):
    shape, fields = train_step.NETWORKS[name]
    model = train_step.Task(name, 1, shape, fields, "cpu", "float32").model()
    with port.torch.device("meta"):
        theirs = torch_networks.create(name).parameters()
    assert sum(p.numel() for p in theirs) == counting.count(model, shape).parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_in_torch_learns(dtype):
    task = train_step.Task("resnet20", 4, (32, 32, 3), {}, "cpu", dtype)
    contestant = train_step.Torch(task)
    first = contestant.run(1)
    contestant.run(20)
    assert contestant.run(1) < first
