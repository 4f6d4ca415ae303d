"""BN-Inception against its paper."""

import jax
import pytest
from traced import stages, variables

import models

# Figure 5, output size and depth. For 3c and 4e it prints the size of the input.
SIZES = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "conv2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "inception_3a": (28, 28, 256),
    "inception_3b": (28, 28, 320),
    "inception_3c": (14, 14, 576),
    "inception_4a": (14, 14, 576),
    "inception_4b": (14, 14, 576),
    "inception_4c": (14, 14, 576),
    "inception_4d": (14, 14, 576),
    "inception_4e": (7, 7, 1024),
    "inception_5a": (7, 7, 1024),
    "inception_5b": (7, 7, 1024),
}


def test_sizes_are_those_of_figure_5():
    sizes = stages(models.create("bn_inception", num_classes=1000))
    assert sizes == SIZES
    assert list(sizes) == list(SIZES)


def test_128_projected_channels_widen_4c_4d_and_4e():
    sizes = stages(models.create("bn_inception_128", num_classes=1000))
    wider = {name for name in SIZES if sizes[name] != SIZES[name]}
    assert wider == {"inception_4c", "inception_4d", "inception_4e"}
    assert [sizes[name][2] for name in sorted(wider)] == [608, 608, 1056]


def test_layers_of_the_two_kinds_of_module():
    params = variables(models.create("bn_inception", num_classes=1000))["params"]

    def kernels(cell):
        return {
            name: layer["kernel"].shape
            for name, layer in params["backbone"][f"inception_{cell}"].items()
            if "kernel" in layer
        }

    assert kernels("3b") == {
        "1x1": (1, 1, 256, 64),
        "3x3_reduce": (1, 1, 256, 64),
        "3x3": (3, 3, 64, 96),
        "double_3x3_reduce": (1, 1, 256, 64),
        "double_3x3_a": (3, 3, 64, 96),
        "double_3x3_b": (3, 3, 96, 96),
        "pool_proj": (1, 1, 256, 64),
    }
    # With stride 2: no 1x1, and the pool passes its input through.
    assert set(kernels("4e")) == set(kernels("3b")) - {"1x1", "pool_proj"}


def test_every_convolution_has_batch_normalisation_and_no_bias():
    tree = variables(models.create("bn_inception", num_classes=1000))
    backbone = tree["params"]["backbone"]
    units = [backbone] + [v for k, v in backbone.items() if k.startswith("inception")]
    number = 0
    for unit in units:
        for name, layer in unit.items():
            if "kernel" in layer:
                assert set(layer) == {"kernel"}
                assert unit[f"{name}_bn"]["scale"].size == layer["kernel"].shape[-1]
                number += 1
    assert number == 69
    # As many weights as the graph of the Caffe model has.
    kernels = [x.size for x in jax.tree.leaves(backbone) if len(x.shape) == 4]
    assert sum(kernels) == 10_150_080


def test_images_that_are_too_small_are_refused():
    model = models.create("bn_inception", num_classes=10)
    with pytest.raises(ValueError, match="4x4 are too small.* after pool2"):
        variables(model, 4)


def test_odd_maps_are_halved_by_the_pools_as_by_the_convolutions():
    sizes = stages(models.create("bn_inception", num_classes=10), 300)
    assert sizes["inception_3b"] == (37, 37, 320)
    assert sizes["inception_3c"] == (19, 19, 576)
    assert sizes["inception_4e"] == (10, 10, 1024)
