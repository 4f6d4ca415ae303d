"""ResNet against torchvision and keras."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import port

import models

torch = port.torch
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", slow("resnet34"), slow("resnet101"), slow("resnet152")],
)
def test_resnet_is_torchvisions(name):
    model = models.create(name, num_classes=1000, **stride(name))
    net = getattr(port.torchvision(), name)()
    port.check_logits(net, model, port.random_images((64, 96)))


def test_the_loss_and_the_gradients_of_resnet18_are_torchvisions():
    model = models.create("resnet18", num_classes=1000)
    net = port.torchvision().resnet18()
    labels = np.array([3, 999, 0, 41])
    port.check_gradients(net, model, port.random_images(64, batch=4), labels)


@pytest.mark.parametrize("option", ["A", slow("B")])
def test_resnet20_is_torchvisions_with_the_sizes_for_cifar(option):
    net = port.torchvision().resnet18(num_classes=10)
    block = type(net.layer1[0])
    net.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(16)
    net.inplanes = 16
    net.layer1 = net._make_layer(block, 16, 3)
    net.layer2 = net._make_layer(block, 32, 3, stride=2)
    net.layer3 = net._make_layer(block, 64, 3, stride=2)
    net.maxpool = net.layer4 = torch.nn.Identity()
    net.fc = torch.nn.Linear(64, 10)
    if option == "A":
        net.layer2[0].downsample = net.layer3[0].downsample = HalveAndPad()
    model = models.create("resnet20", num_classes=10, shortcut=option)
    port.check_logits(net, model, port.random_images((32, 40)))


class HalveAndPad(torch.nn.Module):
    """Option A."""

    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


@pytest.fixture
def keras():
    """The package, computing in float64 with TensorFlow: on torch its batch
    normalisation is in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("keras", reason="make parity installs it")
    if package.backend.backend() != "tensorflow":
        pytest.skip("keras runs on another backend than TensorFlow")
    policy = package.config.dtype_policy()
    package.config.set_dtype_policy("float64")
    yield package
    package.config.set_dtype_policy(policy)


@pytest.mark.slow
def test_resnet50_with_strides_on_the_1x1_is_keras(keras):
    """keras has biases in its convolutions, which are 0 here, and another epsilon."""
    images = port.random_images(64).astype(np.float64)
    model = models.create("resnet50", num_classes=1000)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    net = keras.applications.ResNet50(
        weights=None, input_shape=images.shape[1:], classifier_activation=None
    )
    theirs = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        """Random values, which the layer of keras gets too."""
        _, *names, last = (key.key for key in path)
        value = rng.uniform(-0.1, 0.1, leaf.shape)
        if last == "kernel":
            value *= 10 * (6 / np.prod(leaf.shape[:-1])) ** 0.5
        elif last in ("scale", "var"):
            value += 0.9
        layer = net.get_layer(keras_name(names[1:]))
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-5
        attribute = theirs.get(last, last)
        if not hasattr(layer, attribute):
            attribute = "beta"
        getattr(layer, attribute).assign(value)
        return value

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    expected = np.asarray(net(images, training=False))
    with jax.enable_x64(True):
        apply = functools.partial(model.clone(dtype=jnp.float64).apply, train=False)
        logits = np.asarray(jax.jit(apply)(variables, images))
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
    assert np.abs(logits - expected).max() < 1e-10 * scale


def keras_name(names):
    """Of the layer with our `names`: conv3_1, bn2 is conv3_block1_2_bn."""
    if names == ["fc"]:
        return "predictions"
    *block, layer = names
    kind = "bn" if "bn" in layer else "conv"
    if not block:
        return f"conv1_{kind}"
    stage, i = block[0].split("_")
    number = 0 if "shortcut" in layer else layer[-1]
    return f"{stage}_block{i}_{number}_{kind}"


def stride(name):
    """torchvision's bottlenecks are v1.5."""
    return {"stride_on": "3x3"} if name not in ("resnet18", "resnet34") else {}
