"""GoogLeNet against its paper, and torchvision's network of that name."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count, stages, variables

import models
from models import googlenet, googlenet_bn

# Table 1, output size and depth.
SIZES = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "conv2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "inception_3a": (28, 28, 256),
    "inception_3b": (28, 28, 480),
    "pool3": (14, 14, 480),
    "inception_4a": (14, 14, 512),
    "inception_4b": (14, 14, 512),
    "inception_4c": (14, 14, 512),
    "inception_4d": (14, 14, 528),
    "inception_4e": (14, 14, 832),
    "pool4": (7, 7, 832),
    "inception_5a": (7, 7, 832),
    "inception_5b": (7, 7, 1024),
}


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_sizes_are_those_of_table_1(name):
    sizes = stages(models.create(name, num_classes=1000))
    assert sizes == SIZES
    assert list(sizes) == list(SIZES)


def test_parameters_of_each_row_of_table_1():
    params = variables(models.create("googlenet", num_classes=1000))["params"]
    backbone = {name: count(layer) for name, layer in params["backbone"].items()}
    assert backbone == {
        "conv1": 9_472,
        "conv2_reduce": 4_160,
        "conv2": 110_784,
        "inception_3a": 163_696,
        "inception_3b": 388_736,
        "inception_4a": 376_176,
        "inception_4b": 449_160,
        "inception_4c": 510_104,
        "inception_4d": 605_376,
        "inception_4e": 868_352,
        "inception_5a": 1_043_456,
        "inception_5b": 1_444_080,
    }
    # Without biases, and with K = 1024, what the table prints for its row 3a: 159 K.
    kernels = [x["kernel"].size for x in params["backbone"]["inception_3a"].values()]
    assert sum(kernels) // 1024 == 159
    assert count(params["head"]) == 1_025_000
    assert count([params["backbone"], params["head"]]) == 6_998_552


def test_side_heads_are_those_of_section_5():
    params = variables(models.create("googlenet", num_classes=1000))["params"]
    shapes = {
        name: {layer: x["kernel"].shape for layer, x in params[name].items()}
        for name in ("side_heads_aux1", "side_heads_aux2")
    }
    # 5x5 windows, 3 pixels apart, of 14x14: 4x4.
    rest = {"fc1": (4, 4, 128, 1024), "fc2": (1024, 1000)}
    assert shapes == {
        "side_heads_aux1": {"conv": (1, 1, 512, 128), **rest},
        "side_heads_aux2": {"conv": (1, 1, 528, 128), **rest},
    }
    assert count(params["side_heads_aux1"]) == 3_188_840
    assert count(params["side_heads_aux2"]) == 3_190_888


def test_side_heads_are_sown_in_training_and_only_then():
    model = models.create("googlenet", num_classes=7, dtype=jnp.bfloat16)
    images = jnp.zeros((2, 112, 112, 3))

    def apply(variables, train):
        return model.apply(
            variables,
            images,
            train=train,
            mutable=["auxiliary"],
            rngs={"dropout": jax.random.key(0)},
        )

    shapes = variables(model, 112)
    logits, sown = traced.eval_shape(functools.partial(apply, train=True), shapes)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {name: x.shape for name, (x,) in sown["auxiliary"].items()} == {
        "aux1": (2, 7),
        "aux2": (2, 7),
    }
    assert all(x.dtype == jnp.float32 for (x,) in sown["auxiliary"].values())
    assert not traced.eval_shape(functools.partial(apply, train=False), shapes)[1]


def test_a_naive_module_has_no_reductions_and_no_projection():
    naive = models.create("googlenet", num_classes=1000, naive=True)
    params = variables(naive)["params"]["backbone"]
    assert set(params["inception_3a"]) == {"1x1", "3x3", "5x5"}
    assert params["inception_3a"]["5x5"]["kernel"].shape == (5, 5, 192, 32)
    # All channels of the input come out as well, so the map grows from module to module
    # ("an inevitable increase", Section 4).
    sizes = stages(naive)
    assert sizes["inception_3a"] == (28, 28, 64 + 128 + 32 + 192)
    assert sizes["inception_3b"] == (28, 28, 128 + 192 + 96 + 416)


def test_googlenet_bn_has_3x3_for_5x5_and_normalisation_for_biases():
    params = variables(models.create("googlenet_bn", num_classes=1000))["params"]
    cell = params["backbone"]["inception_3a"]
    assert cell["5x5"]["kernel"].shape == (3, 3, 16, 32)
    assert set(cell["5x5"]) == {"kernel"}
    assert set(cell["5x5_bn"]) == {"scale", "bias"}
    assert params["side_heads_aux1"]["fc1"]["kernel"].shape == (4, 4, 128, 1024)


def test_an_inception_concatenates_1x1_3x3_5x5_and_pool():
    conv = functools.partial(googlenet.conv_relu, dtype=jnp.float32)
    module = googlenet.Inception((1, 1, 1, 1, 1, 1), conv, naive=False)
    image = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0)
    init = functools.partial(module.init, jax.random.key(0), train=False)
    ones = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full(x.shape, float(path[-1].key == "kernel"), np.float32),
        traced.eval_shape(init, image),
    )
    maps = jax.jit(functools.partial(module.apply, train=False))(ones, image)[0]
    widths = [np.nonzero(maps[4, :, i])[0].size for i in range(4)]
    assert widths == [1, 3, 5, 3]


def test_initial_weights_are_caffes():
    conv = functools.partial(googlenet.conv_relu, dtype=jnp.float32)

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return conv(x, 64, 3, train=False, name="conv")

    image = jnp.zeros((1, 4, 4, 32))
    params = jax.jit(Layer().init)(jax.random.key(0), image)["params"]["conv"]
    bound = (3 / (9 * 32)) ** 0.5
    assert (params["bias"] == np.float32(0.2)).all()
    # Of 18,432 draws the largest is within 0.1 % of the bound, but once in 1e8.
    assert 0.999 * bound < jnp.abs(params["kernel"]).max() <= bound


def test_initial_weights_of_googlenet_bn_are_torchvisions():
    model = models.create("googlenet_bn", num_classes=1000)
    image = jnp.zeros((1, 64, 64, 3))
    init = jax.jit(functools.partial(model.init, train=True))
    params = init(jax.random.key(0), image)["params"]
    layers = {
        "conv": params["backbone"]["inception_4a"]["3x3"],
        "fc": params["head"]["fc"],
        "fc1": params["side_heads_aux1"]["fc1"],
        "fc2": params["side_heads_aux2"]["fc2"],
    }
    for name, layer in layers.items():
        np.testing.assert_allclose(layer["kernel"].std(), 0.01, rtol=0.02, err_msg=name)
        assert not layer.get("bias", np.zeros(1)).any(), name


@pytest.mark.parametrize("size", [1, 3, 4, 7, 14])
def test_adaptive_average_covers_the_map_with_overlapping_parts(size):
    x = np.random.default_rng(0).normal(size=(2, size, size + 2, 3)).astype(np.float32)
    expected = np.empty((2, 4, 4, 3))
    for i, j in np.ndindex(4, 4):
        rows, columns = (
            slice(int(np.floor(k * n / 4)), int(np.ceil((k + 1) * n / 4)))
            for k, n in ((i, size), (j, size + 2))
        )
        expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    # 1e-6: means of at most 20 numbers near 1 in float32.
    pooled = googlenet_bn.AdaptiveAvgPool(4).apply({}, x)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_local_response_normalisation_can_be_left_out():
    model = models.create("googlenet", num_classes=10, lrn_k=None)
    kinds = []

    def record(call, args, kwargs, context):
        kinds.append(type(context.module).__name__)
        return call(*args, **kwargs)

    for field, number in ((None, 0), (2.0, 2)):
        kinds.clear()
        with nn.intercept_methods(record):
            variables(model.clone(lrn_k=field))
        assert kinds.count("LocalResponseNorm") == number


def test_what_is_not_possible_is_refused():
    create = functools.partial(models.create, "googlenet", num_classes=10)
    with pytest.raises(ValueError, match="lrn_k 0 is not a positive number"):
        create(lrn_k=0)
    with pytest.raises(ValueError, match="^dropout 1.0 is not in"):
        create(dropout=1.0)
    with pytest.raises(ValueError, match="auxiliary_dropout -0.1 is not in"):
        create(auxiliary_dropout=-0.1)
    with pytest.raises(ValueError, match="28x28 are too small.* after pool4"):
        variables(create(), 28)
    with pytest.raises(ValueError, match="map of 4x4 is too small for the side heads"):
        variables(create(), 64)


def test_side_heads_are_trained_at_one_size():
    model = models.create("googlenet", num_classes=10)
    train = functools.partial(
        model.apply,
        train=True,
        mutable=["auxiliary"],
        rngs={"dropout": jax.random.key(0)},
    )
    with pytest.raises(ValueError, match="map of 14x14 is not of the size"):
        traced.eval_shape(train, variables(model, 112), jnp.zeros((1, 224, 224, 3)))
