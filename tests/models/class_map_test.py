"""Networks slid over images larger than those they were trained on."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks
import traced

import models
from models import layers


class NoPadding(layers.Classifier):
    """Convolutions that do not pad, so that a crop knows nothing of its border."""

    num_classes: int
    head_is_dense: bool
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = NoPaddingBackbone()
        self.head = NoPaddingHead(self.num_classes, self.head_is_dense)


class NoPaddingBackbone(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(layers.Conv(6, 3, padding=0, name="conv1")(x))
        x = layers.MaxPool(2, 2, name="pool1")(x)
        return {"conv2": nn.relu(layers.Conv(8, 3, padding=0, name="conv2")(x))}


class NoPaddingHead(nn.Module):
    num_classes: int
    is_dense: bool

    @nn.compact
    def __call__(self, x, *, train, window=None):
        if self.is_dense:
            x = nn.relu(layers.FullyConnected(10, name="fc1")(x))
        else:
            x = layers.global_avg_pool(x, window)
        return nn.Dense(self.num_classes, name="fc2")(x)


def make(model, size, larger):
    """Variables at images of one size, images of a larger one, compiled evaluation."""
    shape = (2, *larger, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    init = jax.jit(functools.partial(model.init, train=False))
    evaluation = jax.jit(functools.partial(model.apply, train=False))
    return init(jax.random.key(0), images[:, :size, :size]), images, evaluation


def class_map(model, variables, images, size):
    run = functools.partial(models.class_map, model, image_size=size)
    return np.asarray(jax.jit(run)(variables, images))


def assert_close(scores, expected):
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head_is_dense", [True, False])
def test_without_padding_each_position_is_the_logits_of_its_crop(head_is_dense):
    model = NoPadding(5, head_is_dense)
    variables, images, logits = make(model, 14, (18, 22))
    scores = class_map(model, variables, images, 14)
    assert scores.shape == (2, 3, 5, 5)
    for i in range(3):
        for j in range(5):
            # A step on the map is as long as the strides below it: 2 pixels.
            crop = images[:, 2 * i : 2 * i + 14, 2 * j : 2 * j + 14]
            assert_close(scores[:, i, j], logits(variables, crop))
    assert scores.std((1, 2)).min() > 1e-3


def small_network(name):
    """(network, image size it was trained at, size of its last map there)."""
    if name == "vgg":
        return tiny_networks.SmallVGG(5), 16, 4
    size, window = {"resnet18": (64, 2), "resnet20": (32, 8)}[name]
    return models.create(name, num_classes=5), size, window


@pytest.mark.parametrize(
    ("name", "larger"),
    [
        ("vgg", 24),
        pytest.param("resnet18", 96, marks=pytest.mark.slow),
        pytest.param("resnet20", 48, marks=pytest.mark.slow),
    ],
)
def test_with_padding_a_position_sees_its_part_of_the_last_map(name, larger):
    """Crops differ by the zeros at their borders, which the whole image lacks."""
    model, size, window = small_network(name)
    variables, images, logits = make(model, size, (larger, larger))
    scores = class_map(model, variables, images, size)
    features = jax.jit(functools.partial(model.apply, method="features"))
    head = functools.partial(
        model.apply, method=lambda m, part: m.head(part, train=False)[:, 0, 0]
    )
    head = jax.jit(head)

    whole = np.asarray(features(variables, images))
    count = whole.shape[1] - window + 1
    assert scores.shape == (2, count, count, 5) and count > 1
    for i in range(count):
        for j in range(count):
            part = whole[:, i : i + window, j : j + window]
            assert_close(scores[:, i, j], head(variables, part))

    # Images of the usual size have a map of one position, the logits.
    usual = images[:, :size, :size]
    expected = logits(variables, usual)
    assert_close(class_map(model, variables, usual, size), expected[:, None, None])

    # The first position covers the same pixels, without zeros beyond two borders.
    assert np.abs(scores[:, 0, 0] - expected).max() > 1e-4


def test_a_larger_image_is_an_error_with_fully_connected_layers():
    """Where the last map is averaged, larger images have logits like all others."""
    model = tiny_networks.SmallVGG(5)
    variables, images, logits = make(model, 16, (24, 28))
    with pytest.raises(ValueError, match="24x28 give a map .* 3x4, .*models.class_map"):
        logits(variables, images)
    model = NoPadding(5, head_is_dense=False)
    variables, images, logits = make(model, 14, (18, 22))
    assert logits(variables, images).shape == (2, 5)


def test_vgg_has_six_by_six_positions_on_384_pixels():
    model = models.create("vgg16", num_classes=1000)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = traced.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), image
    )
    run = functools.partial(models.class_map, model, image_size=224)
    image = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
    assert traced.eval_shape(run, variables, image).shape == (1, 6, 6, 1000)
