"""Pre-activation ResNet against the paper and its authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

from comparison import counting
from models import preact_resnet
from models.preact_resnet import CifarPreactResNet, PreactResNet


@functools.cache
def cifar(depth, **fields):
    return traced.backbone(CifarPreactResNet(num_classes=10, depth=depth, **fields), 32)


def test_stages():
    assert cifar(29)[0] == [
        ("conv1", 32, 16),
        ("conv2_x", 32, 64),
        ("conv3_x", 16, 128),
        ("conv4_x", 8, 256),
    ]
    assert cifar(20, bottleneck=False)[0][1:] == [
        ("conv2_x", 32, 16),
        ("conv3_x", 16, 32),
        ("conv4_x", 8, 64),
    ]
    assert traced.backbone(PreactResNet(num_classes=1000, depth=50), 224)[0] == [
        ("conv1", 112, 64),
        ("conv2_x", 56, 256),
        ("conv3_x", 28, 512),
        ("conv4_x", 14, 1024),
        ("conv5_x", 7, 2048),
    ]


def test_every_unit_but_the_first_starts_with_its_own_normalisation():
    """The first one's is the stem's; one more follows the last unit (appendix)."""
    for params in (cifar(29)[1], cifar(20, bottleneck=False)[1]):
        units = {name: unit for name, unit in params.items() if "_" in name}
        del units["bn_last"]
        assert [name for name, unit in units.items() if "bn1" not in unit] == [
            "conv2_1"
        ]
        assert params["bn1"]["scale"].shape == (16,)
        last = params["conv4_3"]["bn1"]["scale"].shape
        assert params["bn_last"]["scale"].shape == last


def test_projections_have_no_normalisation_and_basic_units_no_projections():
    _, params = cifar(29)
    projected = [name for name, unit in params.items() if "shortcut" in unit]
    assert projected == ["conv2_1", "conv3_1", "conv4_1"]
    assert not any("shortcut_bn" in unit for unit in params.values())
    _, params = cifar(20, bottleneck=False)
    assert not any("shortcut" in unit for unit in params.values())


@functools.partial(jax.jit, static_argnums=(1, 2))
def unit(x, features, strides):
    """A basic unit that adds nothing, on x [B, h, w, C]: the shortcut alone."""
    module = preact_resnet.BasicUnit(features, strides, True, jnp.float32)
    variables = module.init(jax.random.key(0), x, train=False)
    kernel = variables["params"]["conv2"]["kernel"]
    variables["params"]["conv2"]["kernel"] = jnp.zeros_like(kernel)
    return module.apply(variables, x, train=False)


def test_shortcuts_are_the_identity_or_see_the_activated_input():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(unit(x, 3, 1), x)
    activated = np.maximum(x / (1 + 1e-5) ** 0.5, 0)[:, ::2, ::2]
    y = np.asarray(unit(x, 6, 2))
    np.testing.assert_allclose(y[..., :3], activated, rtol=1e-6)
    assert not y[..., 3:].any()


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (CifarPreactResNet(num_classes=10, depth=29), (16, 16)),
        (PreactResNet(num_classes=10, depth=50), (8, 4)),
        (PreactResNet(num_classes=10, depth=50, stride_on="1x1"), (4, 4)),
    ],
)
def test_the_stride_is_on_the_first_1x1_for_cifar_and_on_the_3x3_for_imagenet(
    model, sizes
):
    rows = {row.name: row.output for row in counting.layers(model, (32, 32, 3))}
    assert (rows["conv3_1.conv1"][0], rows["conv3_1.conv2"][0]) == sizes


@pytest.mark.parametrize("bottleneck", [False, True])
def test_weights_start_as_in_the_authors_code(bottleneck):
    """Standard deviation sqrt(2 / (pixels * outputs)), with two tails."""
    depth = 11 if bottleneck else 8
    model = CifarPreactResNet(num_classes=10, depth=depth, bottleneck=bottleneck)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["backbone"]
    kernels = [params["conv1"], params["conv3_1"]["conv1"], params["conv4_1"]["conv2"]]
    if bottleneck:
        kernels.append(params["conv4_1"]["shortcut"])
    for kernel in (np.asarray(layer["kernel"]) for layer in kernels):
        deviation = (2 / (kernel[..., 0, 0].size * kernel.shape[-1])) ** 0.5
        # conv1 has 432 draws, so a deviation's own is 3.4 %.
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.1)
    assert np.abs(kernel).max() > 3 * deviation


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (CifarPreactResNet, {"depth": 165}, "depth 165 is not 9 n"),
        (CifarPreactResNet, {"depth": 2}, "depth 2 is not 9 n"),
        (CifarPreactResNet, {"depth": 29, "bottleneck": False}, "depth 29 is not 6 n"),
        (PreactResNet, {"stride_on": "7x7"}, "stride_on '7x7'"),
        (PreactResNet, {"depth": 18}, "depth 18"),
    ],
)
def test_impossible_fields_are_refused(network, fields, message):
    with pytest.raises(ValueError, match=message):
        network(num_classes=10, **fields)
