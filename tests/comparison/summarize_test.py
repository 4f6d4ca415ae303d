"""The layer table: numbers that can be checked by hand, and its alignment."""

import types

import flax.linen as nn
import pytest
import tensorflow_datasets as tfds

import models
from comparison import summarize
from comparison.counting import Layer, layers
from configs import faster_rcnn, lenet5
from data_source import DataError, tfds_directory
from detection import digits
from experiment import checks
from kernels import ops


def numbers(rows):
    return {
        row.name: (row.kernel, row.output, *counts(row))
        for row in rows
        if row.kind != "MaxPool"
    }


def counts(row):
    return row.parameters, row.multiply_adds, row.connections


def totals(rows):
    return tuple(map(sum, zip(*map(counts, rows), strict=True)))


def test_lenet5():
    rows = layers(models.create("lenet5", num_classes=10), (32, 32, 1))
    # Section II.B, which gives the output layer's 84 x 10 in words.
    assert numbers(rows) == {
        "C1": ("5x5/1/0", (28, 28, 6), 156, 117_600, 122_304),
        "S2": ("2x2/2/0", (14, 14, 6), 12, 0, 5_880),
        "C3": ("5x5/1/0", (10, 10, 16), 1_516, 150_000, 151_600),
        "S4": ("2x2/2/0", (5, 5, 16), 32, 0, 2_000),
        "C5": ("5x5/1/0", (1, 1, 120), 48_120, 48_000, 48_120),
        "F6": ("", (1, 1, 84), 10_164, 10_080, 10_164),
        "output": ("", (1, 1, 10), 0, 840, 840),
    }
    assert [row.kind for row in rows] == (
        ["Conv", "SubSampling", "PartialConv", "SubSampling", "Conv", "Dense", "RBF"]
    )
    assert totals(rows) == (60_000, 326_520, 340_908)


@pytest.mark.parametrize("size", [28, 32])
def test_lenet5_modern(size):
    rows = layers(models.create("lenet5_modern", num_classes=10), (size, size, 1))
    # A convolution: positions x height x width x input maps x output maps; connections
    # add a bias for each unit.
    assert numbers(rows) == {
        "C1": (f"5x5/1/{(32 - size) // 2}", (28, 28, 6), 156, 784 * 150, 784 * 156),
        "C3": ("5x5/1/0", (10, 10, 16), 2_416, 100 * 2_400, 100 * 2_416),
        "C5": ("5x5/1/0", (1, 1, 120), 48_120, 48_000, 48_120),
        "F6": ("", (1, 1, 84), 10_164, 10_080, 10_164),
        "output": ("", (1, 1, 10), 850, 840, 850),
    }
    assert totals(rows) == (61_706, 416_520, 423_038)


def test_the_classes_and_channels_of_the_data_count():
    rows = layers(models.create("lenet5_modern", num_classes=100), (32, 32, 3))
    assert numbers(rows)["C1"][2] == 25 * 3 * 6 + 6
    assert numbers(rows)["output"][2] == 84 * 100 + 100


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 1), strides=(2, 2), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Conv(8, (3, 3), feature_group_count=4, name="grouped")(nn.relu(x))

    def helper(self, x):
        return x


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        block = Block(name="block")
        x = block.helper(block(x, train))  # a method that is no layer
        x = nn.Dense(5, name="positions")(x)
        return nn.Sequential([nn.Dense(7, use_bias=False), nn.relu])(x.mean((1, 2)))


def test_nested_modules_are_listed_once_by_their_layers():
    rows = layers(Nested(), (9, 6, 2))
    # 9x6 with stride 2 and 'SAME' padding gives 5x3.
    assert [(row.name, row.kind) for row in rows] == [
        ("block.conv", "Conv"),
        ("block.norm", "BatchNorm"),
        ("block.grouped", "Conv"),
        ("positions", "Dense"),
        ("Dense_0", "Dense"),
    ]
    assert numbers(rows) == {
        "block.conv": ("3x1/2/SAME", (5, 3, 8), 48, 15 * 48, 15 * 48),
        "block.norm": ("", (5, 3, 8), 16, 0, 0),
        # Each map sees the two of its group.
        "block.grouped": (
            "3x3/1/SAME g4",
            (5, 3, 8),
            9 * 2 * 8 + 8,
            15 * 144,
            15 * 152,
        ),
        "positions": ("", (5, 3, 5), 45, 15 * 40, 15 * 45),
        "Dense_0": ("", (7,), 35, 35, 35),
    }


def test_the_table_is_aligned_and_ends_with_totals():
    rows = [
        Layer("C1", "Conv", "5x5/1/0", (28, 28, 6), 156, 117_600, 122_304),
        Layer("a_long_name", "Dense", "", (10,), 1_000_000, 999_000, 1_000_000),
    ]
    # The separators of thousands and the two spaces between columns are exact.
    assert str(summarize.summary("network", rows)).splitlines() == [
        "network",
        "layer        kind   kernel/stride/padding  output   parameters  multiply-adds"
        "  connections",
        "-" * 90,
        "C1           Conv   5x5/1/0                28x28x6         156        117,600"
        "      122,304",
        "a_long_name  Dense                         10        1,000,000        999,000"
        "    1,000,000",
        "-" * 90,
        "total                                                1,000,156      1,116,600"
        "    1,122,304",
    ]


def test_auxiliary_heads_have_a_total_of_their_own():
    rows = [
        Layer("conv1", "Conv", "1x1/1/0", (1, 1, 2), 3, 4, 5),
        Layer("aux1.fc", "Dense", "", (7,), 30, 40, 50, auxiliary=True),
    ]
    summary = summarize.summary("network", rows)
    assert summary.totals == summarize.Totals(3, 4, 5)
    assert summary.auxiliary_totals == summarize.Totals(30, 40, 50)
    total, heads = str(summary).splitlines()[-2:]
    assert total.split() == ["total", "3", "4", "5"]
    assert heads.split() == ["auxiliary", "heads", "30", "40", "50"]
    assert summarize.summary("network", rows[:1]).auxiliary_totals is None


def test_a_total_may_be_the_widest_number():
    rows = [Layer("F6", "Dense", "", (9,), n, n, n) for n in (999_999_999_999,) * 2]
    lines = str(summarize.summary("network", rows)).splitlines()[1:]
    for line in lines[2:4] + lines[5:]:
        assert len(line) == len(lines[1])


def test_the_summary_is_of_what_the_config_trains():
    summary = summarize.summarize(lenet5.get_config("modern"))
    assert summary.title == "lenet5_modern, input 32x32x1, 10 classes"
    assert summary.totals == summarize.Totals(61_706, 416_520, 423_038)
    lines = str(summary).splitlines()
    assert lines[0] == summary.title
    assert lines[-1].split() == ["total", "61,706", "416,520", "423,038"]


def test_the_summary_has_the_size_of_the_training_and_not_of_the_test():
    config = lenet5.get_config("modern")
    config.model.name = "resnet20"
    config.dataset.image_size, config.eval.image_size = 32, 48
    known = (28, 28, 1), tuple("abc")
    with ops.portable():
        found = summarize.summarize(config, known)
    assert found.title == "resnet20, input 32x32x1, 3 classes"


@pytest.mark.parametrize(
    ("variant", "classes", "regions", "total"),
    [("paper", 20, 15_179_881, 47_462_111), ("coco", 80, 15_794_581, 48_086_045)],
)
def test_a_detector_s_regions_have_rows_of_their_own(
    monkeypatch, variant, classes, regions, total
):
    """Its set is not on disk, but known to tfds; the counts are ResNet-101's."""
    label = tfds.features.ClassLabel(num_classes=classes)
    objects = tfds.features.Sequence(
        {"bbox": tfds.features.BBoxFeature(), "label": label}
    )
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/filename": tfds.features.Text(),
        "objects": objects,
    }
    builder = types.SimpleNamespace(info=types.SimpleNamespace(features=features))
    monkeypatch.setattr(tfds_directory, "describing_builder", lambda *_: builder)
    config = faster_rcnn.get_config(variant)
    checks.check(config)  # though it lacks the weights to start from
    with ops.portable():  # as tests/traced.py
        summary = summarize.summarize(config)
    assert summary.title == f"faster_rcnn, input 600x1000x3, {classes} classes"
    rows = {row.name: row for row in summary.rows}
    assert rows["conv1"].output == (300, 500, 64)
    assert rows["conv4_23.conv3"].output == rows["conv4_1.bn3"].output == (38, 63, 1024)
    anchors = 9 if variant == "paper" else 12
    assert rows["rpn.cls"].output == (38, 63, 2 * anchors)
    assert rows["conv5_3.conv3"].output == (7, 7, 2048)
    assert rows["reg"].parameters == 4 * (classes + 1) * 2049
    regional = {name for name, row in rows.items() if row.regional}
    conv5 = {name for name in rows if name.startswith("conv5_")}
    assert len(conv5) == 20 and regional == {*conv5, "cls", "reg"}
    assert summary.totals.parameters == total
    # conv5_x: the first block's four convolutions, and three of each other block.
    block = 49 * (2 * 2048 * 512 + 9 * 512**2)
    first = 49 * (1024 * 512 + 9 * 512**2 + 512 * 2048 + 1024 * 2048)
    head = 2048 * (classes + 1) * 5
    one = first + 2 * block + head
    assert (summary.region.parameters, summary.region.multiply_adds) == (regions, one)
    assert summary.totals.multiply_adds == summary.image.multiply_adds + 300 * one
    ends = [line.split()[:2] for line in str(summary).splitlines()[-3:]]
    assert ends == [["the", "image"], ["one", "region"], ["total,", "300"]]


def test_the_digits_of_a_detector_are_not_made_for_its_table(monkeypatch):
    monkeypatch.setattr(digits, "canvas", None)
    config = faster_rcnn.get_config("digits")
    with ops.portable():
        summary = summarize.summarize(config)
    assert summary.title == "faster_rcnn, input 128x128x1, 10 classes"
    rows = {row.name: row for row in summary.rows}
    assert rows["conv4_2.conv2"].output == (8, 8, 128)
    assert summary.regions == 100
    config.model.fields.context = True
    with ops.portable():
        assert summarize.summarize(config).regions == 101
        known = summarize.summarize(config, ((None, None, 3), ("cat", "dog")))
    assert known.title == "faster_rcnn, input 128x128x3, 2 classes"
    config.detection.test_scales = (96, 128)
    with ops.portable():
        lines = str(summarize.summarize(config)).splitlines()
    assert lines[1] == "for one scale, 128; tests see regions at 96, 128"


def test_refinement_looks_twice_with_the_same_parameters():
    config = faster_rcnn.get_config("digits")
    with ops.portable():
        plain = summarize.summarize(config)
        config.model.fields.refine = True
        found = summarize.summarize(config)
    assert found.totals.parameters == plain.totals.parameters
    assert found.region.multiply_adds == 2 * plain.region.multiply_adds
    assert found.image == plain.image and found.regions == plain.regions


def test_a_set_without_boxes_has_no_detector():
    config = faster_rcnn.get_config("digits")
    config.dataset.name = "mnist"
    with pytest.raises(DataError, match="not a set of annotated objects"):
        summarize.summarize(config)
