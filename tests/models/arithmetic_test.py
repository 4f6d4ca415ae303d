"""The papers' claims about what a design saves or costs, from our networks' shapes."""

import math

import flax.linen as nn
import pytest
from traced import layers

from comparison import counting, counts
from comparison.published import PUBLISHED
from models.layers import Conv, SqueezeExcite

STORED = counts.stored()  # registry_test compares them with the traced networks


def named(name, *prefixes):
    """The layers of a network whose names start with one of these."""
    rows = [row for row in layers(name) if row.name.startswith(prefixes)]
    assert rows, prefixes
    return rows


def weights(rows):
    """Weights of convolutions and fully connected layers: no biases, no scales."""
    return sum(row.multiply_adds // math.prod(row.output[:-1]) for row in rows)


def parameters(rows):
    return sum(row.parameters for row in rows)


def multiply_adds(rows):
    return sum(row.multiply_adds for row in rows)


def total(name):
    return STORED[name].parameters


def depth(name):
    """Convolutions and fully connected layers outside shortcuts."""
    kinds = ("Conv", "Dense")
    rows = [row for row in layers(name) if row.kind in kinds]
    return sum(not row.name.endswith("shortcut") for row in rows)


def one_conv(kernel, channels):
    return counting.layers(Plain(kernel, channels, kernel // 2), (14, 14, channels))


class Plain(nn.Module):
    kernel: int
    channels: int
    padding: int

    @nn.compact
    def __call__(self, x, *, train):
        conv = Conv(self.channels, self.kernel, padding=self.padding, use_bias=False)
        return conv(x)


def test_two_3x3_cost_less_than_a_5x5_and_three_less_than_a_7x7():
    # VGG, Section 2.3: 27 C^2 and 49 C^2, "81 % more"; two are 18 C^2 against 25 C^2.
    c = 512
    assert weights(named("vgg16", "conv5_1", "conv5_2")) == 18 * c**2
    assert weights(one_conv(5, c)) == 25 * c**2
    assert weights(named("vgg16", "conv5_")) == 27 * c**2
    assert weights(one_conv(7, c)) == 49 * c**2
    # The map is the same, so multiply-adds relate alike.
    three = multiply_adds(named("vgg16", "conv5_"))
    assert multiply_adds(one_conv(7, c)) * 27 == three * 49


def test_most_of_vgg_is_in_its_fully_connected_layers():
    assert parameters(named("vgg16", "fc")) == 123_642_856
    assert parameters(named("vgg16", "conv")) == 14_714_688
    assert multiply_adds(named("vgg16", "fc")) < STORED["vgg16"].multiply_adds / 100


def test_1x7_then_7x1_cost_2_7ths_of_a_7x7():
    # "Rethinking", Section 3.2, in a block with 192 maps throughout (Mixed_6e).
    pair = named("inception_v3", "Mixed_6e.branch1_1", "Mixed_6e.branch1_2")
    assert [row.kernel.split("/")[0] for row in pair if row.kind == "Conv"] == (
        ["1x7", "7x1"]
    )
    assert weights(pair) == 14 * 192**2
    assert weights(one_conv(7, 192)) == 49 * 192**2


def test_a_bottleneck_of_256_costs_what_a_basic_block_of_64_does():
    # ResNet, Figure 5 and Section 4.1.
    basic, bottleneck = named("resnet34", "conv2_2."), named("resnet50", "conv2_2.")
    assert weights(basic) == 73_728
    assert weights(bottleneck) == 69_632
    assert parameters(bottleneck) == 70_400  # and three normalisations
    ratio = multiply_adds(basic) / multiply_adds(bottleneck)
    assert ratio == 73_728 / 69_632
    # A basic block at the bottleneck's 256 maps would cost 17 times as much.
    wide = named("resnet34", "conv4_2.")
    assert weights(wide) == 1_179_648
    assert parameters(wide) == 1_180_672


def test_a_resnext_block_costs_what_a_bottleneck_does():
    # ResNeXt, Section 3.3 and Table 1: 32 paths of 4 against one of 64.
    rows = named("resnext50_32x4d", "conv2_2.")
    assert [weights([row]) for row in rows if row.kind == "Conv"] == (
        [32_768, 4_608, 32_768]
    )
    assert weights(rows) == 70_144
    assert abs(total("resnext50_32x4d") / total("resnet50") - 1) < 0.03


def test_groups_divide_weights_and_multiply_adds():
    for layer, groups in (("conv2", 2), ("conv3", 1), ("conv4", 2), ("conv5", 2)):
        two_towers, one = named("alexnet", layer), named("alexnet_ungrouped", layer)
        assert weights(one) == groups * weights(two_towers)
        assert multiply_adds(one) == groups * multiply_adds(two_towers)


def test_squeeze_and_excitation_costs_2_c2_by_r_a_block():
    class Excited(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return SqueezeExcite(reduction=16)(x)

    rows = counting.layers(Excited(), (7, 7, 256))
    assert weights(rows) == 2 * 256**2 // 16
    assert parameters(rows) == 2 * 256**2 // 16 + 256 // 16 + 256
    # Section 4: with the blocks of ResNet-50, 2.5 million, and a thousandth of its
    # multiply-adds.
    blocks = ((256, 3), (512, 4), (1024, 6), (2048, 3))
    extra = sum(n * (2 * c**2 // 16 + c // 16 + c) for c, n in blocks)
    assert total("se_resnet50") - total("resnet50") == extra == 2_530_992
    more = STORED["se_resnet50"].multiply_adds - STORED["resnet50"].multiply_adds
    assert 0 < more < STORED["resnet50"].multiply_adds / 1000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", 6 * 3 + 2),
        ("resnet110", 6 * 18 + 2),
        ("preact_resnet164", 9 * 18 + 2),
        ("resnext29_8x64d", 9 * 3 + 2),
        ("densenet_40_12", 3 * 12 + 4),
        ("densenet121", 2 * (6 + 12 + 24 + 16) + 5),
    ],
)
def test_depth(name, expected):
    assert depth(name) == expected == PUBLISHED[name].layers


def test_depth_of_a_wide_resnet_counts_its_projections():
    convs = [row for row in layers("wrn_16_4") if row.kind == "Conv"]
    assert len(convs) == 6 * 2 + 4 == PUBLISHED["wrn_16_4"].layers


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_fractal_block_has_2_to_the_c_minus_1_convolutions(columns):
    name = f"fractalnet_{5 * 2 ** (columns - 1)}"
    rows = [row for row in named(name, "block2.") if row.kind == "Conv"]
    assert len(rows) == 2**columns - 1


def test_googlenet_has_a_ninth_of_alexnets_parameters():
    # Section 1 says "12 times fewer", of a network without its auxiliary heads.
    main = [row for row in layers("googlenet") if not row.auxiliary]
    assert parameters(main) == 6_998_552
    assert 8 < total("alexnet") / parameters(main) < 9
