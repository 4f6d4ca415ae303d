"""DenseNet against Tables 1 and 2 and Section 3 of the paper."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import densenet


def trace(name, size, *fields):
    """The stages of one image, name: (pixels, maps), and the shapes of parameters."""
    model = models.create(name, num_classes=10, **dict(fields))
    stages, params = traced.backbone(model, size)
    return {name: tuple(shape) for name, *shape in stages}, params


def test_stages_of_densenet121_are_table_1s():
    stages, _ = trace("densenet121", 224)
    assert list(stages.items()) == [
        ("conv1", (112, 64)),
        ("pool1", (56, 64)),
        ("block1", (56, 256)),
        ("transition1", (28, 128)),
        ("block2", (28, 512)),
        ("transition2", (14, 256)),
        ("block3", (14, 1024)),
        ("transition3", (7, 512)),
        ("block4", (7, 1024)),
    ]


def test_densenet161_grows_by_48_from_96_maps():
    stages, _ = trace("densenet161", 224)
    assert stages["conv1"] == (112, 96)
    assert stages["block4"] == (7, 2208)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("densenet_40_12", (16, 160, 160, 304, 304, 448)),
        ("densenet_bc_100_12", (24, 216, 108, 300, 150, 342)),
    ],
)
def test_stages_on_cifar(name, maps):
    stages, params = trace(name, 32)
    pixels = (32, 32, 16, 16, 8, 8)
    names = "conv1 block1 transition1 block2 transition2 block3".split()
    assert stages == dict(zip(names, zip(pixels, maps, strict=True), strict=True))
    assert list(stages) == names
    assert "bn1" not in params  # The first layer brings its own normalisation.


def test_a_layer_has_the_parameters_of_its_two_convolutions():
    _, params = trace("densenet121", 224)
    growth, inputs = 32, 128
    for layer in range(1, 13):
        weights = 4 * growth * inputs + 36 * growth**2
        norms = 2 * inputs + 2 * 4 * growth
        assert count(params[f"block2_{layer}"]) == weights + norms
        inputs += growth


def test_a_layer_without_bottleneck_is_one_convolution():
    _, params = trace("densenet_40_12", 32)
    for layer in range(1, 13):
        inputs = 16 + 12 * (layer - 1)
        assert count(params[f"block1_{layer}"]) == 9 * 12 * inputs + 2 * inputs


def test_only_a_bc_starts_with_twice_the_growth_rate():
    # Table 2 and Figure 4: with bottlenecks or compression alone there are 16 maps.
    bottleneck, compression = ("bottleneck", True), ("compression", 0.5)
    for fields, maps in [
        ((bottleneck,), 16),
        ((compression,), 16),
        ((bottleneck, compression), 24),
    ]:
        stages, _ = trace("densenet_40_12", 32, *fields)
        assert stages["conv1"] == (32, maps)
        halved = stages["block1"][1] // 2 if compression in fields else None
        assert stages["transition1"][1] == (halved or stages["block1"][1])


def test_a_layer_appends_to_what_it_sees():
    layer = densenet.DenseLayer(3, True, 0.0, jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    init = functools.partial(layer.init, train=False)
    ones = jax.tree.map(jnp.ones_like, traced.eval_shape(init, jax.random.key(0), x))
    y = jax.jit(functools.partial(layer.apply, train=False))(ones, x)
    assert y.shape == (2, 4, 4, 8)
    np.testing.assert_array_equal(y[..., :5], x)


def test_dropout_follows_every_convolution_but_the_first():
    model = densenet.CifarDenseNet(10, 22, 12, True, 0.5, dropout=0.2)
    calls = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Conv):
            calls.append("conv")
        elif isinstance(context.module, nn.Dropout) and context.module.rate:
            assert context.module.rate == 0.2
            calls.append("dropout")
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        init = functools.partial(model.init, train=True)
        traced.eval_shape(init, keys, jnp.zeros((1, 32, 32, 3)))
    assert calls == ["conv"] + ["conv", "dropout"] * 20  # L = 22: and the classifier.


def test_weights_have_the_variance_of_the_authors_code():
    layer = densenet.DenseLayer(32, True, 0.0, jnp.float32)
    init = jax.jit(functools.partial(layer.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 512)))["params"]
    for name, outputs in [("bottleneck", 128), ("conv", 32 * 9)]:
        deviation = params[name]["kernel"].std()
        # Of 36,000 draws or more, so a deviation's own is 0.4 %.
        np.testing.assert_allclose(deviation, (2 / outputs) ** 0.5, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("densenet121", {"compression": 0.0}, "compression 0.0 is not a positive"),
        ("densenet121", {"compression": 1.5}, r"compression 1.5 is not in \(0, 1\]"),
        ("densenet_40_12", {"compression": -1.0}, "compression -1.0 is not a positive"),
        ("densenet_40_12", {"dropout": 1.0}, "dropout 1.0 is not in"),
        ("densenet_bc_100_12", {"dropout": -0.1}, "dropout -0.1 is not in"),
    ],
)
def test_impossible_fields_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, **fields)


@pytest.mark.parametrize(("depth", "bottleneck"), [(41, False), (43, True), (4, True)])
def test_a_depth_that_three_blocks_cannot_have_is_refused(depth, bottleneck):
    layers = 6 if bottleneck else 3
    with pytest.raises(ValueError, match=f"depth {depth} is not {layers} n . 4"):
        densenet.CifarDenseNet(10, depth=depth, bottleneck=bottleneck)


def test_images_that_vanish_are_refused():
    model = models.create("densenet121", num_classes=10)
    with pytest.raises(ValueError, match="28x28 are too small.* after transition3"):
        initialize(model, 28)


def initialize(model, size):
    init = functools.partial(model.init, train=False)
    return traced.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
