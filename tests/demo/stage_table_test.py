"""The rows of a layer table add up to the network's counts."""

import pytest

import models
from analysis import stages
from comparison import counts
from demo import stage_table
from kernels import ops


def rows(name, shape, classes):
    model = models.create(name, num_classes=classes)
    with ops.portable():  # its shapes are traced in a third of the time
        found = stages.layout(model, shape).stages
        return stage_table.rows(model, shape, found)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("lenet5", (32, 32, 1), 10), ("vgg11", (224, 224, 3), 1000)],
)
def test_sums_are_those_of_the_network(name, shape, classes):
    found, stored = rows(name, shape, classes), counts.stored()[name]
    assert sum(row.parameters for row in found) == stored.parameters
    assert sum(row.multiply_adds for row in found) == stored.multiply_adds


def test_lenet5_is_table_by_table_the_papers():
    """Section II.B gives the trainable parameters of each layer."""
    found = {row.name: row for row in rows("lenet5", (32, 32, 1), 10)}
    sizes = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
    assert {n: found[n].parameters for n in sizes} == sizes
    assert list(found) == [*sizes, ""]
    assert found["C3"].output == "10x10x16"


def test_a_stage_of_many_layers_has_one_row():
    found = rows("resnet20", (32, 32, 3), 10)
    assert [row.name for row in found][:2] == ["conv1", "conv2_x"]
    # Table of Section 4.2: 2n = 6 layers with weights for each size, and as many norms.
    assert found[1].output == "32x32x16" and found[1].layers >= 12
