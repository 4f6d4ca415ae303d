"""Networks of keras.applications, computing in float64 with TensorFlow.

On torch, keras computes batch normalisation in float32. Its Inceptions have no
auxiliary head and no scale in batch normalisation, and padding does not count in their
averages.
"""

import warnings

import numpy as np
import pytest
from parity import ours

import models

pytestmark = pytest.mark.slow


@pytest.fixture
def keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("keras", reason="make parity installs it")
    if package.backend.backend() != "tensorflow":
        pytest.skip("keras runs on another backend than TensorFlow")
    policy = package.config.dtype_policy()
    package.config.set_dtype_policy("float64")
    yield package
    package.config.set_dtype_policy(policy)


def build(keras, network, shape, monkeypatch):
    """The network and its layers with weights, in the order in which it calls them."""
    kinds = keras.layers.Conv2D | keras.layers.Dense | keras.layers.BatchNormalization
    calls, call = [], keras.layers.Layer.__call__

    def record(layer, *args, **kwargs):
        if isinstance(layer, kinds):
            calls.append(layer)
        return call(layer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(keras.layers.Layer, "__call__", record)
        net = getattr(keras.applications, network)(
            weights=None, input_shape=shape, classifier_activation=None
        )
    return net, calls


def randomize(layer, rng):
    """Gives a keras layer weights that keep activations alive; by our names."""
    arrays = {}
    for weight in layer.weights:
        bound = (6 / np.prod(weight.shape[:-1])) ** 0.5
        name, low, high = {
            "kernel": ("kernel", -bound, bound),
            "bias": ("bias", -0.1, 0.1),
            "gamma": ("scale", 0.5, 1.0),
            "beta": ("bias", -0.1, 0.1),
            "moving_mean": ("mean", -0.1, 0.1),
            "moving_variance": ("var", 0.5, 1.5),
        }[weight.name]
        arrays[name] = rng.uniform(low, high, weight.shape)
        weight.assign(arrays[name])
    return arrays


def set_epsilon(layers):
    """keras has 1.001e-5 in these networks, their papers' authors 1e-5."""
    for layer in layers:
        if hasattr(layer, "epsilon"):
            layer.epsilon = 1e-5


@pytest.mark.parametrize(
    ("name", "network"),
    [("inception_v3", "InceptionV3"), ("inception_resnet_v2", "InceptionResNetV2")],
)
def test_inception(keras, monkeypatch, name, network):
    images = ours.random_images(107)
    images[1] *= 4
    net, layers = build(keras, network, images.shape[1:], monkeypatch)
    rng = np.random.default_rng(0)
    arrays = [randomize(layer, rng) for layer in layers]
    for values in arrays:
        if "mean" in values:
            values["scale"] = np.ones_like(values["mean"])
    check_logits(name, net, arrays, images)


def test_resnet50_with_strides_on_the_1x1(keras, monkeypatch):
    """keras has biases in its convolutions, which are 0 here."""
    images = ours.random_images(64)
    net, layers = build(keras, "ResNet50", images.shape[1:], monkeypatch)
    layers = shortcuts_last(layers)
    set_epsilon(layers)
    rng = np.random.default_rng(0)
    arrays = [randomize(layer, rng) for layer in layers]
    for layer, values in zip(layers, arrays, strict=True):
        if isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(np.zeros_like(values.pop("bias")))
    check_logits("resnet50", net, arrays, images)


def shortcuts_last(layers):
    """keras calls a block's shortcut, conv2_block1_0_conv, first."""
    blocks = [layer.name.rsplit("_", 2)[0] for layer in layers]
    return sorted(
        layers, key=lambda x: (blocks.index(x.name.rsplit("_", 2)[0]), "_0_" in x.name)
    )


def test_densenet121(keras, monkeypatch):
    images = ours.random_images((64, 96))
    net, layers = build(keras, "DenseNet121", images.shape[1:], monkeypatch)
    set_epsilon(layers)
    rng = np.random.default_rng(0)
    arrays = [randomize(layer, rng) for layer in layers]
    check_logits("densenet121", net, arrays, images)


def check_logits(name, net, arrays, images):
    model = models.create(name, num_classes=1000)
    variables = ours.variables(model, images, arrays)
    expected = np.asarray(net(images.astype(np.float64), training=False))
    assert expected.dtype == np.float64
    ours.check_logits(model, variables, images, lambda _: expected)
