"""NIN: the layers of its authors' definitions."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import stages, variables

import models


def shapes(name, size, classes, **fields):
    """Shapes of the stages' outputs, without the batch, and of the parameters."""
    model = models.create(name, num_classes=classes, **fields)
    return stages(model, size), variables(model, size)["params"]


def test_layers_for_cifar():
    outputs, params = shapes("nin", 32, 10)
    assert outputs == {
        "conv1": (32, 32, 192),
        "cccp1": (32, 32, 160),
        "cccp2": (32, 32, 96),
        "pool1": (16, 16, 96),
        "conv2": (16, 16, 192),
        "cccp3": (16, 16, 192),
        "cccp4": (16, 16, 192),
        "pool2": (8, 8, 192),
        "conv3": (8, 8, 192),
        "cccp5": (8, 8, 192),
    }
    layers = params["backbone"] | params["head"]
    assert {n: sum(p.size for p in layer.values()) for n, layer in layers.items()} == {
        "conv1": 14_592,
        "cccp1": 30_880,
        "cccp2": 15_456,
        "conv2": 460_992,
        "cccp3": 37_056,
        "cccp4": 37_056,
        "conv3": 331_968,
        "cccp5": 37_056,
        "cccp6": 1_930,
    }
    assert shapes("nin", 32, 100)[1]["head"]["cccp6"]["kernel"].shape[-1] == 100


def test_layers_for_imagenet():
    outputs, params = shapes("nin_imagenet", 224, 1000)
    sizes = {name: shape[:2] for name, shape in outputs.items()}
    for layers, size in [
        ("conv1 cccp1 cccp2", 54),
        ("pool1 conv2 cccp3 cccp4", 27),
        ("pool2 conv3 cccp5 cccp6", 13),
        ("pool3 conv4 cccp7", 6),
    ]:
        assert {sizes.pop(name) for name in layers.split()} == {(size, size)}
    assert not sizes
    maps = [outputs[f"cccp{i}"][-1] for i in range(1, 8)]
    assert maps == [96, 96, 256, 256, 384, 384, 1024]
    assert params["head"]["cccp8"]["kernel"].shape == (1, 1, 1024, 1000)


def test_a_logit_is_the_mean_of_its_class_map_after_a_relu():
    model = models.create("nin", num_classes=10)

    @jax.jit
    def run(images):
        key = jax.random.key(0, impl="rbg")  # compiles faster
        variables = model.init(key, images, train=False)
        stages = model.apply(
            variables, images, method=lambda m, x: m.backbone(x, train=False)
        )
        logits = model.apply(variables, images, train=False)
        return variables, stages["cccp5"], logits

    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    variables, cccp5, logits = jax.tree.map(np.asarray, run(images))
    layer = variables["params"]["head"]["cccp6"]
    maps = np.maximum(cccp5 @ layer["kernel"][0, 0] + layer["bias"], 0)
    np.testing.assert_allclose(logits, maps.mean((1, 2)), rtol=1e-4, atol=1e-7)
    assert (maps == 0).any() and (maps > 0).any()


@pytest.mark.parametrize(
    ("name", "size", "places"),
    [("nin", 32, {16: 96, 8: 192}), ("nin_imagenet", 224, {6: 384})],
)
def test_dropout_is_after_the_poolings(name, size, places):
    model = models.create(name, num_classes=10)
    seen = {}

    def record(call, args, kwargs, context):
        if type(context.module).__name__ == "Dropout":
            seen[args[0].shape[1]] = args[0].shape[3]
            assert context.module.rate == 0.5 and not context.module.deterministic
        return call(*args, **kwargs)

    def run(key):
        with nn.intercept_methods(record):
            return model.init(
                {"params": key, "dropout": key},
                jnp.zeros((1, size, size, 3)),
                train=True,
            )

    traced.eval_shape(run, jax.random.key(0))
    assert seen == places


@pytest.mark.parametrize(
    ("name", "size", "smaller"),
    [("nin", 16, ()), ("nin_imagenet", 67, ("conv1", "conv3", "cccp8"))],
)
def test_initial_weights_and_biases(name, size, smaller):
    model = models.create(name, num_classes=100)
    params = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0, impl="rbg"), jnp.zeros((1, size, size, 3))
    )["params"]
    params = jax.device_get(params)
    for layer_name, layer in (params["backbone"] | params["head"]).items():
        deviation = 0.01 if layer_name in smaller else 0.05
        assert (layer["bias"] == 0).all()
        # Five deviations of the estimate from 9,000 draws and more.
        assert np.std(layer["kernel"]) == pytest.approx(deviation, rel=0.04), layer_name


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"dropout 1\.5"):
        models.create("nin", num_classes=10, dropout=1.5)
    with pytest.raises(ValueError, match="28x28 are too small.* after pool3"):
        shapes("nin_imagenet", 28, 1000)
