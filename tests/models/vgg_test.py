import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count, stages

import models
from models import vgg

# Weight layers in the names of the columns of Table 1.
DEPTHS = {
    "vgg11": 11,
    "vgg11_lrn": 11,
    "vgg13": 13,
    "vgg16_c": 16,
    "vgg16": 16,
    "vgg19": 19,
}


def shapes_of(name, size=224):
    return stages(models.create(name, num_classes=10), size)


def params(name, size=224):
    """Shapes of the parameters, backbone and head."""
    model = models.create(name, num_classes=1000)
    init = functools.partial(model.init, train=False)
    shapes = traced.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return shapes["params"]


@pytest.mark.parametrize("name", DEPTHS)
def test_table_1(name):
    outputs, layers = shapes_of(name), params(name)
    assert [outputs[f"pool{i}"] for i in range(1, 6)] == [
        *((112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)),
    ]
    assert [outputs[f"conv{i}_1"] for i in range(1, 6)] == [
        *((224, 224, 64), (112, 112, 128), (56, 56, 256), (28, 28, 512)),
        (14, 14, 512),
    ]
    assert len(layers["backbone"]) + len(layers["head"]) == DEPTHS[name]


def test_columns_of_table_1_differ_in_what_the_paper_says():
    # C has a 1x1 convolution where D has a third 3x3.
    c, d = params("vgg16_c")["backbone"], params("vgg16")["backbone"]
    assert c.keys() == d.keys()
    assert {n for n in c if c[n] != d[n]} == {"conv3_3", "conv4_3", "conv5_3"}
    assert c["conv4_3"]["kernel"].shape == (1, 1, 512, 512)
    assert shapes_of("vgg16_c") == shapes_of("vgg16")
    # A-LRN normalises once, after the first convolution.
    a, lrn = list(shapes_of("vgg11")), list(shapes_of("vgg11_lrn"))
    assert lrn == ["conv1_1", "norm1", *a[1:]]


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [
        ("vgg11", 9_220_480),
        ("vgg13", 9_404_992),
        ("vgg16_c", 9_996_096),
        ("vgg16", 14_714_688),
        ("vgg19", 20_024_384),
    ],
)
def test_parameters_of_backbone_and_head(name, convolutions):
    tree = params(name)
    assert count(tree["backbone"]) == convolutions
    assert count(tree["head"]) == 123_642_856
    assert tree["head"]["fc6"]["kernel"].shape == (7, 7, 512, 4096)


def test_batch_norm_keeps_the_biases_of_convolutions():
    with_norm, without = params("vgg13_bn"), params("vgg13")
    assert with_norm["head"] == without["head"]
    assert {n for n in with_norm["backbone"] if n.startswith("conv")} == set(
        without["backbone"]
    )
    assert count(with_norm["backbone"]) == count(without["backbone"]) + 2 * 2944


def test_the_pools_leave_one_pixel_of_cifars_images():
    outputs = shapes_of("vgg16_cifar", 32)
    assert list(outputs.values())[-1] == (1, 1, 512)
    head = params("vgg16_cifar", 32)["head"]
    assert head["fc"]["kernel"].shape == (1, 1, 512, 1000)


def test_dropout_of_the_first_two_fully_connected_layers():
    head = vgg.ThreeLayers(10, 64, 0.5, "glorot", jnp.float32)
    x = jnp.ones((3, 2, 2, 8))
    variables = jax.jit(functools.partial(head.init, train=False))(jax.random.key(0), x)

    def outputs(key):
        logits, state = head.apply(
            variables,
            x,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda m, _: type(m).__name__ == "Dropout",
        )
        (dropout,) = state["intermediates"].values()
        return logits, dropout["__call__"]

    logits, layers = jax.jit(jax.vmap(outputs))(jax.random.split(jax.random.key(0), 9))
    assert len(layers) == 2
    for values in layers:
        assert values.shape == (9, 3, 1, 1, 64)
        # ReLU leaves about a half and dropout a half of those.
        assert 0.6 < np.mean(values == 0) < 0.9
    assert len(np.unique(logits[:, 0, 0, 0, 0])) == 9


def head_kernels(initialization):
    head = vgg.ThreeLayers(200, 100, 0.5, initialization, jnp.float32)
    init = jax.jit(functools.partial(head.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 7, 7, 16)))["params"]
    assert not any(np.any(layer["bias"]) for layer in params.values())
    return params["fc6"]["kernel"], params["fc8"]["kernel"]


def conv_kernel(initialization):
    init, _ = vgg.INITIALIZATIONS[initialization]
    return init(jax.random.key(0), (3, 3, 32, 64))


def test_weights_start_as_glorots():
    fc6, fc8 = head_kernels("glorot")
    conv = conv_kernel("glorot")
    # Uniform within sqrt(6 / (inputs of a unit + units that an input reaches)).
    for kernel, n in ((fc6, 49 * 16 + 100), (fc8, 300), (conv, 9 * (32 + 64))):
        assert 0.99 * (6 / n) ** 0.5 < np.abs(kernel).max() <= (6 / n) ** 0.5
        np.testing.assert_allclose(kernel.std(), (2 / n) ** 0.5, rtol=0.02)


def test_weights_start_from_the_normal_distribution_printed():
    for kernel in (*head_kernels("normal"), conv_kernel("normal")):
        np.testing.assert_allclose(kernel.var(), 1e-2, rtol=0.05)
        assert np.abs(kernel).max() > 0.3


@pytest.mark.parametrize("name", ["vgg16", "vgg16_cifar"])
def test_an_unknown_initialization_is_refused(name):
    message = "initialization 'he' is none of glorot, normal"
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, initialization="he")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_cifar"])
def test_images_too_small_for_five_pools(name):
    model = models.create(name, num_classes=10)
    with pytest.raises(ValueError, match="28x28 are too small: .* after pool5"):
        traced.eval_shape(
            functools.partial(model.init, train=False),
            jax.random.key(0),
            jnp.zeros((1, 28, 28, 1)),
        )
