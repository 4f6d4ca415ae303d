"""Inception-v3 and Inception-ResNet-v2 against keras, in its authors' framework.

Its networks have no auxiliary head and no scale in batch normalisation, and padding
does not count in their averages.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import port

import models

pytestmark = pytest.mark.slow


@pytest.fixture
def keras():
    """The package, computing in float64 with TensorFlow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("keras", reason="make parity installs it")
    if package.backend.backend() != "tensorflow":
        pytest.skip("keras runs on another backend than TensorFlow")
    policy = package.config.dtype_policy()
    package.config.set_dtype_policy("float64")
    yield package
    package.config.set_dtype_policy(policy)


def build(keras, network, size, monkeypatch):
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
            weights=None, input_shape=(size, size, 3), classifier_activation=None
        )
    return net, calls


def randomize(layer, rng):
    """Random weights for a keras layer, and the same in our form, by collection."""
    if not hasattr(layer, "kernel"):
        shape = layer.beta.shape
        bias, mean = rng.uniform(-0.1, 0.1, (2, *shape))
        var = rng.uniform(0.5, 1.5, shape)
        layer.set_weights([bias, mean, var])
        params = {"scale": np.ones(shape), "bias": bias}
        return {"params": params, "batch_stats": {"mean": mean, "var": var}}
    fan_in = np.prod(layer.kernel.shape[:-1])
    bound = (6 / fan_in) ** 0.5
    params = {"kernel": rng.uniform(-bound, bound, layer.kernel.shape)}
    if layer.use_bias:
        params["bias"] = rng.uniform(-0.1, 0.1, layer.bias.shape)
    layer.set_weights(list(params.values()))
    return {"params": params}


@pytest.mark.parametrize(
    ("name", "network"),
    [("inception_v3", "InceptionV3"), ("inception_resnet_v2", "InceptionResNetV2")],
)
def test_logits_are_those_of_keras(keras, monkeypatch, name, network):
    net, theirs = build(keras, network, 107, monkeypatch)
    images = port.random_images(107)
    images[1] *= 4
    model = models.create(name, num_classes=1000)
    ours, shapes = port.our_layers(model, images)
    ours = [path for path, _ in ours if path[0] != "auxiliary_head"]
    rng = np.random.default_rng(0)
    variables = {"params": {}, "batch_stats": {}}
    for layer, path in zip(theirs, ours, strict=True):
        for collection, values in randomize(layer, rng).items():
            wanted, tree = shapes[collection], variables[collection]
            for key in path[:-1]:
                wanted, tree = wanted[key], tree.setdefault(key, {})
            tree[path[-1]] = values
            expected = {n: v.shape for n, v in wanted[path[-1]].items()}
            assert {n: v.shape for n, v in values.items()} == expected
    images = images.astype(np.float64)
    expected = np.asarray(net(images, training=False))
    assert expected.dtype == np.float64
    with jax.enable_x64(True):
        apply = functools.partial(model.clone(dtype=jnp.float64).apply, train=False)
        logits = np.asarray(jax.jit(apply)(variables, images))
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
    difference = np.abs(logits - expected).max() / scale
    assert difference < 1e-10, difference
