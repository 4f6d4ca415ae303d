"""DenseNet against torchvision and keras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import port

import models
from models import densenet


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("densenet161", marks=pytest.mark.slow),
        pytest.param("densenet169", marks=pytest.mark.slow),
        pytest.param("densenet201", marks=pytest.mark.slow),
    ],
)
def test_densenet_is_torchvisions(name):
    model = models.create(name, num_classes=1000)
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, port.random_images((64, 96)))


@pytest.mark.slow
def test_the_loss_and_the_gradients_of_densenet121_are_torchvisions():
    model = models.create("densenet121", num_classes=1000)
    net = port.torchvision().densenet121()
    labels = np.array([3, 999, 0, 41])
    port.check_gradients(net, model, port.random_images(64, batch=4), labels)


def test_the_loss_and_the_gradients_of_a_small_densenet(monkeypatch):
    monkeypatch.setitem(densenet.IMAGENET, 14, (4, (1, 2, 1, 1)))
    model = densenet.DenseNet(7, depth=14)
    net = port.torchvision().DenseNet(4, (1, 2, 1, 1), 8, num_classes=7)
    labels = np.array([3, 6, 0, 4])
    port.check_gradients(net, model, port.random_images(64, batch=4), labels)


@pytest.mark.parametrize("bc", [False, True])
def test_networks_for_cifar_are_torchvisions_with_another_stem(bc):
    stem = 24 if bc else 16
    net = port.torchvision().DenseNet(12, (2, 2, 2), stem, num_classes=10)
    net.features.conv0 = port.torch.nn.Conv2d(3, stem, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, port.torch.nn.Identity())
    if not bc:
        leave_out_bottlenecks_and_compression(net)
    depth = 16 if bc else 10
    model = densenet.CifarDenseNet(
        10, depth=depth, bottleneck=bc, compression=0.5 if bc else 1.0
    )
    port.check_logits(net, model, port.random_images(16))


def leave_out_bottlenecks_and_compression(net):
    torch, features, maps = port.torch, net.features, 16
    for block in (1, 2, 3):
        for layer in features.get_submodule(f"denseblock{block}").values():
            layer.norm1 = layer.relu1 = layer.conv1 = torch.nn.Identity()
            layer.norm2 = torch.nn.BatchNorm2d(maps)
            layer.conv2 = torch.nn.Conv2d(maps, 12, 3, padding=1, bias=False)
            maps += 12
        if block < 3:
            transition = features.get_submodule(f"transition{block}")
            transition.norm = torch.nn.BatchNorm2d(maps)
            transition.conv = torch.nn.Conv2d(maps, maps, 1, bias=False)
    features.norm5 = torch.nn.BatchNorm2d(maps)
    net.classifier = torch.nn.Linear(maps, 10)


@pytest.mark.slow
def test_densenet121_is_keras_one():
    keras = pytest.importorskip("keras")
    images = port.random_images((64, 96)).astype(np.float64)
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        net = keras.applications.DenseNet121(
            weights=None, input_shape=images.shape[1:], classifier_activation=None
        )
    finally:
        keras.config.set_floatx(floatx)
    with jax.enable_x64(True):
        model = models.create("densenet121", num_classes=1000, dtype=jnp.float64)
        ours, _ = port.our_layers(model, images)
        theirs = [layer for layer in net.layers if layer.weights]
        generator = np.random.default_rng(0)
        variables = {"params": {}, "batch_stats": {}}
        for (path, _), layer in zip(ours, theirs, strict=True):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.epsilon = 1e-5  # It has 1.001e-5.
            for collection, name, value in draw(layer, generator):
                tree = variables[collection]
                for part in path:
                    tree = tree.setdefault(part, {})
                tree[name] = value
        logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    expected = np.asarray(net(images, training=False))
    scale = np.abs(expected).max()
    assert expected.dtype == logits.dtype == np.float64
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-10 * scale)


def draw(layer, generator):
    """Gives a keras layer weights that keep activations alive.

    Yields (collection, name, value) as we call them.
    """
    for weight in layer.weights:
        bound = (6 / np.prod(weight.shape[:-1])) ** 0.5
        collection, name, low, high = {
            "kernel": ("params", "kernel", -bound, bound),
            "bias": ("params", "bias", -0.1, 0.1),
            "gamma": ("params", "scale", 0.5, 1.0),
            "beta": ("params", "bias", -0.1, 0.1),
            "moving_mean": ("batch_stats", "mean", -0.1, 0.1),
            "moving_variance": ("batch_stats", "var", 0.5, 1.5),
        }[weight.name]
        value = generator.uniform(low, high, weight.shape)
        weight.assign(value)
        yield collection, name, value
