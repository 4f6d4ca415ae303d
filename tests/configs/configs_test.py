"""Every network has a config that runs, on its paper's data and on the data here."""

import fnmatch
import functools
import importlib
import pathlib

import pytest

import input_pipeline
import models
from experiment import build, checks

# config: the networks that its argument takes.
NETWORKS = {
    "alexnet": "alexnet*",
    "zfnet": "zfnet*",
    "overfeat": "overfeat_*",
    "nin": "nin*",
    "vgg": "vgg?? vgg??_bn vgg11_lrn vgg16_c",
    "vgg_cifar": "vgg*_cifar",
    "googlenet": "googlenet*",
    "bn_inception": "bn_inception*",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4 inception_resnet_v2",
    "resnet50": "resnet18 resnet34 resnet50 resnet101 resnet152 plain18 plain34",
    "resnet_cifar": "resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 "
    "plain20 plain32 plain44 plain56 plain110",
    "cifar10": "resnet20 wrn_16_4 densenet_40_12 vgg11_cifar nin",
    "fashion_mnist": "resnet20 nin vgg11_cifar wrn_16_4 lenet5_modern",
    "preact_resnet": "preact_resnet*",
    "wide_resnet": "wrn_16_* wrn_22_* wrn_28_* wrn_40_*",
    "wide_resnet_imagenet": "wrn_18_* wrn_34_* wrn_50_* wrn_101_*",
    "resnext50": "resnext50_* resnext101_*",
    "resnext_cifar": "resnext29_*",
    "densenet": "densenet_*",
    "densenet121": "densenet???",
    "fractalnet": "fractalnet*",
    "dpn": "dpn*",
    "senet": "se*",
}
CASES = [
    (config, network)
    for config, patterns in NETWORKS.items()
    for pattern in patterns.split()
    for network in fnmatch.filter(models.MODELS, pattern)
]


def test_every_network_has_a_config():
    covered = {network for _, network in CASES} | {"lenet5", "lenet5_modern"}
    assert covered == set(models.MODELS)
    folder = pathlib.Path(input_pipeline.__file__).parent / "configs"
    files = {path.stem for path in folder.glob("*.py")}
    shared = {"__init__", "default", "datasets", "sweeps"}
    detectors = {"faster_rcnn"}  # tests/configs/faster_rcnn_test.py
    assert files - shared - detectors - {"lenet5"} == set(NETWORKS)


@pytest.mark.parametrize("config", NETWORKS)
def test_a_config_has_no_networks_of_other_papers(config):
    """resnet50 would silently see the 32x32 images of configs/resnet_cifar.py."""
    make = importlib.import_module(f"configs.{config}").get_config
    own = {network for file, network in CASES if file == config}
    for network in models.MODELS.keys() - own:
        with pytest.raises(ValueError, match=f"has no '{network}'; it has "):
            make(network)


@functools.cache
def load(config, network):
    return importlib.import_module(f"configs.{config}").get_config(network)


@pytest.mark.parametrize(("config", "network"), CASES)
def test_a_config_is_checked_and_makes_its_network_and_optimizer(config, network):
    config = load(config, network)
    checks.check(config)
    assert config.model.name == network
    build.make_model(config, 1000)
    build.make_optimizer(config, 100, 10_000)


@pytest.mark.parametrize("config", NETWORKS)
def test_the_default_network_takes_grey_images_of_its_size_and_ten_classes(config):
    config = importlib.import_module(f"configs.{config}").get_config()
    size = config.dataset.image_size or 28
    model = build.make_model(config, 10)
    variables = build.abstract_variables(model, (size, size, 1))
    checks.check_parameters(config, variables["params"])
