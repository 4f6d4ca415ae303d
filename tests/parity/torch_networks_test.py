"""The PyTorch networks that the benchmarks compare with are ours."""

import pytest
from parity import ours, port

import models
from benchmarks import inference, side_by_side, torch_networks, train_step
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


@pytest.mark.parametrize("name", side_by_side.NETWORKS)
def test_parameters(name):
    shape, fields = side_by_side.NETWORKS[name]
    model = side_by_side.Task(name, 1, shape, fields, "cpu", "float32").model()
    with port.torch.device("meta"):
        theirs = torch_networks.create(name).parameters()
    assert sum(p.numel() for p in theirs) == counting.count(model, shape).parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_in_torch_learns(dtype):
    task = side_by_side.Task("resnet20", 4, (32, 32, 3), {}, "cpu", dtype)
    contestant = train_step.Torch(task)
    first = contestant.run(1)
    contestant.run(20)
    assert contestant.run(1) < first


def test_the_evaluation_in_torch_counts_errors():
    task = side_by_side.Task("resnet20", 4, (32, 32, 3), {}, "cpu", "float32")
    contestant = inference.Torch(task)
    with port.torch.no_grad():
        answers = contestant.network(contestant.images).argmax(1)
    assert contestant.run(2) == (answers != contestant.labels).sum()
    assert not contestant.network.training
