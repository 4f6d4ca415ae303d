"""The registry of networks."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import pytest
import runs
import traced

import models
from comparison import counts
from comparison.published import PUBLISHED

# Where a number is from: the paper's own figure, the sum of the layers of its table, or
# an independent implementation that was counted.
SUM = "the sum of the layers of the paper's table"
TORCHVISION = "torchvision 0.28"
TIMM = "timm 1.0.31"
CAFFE = "the authors' or BVLC's Caffe definition"

# name: (image height = width, channels), classes, parameters, multiply-adds of
# convolutions and fully connected layers, source. Auxiliary heads count among the
# parameters, not among the multiply-adds.
NETWORKS = {
    "lenet5": ((32, 1), 10, 60_000, 326_520, "section II.B of the paper"),
    "lenet5_modern": ((28, 1), 10, 61_706, 416_520, SUM),
    # AlexNet, ZFNet, OverFeat, NIN.
    "alexnet": ((227, 3), 1000, 60_965_224, 724_406_816, CAFFE),
    "alexnet_ungrouped": ((227, 3), 1000, 62_378_344, 1_135_256_096, SUM),
    "alexnet_one_tower": ((224, 3), 1000, 61_100_840, 714_188_480, TORCHVISION),
    "zfnet": ((224, 3), 1000, 62_357_608, 1_168_032_896, SUM),
    "zfnet_b": ((224, 3), 1000, 107_627_624, 2_476_704_896, SUM),
    "overfeat_fast": ((231, 3), 1000, 145_920_872, "2.801 G", SUM),
    "overfeat_accurate": ((221, 3), 1000, 144_656_488, "5.355 G", SUM),
    "nin": ((32, 3), 10, 966_986, 222_486_528, "the authors' layer definition"),
    "nin_imagenet": ((224, 3), 1000, 7_595_176, "1.100 G", CAFFE),
    # VGG: Table 1, and the same with batch normalisation.
    "vgg11": ((224, 3), 1000, 132_863_336, "7.609 G", TORCHVISION),
    "vgg11_lrn": ((224, 3), 1000, 132_863_336, "7.609 G", SUM),
    "vgg13": ((224, 3), 1000, 133_047_848, "11.308 G", TORCHVISION),
    "vgg16_c": ((224, 3), 1000, 133_638_952, "11.771 G", SUM),
    "vgg16": ((224, 3), 1000, 138_357_544, "15.470 G", TORCHVISION),
    "vgg19": ((224, 3), 1000, 143_667_240, "19.632 G", TORCHVISION),
    "vgg11_bn": ((224, 3), 1000, 132_868_840, "7.609 G", TORCHVISION),
    "vgg13_bn": ((224, 3), 1000, 133_053_736, "11.308 G", TORCHVISION),
    "vgg16_bn": ((224, 3), 1000, 138_365_992, "15.470 G", TORCHVISION),
    "vgg19_bn": ((224, 3), 1000, 143_678_248, "19.632 G", TORCHVISION),
    "vgg11_cifar": ((32, 3), 10, 9_231_114, None, "kuangliu's definition"),
    "vgg13_cifar": ((32, 3), 10, 9_416_010, None, "kuangliu's definition"),
    "vgg16_cifar": ((32, 3), 10, 14_728_266, 313_201_664, "kuangliu's definition"),
    "vgg19_cifar": ((32, 3), 10, 20_040_522, None, "kuangliu's definition"),
    # Inception.
    "googlenet": ((224, 3), 1000, 13_378_280, 1_582_671_872, CAFFE),
    "googlenet_bn": ((224, 3), 1000, 13_004_888, 1_498_376_192, TORCHVISION),
    "bn_inception": ((224, 3), 1000, 11_194_984, 2_018_851_840, "onnx inception_v2"),
    "bn_inception_128": ((224, 3), 1000, 11_285_224, None, CAFFE),
    "inception_v3": ((299, 3), 1000, 27_161_264, 5_713_216_096, TORCHVISION),
    "inception_v4": ((299, 3), 1000, 42_679_816, "12.254 G", TIMM),
    "inception_resnet_v2": ((299, 3), 1000, 55_843_464, "13.156 G", TIMM),
    # ResNet: Table 1 with option B, strides in the 1x1; plain networks; CIFAR.
    "resnet18": ((224, 3), 1000, 11_689_512, 1_814_073_344, TORCHVISION),
    "resnet34": ((224, 3), 1000, 21_797_672, 3_663_761_408, TORCHVISION),
    "resnet50": ((224, 3), 1000, 25_557_032, 3_857_973_248, TORCHVISION),
    "resnet101": ((224, 3), 1000, 44_549_160, 7_570_194_432, TORCHVISION),
    "resnet152": ((224, 3), 1000, 60_192_808, 11_282_415_616, TORCHVISION),
    "plain18": ((224, 3), 1000, 11_515_688, 1_794_805_760, SUM),
    "plain34": ((224, 3), 1000, 21_623_848, 3_644_493_824, SUM),
    "resnet20": ((32, 3), 10, 269_722, 40_551_040, "0.27 M, section 4.2"),
    "resnet32": ((32, 3), 10, 464_154, 68_862_592, "0.46 M, section 4.2"),
    "resnet44": ((32, 3), 10, 658_586, 97_174_144, "0.66 M, section 4.2"),
    "resnet56": ((32, 3), 10, 853_018, 125_485_696, "0.85 M, section 4.2"),
    "resnet110": ((32, 3), 10, 1_727_962, 252_887_680, "1.7 M, section 4.2"),
    "resnet1202": ((32, 3), 10, 19_421_274, 2_829_238_912, "19.4 M, section 4.2"),
    "plain20": ((32, 3), 10, 269_722, 40_551_040, SUM),
    "plain32": ((32, 3), 10, 464_154, 68_862_592, SUM),
    "plain44": ((32, 3), 10, 658_586, 97_174_144, SUM),
    "plain56": ((32, 3), 10, 853_018, 125_485_696, SUM),
    "plain110": ((32, 3), 10, 1_727_962, 252_887_680, SUM),
    "preact_resnet110": ((32, 3), 10, 1_727_962, None, SUM),
    "preact_resnet164": ((32, 3), 10, 1_703_258, "244.5 M", "1.7 M, Table 4"),
    "preact_resnet1001": ((32, 3), 10, 10_327_706, "1.488 G", "10.2 M, Table 4"),
    "preact_resnet200": ((224, 3), 1000, 64_666_152, None, "fb.resnet.torch's 64.7 M"),
    # Wide ResNet: CIFAR, ImageNet.
    "wrn_40_1": ((32, 3), 10, 563_930, "83.3 M", SUM),
    "wrn_40_2": ((32, 3), 10, 2_243_546, "327.6 M", SUM),
    "wrn_40_4": ((32, 3), 10, 8_949_210, "1.299 G", SUM),
    "wrn_40_8": ((32, 3), 10, 35_748_314, "5.172 G", SUM),
    "wrn_40_10": ((32, 3), 10, 55_841_754, "8.074 G", SUM),
    "wrn_28_10": ((32, 3), 10, 36_479_194, "5.243 G", SUM),
    "wrn_28_12": ((32, 3), 10, 52_517_850, "7.544 G", SUM),
    "wrn_22_8": ((32, 3), 10, 17_158_106, "2.454 G", SUM),
    "wrn_22_10": ((32, 3), 10, 26_797_914, "3.828 G", SUM),
    "wrn_16_4": ((32, 3), 10, 2_748_890, "392.6 M", SUM),
    "wrn_16_8": ((32, 3), 10, 10_961_370, "1.548 G", SUM),
    "wrn_16_10": ((32, 3), 10, 17_116_634, "2.412 G", SUM),
    "wrn_18_1.5": ((224, 3), 1000, 25_875_816, None, "25.9 M, Table 7"),
    "wrn_18_2": ((224, 3), 1000, 45_618_216, None, "45.6 M, Table 7"),
    "wrn_18_3": ((224, 3), 1000, 101_783_976, None, "101.8 M, Table 7"),
    "wrn_34_1.5": ((224, 3), 1000, 48_613_608, None, "48.6 M, Table 7"),
    "wrn_34_2": ((224, 3), 1000, 86_036_008, None, "86.0 M, Table 7"),
    "wrn_50_2": ((224, 3), 1000, 68_883_240, "11.398 G", TORCHVISION),
    "wrn_101_2": ((224, 3), 1000, 126_886_696, None, TORCHVISION),
    # FractalNet: biases of convolutions count.
    "fractalnet": ((32, 3), 10, 33_714_314, None, CAFFE),
    # 1 to 6 columns, 100 classes (table of the depths): the paper's millions.
    "fractalnet_5": ((32, 3), 100, "0.3 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_10": ((32, 3), 100, "0.8 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_20": ((32, 3), 100, "2.1 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_40": ((32, 3), 100, "4.8 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_80": ((32, 3), 100, "10.2 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_160": ((32, 3), 100, "21.1 M", None, "paper, CIFAR-100 by depth"),
    "fractalnet_34": ((224, 3), 1000, 164_002_216, None, SUM),
    # DenseNet: ImageNet (Table 1), CIFAR.
    "densenet121": ((224, 3), 1000, 7_978_856, "2.834 G", TORCHVISION),
    "densenet169": ((224, 3), 1000, 14_149_480, "3.360 G", TORCHVISION),
    "densenet201": ((224, 3), 1000, 20_013_928, "4.291 G", TORCHVISION),
    "densenet264": ((224, 3), 1000, 33_337_704, None, SUM),
    "densenet161": ((224, 3), 1000, 28_681_000, "7.728 G", TORCHVISION),
    "densenet_40_12": ((32, 3), 10, 1_019_722, None, "1.0 M, Table 2"),
    "densenet_100_12": ((32, 3), 10, 6_979_642, None, "7.0 M, Table 2"),
    "densenet_100_24": ((32, 3), 10, 27_249_082, None, "27.2 M, Table 2"),
    "densenet_bc_100_12": ((32, 3), 10, 769_162, None, "0.8 M, Table 2"),
    "densenet_bc_250_24": ((32, 3), 10, 15_324_406, None, "15.3 M, Table 2"),
    "densenet_bc_190_40": ((32, 3), 10, 25_624_430, None, "25.6 M, Table 2"),
    # ResNeXt: ImageNet, CIFAR.
    "resnext50_32x4d": ((224, 3), 1000, 25_028_904, "4.230 G", TORCHVISION),
    "resnext101_32x4d": ((224, 3), 1000, 44_177_704, "7.970 G", TIMM),
    "resnext101_64x4d": ((224, 3), 1000, 83_455_272, "15.460 G", TORCHVISION),
    "resnext101_32x8d": ((224, 3), 1000, 88_791_336, "16.414 G", TORCHVISION),
    "resnext29_1x64d": ((32, 3), 10, 4_914_250, None, SUM),
    "resnext29_8x64d": ((32, 3), 10, 34_426_698, None, "34.4 M, Table 7"),
    "resnext29_16x64d": ((32, 3), 10, 68_155_210, None, "68.1 M, Table 7"),
    # DPN.
    "dpn68": ((224, 3), 1000, 12_611_602, "2.326 G", TIMM),
    "dpn92": ((224, 3), 1000, 37_668_392, "6.502 G", TIMM),
    "dpn98": ((224, 3), 1000, 61_570_728, "11.671 G", TIMM),
    "dpn131": ((224, 3), 1000, 79_254_504, "16.014 G", TIMM),
    "dpn107": ((224, 3), 1000, 86_917_800, "18.299 G", TIMM),
    # SENet.
    "se_resnet50": ((224, 3), 1000, 28_088_024, "3.860 G", TIMM),
    "se_resnet101": ((224, 3), 1000, 49_326_872, "7.575 G", TIMM),
    "se_resnet152": ((224, 3), 1000, 66_821_848, "11.289 G", TIMM),
    "se_resnext50_32x4d": ((224, 3), 1000, 27_559_896, "4.233 G", TIMM),
    "se_resnext101_32x4d": ((224, 3), 1000, 48_955_416, "7.975 G", TIMM),
    "senet154": ((224, 3), 1000, 115_088_984, "20.688 G", TIMM),
}


def test_every_network_has_an_expected_count_here():
    assert set(models.MODELS) == set(NETWORKS)
    # README has both numbers.
    assert len(NETWORKS) == 110
    assert sum(adds is not None for *_, adds, _ in NETWORKS.values()) == 80


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in traced.DEEPEST else ())
        for name in NETWORKS
    ],
)
def test_parameters_and_multiply_adds(name):
    """One trace is compared with the source above and with the stored counts."""
    network = traced.counts(name)
    check_against_source(name, network)
    assert network == counts.stored()[name]


def test_stored_counts_agree_with_the_sources():
    """This covers the deepest networks where the slow tests are left out."""
    for name, network in counts.stored().items():
        check_against_source(name, network)


def test_images_and_classes_are_those_of_the_comparison():
    for name, (image, classes, *_) in NETWORKS.items():
        row = PUBLISHED[name]
        assert ((row.image, row.channels), row.classes) == (image, classes), name


def check_against_source(name, network):
    *_, parameters, multiply_adds, _ = NETWORKS[name]
    assert agree(network.parameters, parameters), name
    assert agree(network.multiply_adds, multiply_adds), name


def agree(value, expected):
    """Whether a number is the expected one: exact, or rounded as "1.234 G" is."""
    if isinstance(expected, str):
        digits, unit = expected.split()
        places = len(digits.partition(".")[2])
        return f"{value / {'M': 1e6, 'G': 1e9}[unit]:.{places}f}" == digits
    return expected is None or value == expected


def test_a_network_imports_no_file_of_another():
    code = (
        "import sys, models; models.create('wrn_28_10', num_classes=10); "
        "print(*(name for name in models.FILES if f'models.{name}' in sys.modules))"
    )
    # Those of wide ResNets, and what these extend.
    assert runs.run_code(code).stdout.split() == [
        "preact_resnet",
        "resnet",
        "wide_resnet",
    ]


def test_create_passes_the_fields_on():
    model = models.create(
        "lenet5_modern", num_classes=7, dtype=jnp.bfloat16, activation="tanh"
    )
    assert isinstance(model, nn.Module)
    assert (model.num_classes, model.dtype, model.activation, model.pool) == (
        *(7, jnp.bfloat16, "tanh", "max"),
    )


def test_fields_are_what_create_takes():
    assert models.fields("lenet5") == ["dtype"]
    assert models.fields("lenet5_modern") == ["activation", "pool", "dtype"]


def test_fields_of_a_partial_leave_out_what_it_holds(monkeypatch):
    tanh = functools.partial(models.MODELS["lenet5_modern"], activation="tanh")
    monkeypatch.setitem(models.MODELS, "lenet5_tanh", tanh)
    assert models.fields("lenet5_tanh") == ["pool", "dtype"]
    assert models.create("lenet5_tanh", num_classes=2).activation == "tanh"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "lenet_5",
            {},
            "unknown model 'lenet_5'; did you mean 'lenet5'.*choices are: ",
        ),
        ("", {}, "unknown model ''. The choices are: .*lenet5, lenet5_modern"),
        (None, {}, "unknown model None"),
        (
            "lenet5_modern",
            {"activaton": "relu"},
            "'activaton'.* did you mean 'activation'.*: activation, dtype, pool",
        ),
        ("lenet5", {"parent": None}, "unknown field .*'parent'"),
        ("lenet5", {"name": "x"}, "name"),
    ],
)
def test_unknown_names_and_fields_are_refused(name, fields, message):
    error = TypeError if "name" in fields else ValueError
    with pytest.raises(error, match=message):
        models.create(name, num_classes=10, **fields)
