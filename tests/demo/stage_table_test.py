"""The rows of a layer table add up to the network's counts."""

import pytest

import models
from analysis import stages
from comparison import counts, published
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


# The layer table of GoogLeNet with biases; the paper's Table 1 has no biases.
GOOGLENET = {
    "conv1": 9472,
    "pool1": 0,
    "conv2": 114_944,
    "pool2": 0,
    "inception_3a": 163_696,
    "inception_3b": 388_736,
    "pool3": 0,
    "inception_4a": 376_176,
    "inception_4b": 449_160,
    "inception_4c": 510_104,
    "inception_4d": 605_376,
    "inception_4e": 868_352,
    "pool4": 0,
    "inception_5a": 1_043_456,
    "inception_5b": 1_444_080,
    "": 1_025_000,
}


def test_stages_of_one_size_keep_their_own_layers():
    found = rows("googlenet", (224, 224, 3), 1000)
    assert {row.name: row.parameters for row in found} == GOOGLENET


def test_what_a_stage_has_after_its_last_convolution_is_its_own():
    """The gates of squeeze and excitation, and batch norms."""
    found = {row.name: row for row in rows("se_resnet50", (224, 224, 3), 1000)}
    assert (found[""].layers, found[""].parameters) == (1, 2_049_000)  # 2048 to 1000
    assert found["conv1"].parameters == 7 * 7 * 3 * 64 + 2 * 64


def test_a_transition_as_wide_as_a_bottleneck_keeps_its_own_layers():
    found = {row.name: row for row in rows("densenet121", (224, 224, 3), 1000)}
    # A batch norm, a 1x1 convolution that halves the 256 maps, and a pool.
    assert found["transition1"].parameters == 2 * 256 + 256 * 128
    assert found["transition1"].layers == 3
    assert [found[f"block{i}"].layers for i in (1, 2, 3, 4)] == [24, 48, 96, 65]
    assert (found[""].layers, found[""].parameters) == (1, 1_025_000)  # 1024 to 1000


FIRST = {row.family: row for row in reversed(published.PUBLISHED.values())}


@pytest.mark.slow
@pytest.mark.parametrize("network", FIRST.values(), ids=FIRST)
def test_no_stage_of_a_family_is_without_layers(network):
    shape = network.image, network.image, network.channels
    for row in rows(network.name, shape, network.classes):
        assert row.layers > 0, row
