"""ResNeXt against Tables 1 and 2 and Section 5.3 of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from flax import linen as nn

import models
from models import resnet


def trace(name, size, **fields):
    return traced.backbone(models.create(name, num_classes=1000, **fields), size)


def kernels(block):
    return [block[f"conv{i}"]["kernel"].shape for i in (1, 2, 3)]


def test_stages_are_table_1s():
    stages, params = trace("resnext50_32x4d", 224)
    assert stages == [
        ("conv1", 112, 64),
        ("conv2_x", 56, 256),
        ("conv3_x", 28, 512),
        ("conv4_x", 14, 1024),
        ("conv5_x", 7, 2048),
    ]
    for i, width in enumerate((128, 256, 512, 1024), 2):
        # A kernel of 32 groups has a 32nd of the inputs.
        assert kernels(params[f"conv{i}_2"]) == [
            (1, 1, 2 * width, width),
            (3, 3, width // 32, width),
            (1, 1, width, 2 * width),
        ]


@pytest.mark.parametrize(("cardinality", "width"), [(1, 64), (2, 40), (4, 24), (8, 14)])
def test_the_templates_of_table_2(cardinality, width):
    fields = {"cardinality": cardinality, "bottleneck_width": width}
    _, params = trace("resnext50_32x4d", 32, **fields)
    total = sum(np.prod(shape) for shape in kernels(params["conv2_2"]))
    c, d = cardinality, width
    assert total == c * (256 * d + 9 * d * d + d * 256)
    assert abs(total - 70_000) < 2_000
    assert params["conv3_2"]["conv2"]["kernel"].shape == (3, 3, 2 * d, 2 * c * d)


def test_cardinality_1_is_resnet50():
    _, params = trace("resnext50_32x4d", 32, cardinality=1, bottleneck_width=64)
    model = models.create("resnet50", num_classes=1000)
    images = jnp.zeros((1, 32, 32, 3))
    init = functools.partial(model.init, train=False)
    expected = traced.eval_shape(init, jax.random.key(0), images)["params"]["backbone"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)


def test_stages_for_cifar_are_section_5_3s():
    stages, params = trace("resnext29_8x64d", 32)
    assert stages == [
        ("conv1", 32, 64),
        ("conv2_x", 32, 256),
        ("conv3_x", 16, 512),
        ("conv4_x", 8, 1024),
    ]
    assert kernels(params["conv2_2"]) == [
        (1, 1, 256, 512),
        (3, 3, 64, 512),
        (1, 1, 512, 256),
    ]
    # 29 layers: conv1, three times three blocks of three, and the linear one.
    assert sum("_" in name for name in params) == 9


def test_grouped_convolutions_are_paths_that_are_summed():
    """Figure 3: (a) and (c) are the same function."""
    paths, width, maps = 4, 2, 16
    block = resnet.Bottleneck(
        4, 1, "B", False, jnp.float32, width=paths * width * 16, groups=paths
    )
    x = np.random.default_rng(0).uniform(size=(1, 5, 5, maps)).astype(np.float32)
    init = jax.jit(functools.partial(block.init, train=False))
    variables = init(jax.random.key(1), x)
    first, second, third = (
        variables["params"][f"conv{i}"]["kernel"] for i in (1, 2, 3)
    )
    norm = (1 + 1e-5) ** 0.5  # of statistics as they are at first

    def path(i):
        mine = slice(i * width, (i + 1) * width)
        y = nn.relu(conv(x, first[..., mine]) / norm)
        y = nn.relu(conv(y, second[..., mine]) / norm)
        return conv(y, third[:, :, mine]) / norm

    expected = jax.jit(lambda: nn.relu(x + sum(path(i) for i in range(paths))))()
    actual = jax.jit(functools.partial(block.apply, train=False))(variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )


@pytest.mark.parametrize("field", ["cardinality", "bottleneck_width"])
def test_impossible_fields_are_refused(field):
    with pytest.raises(ValueError, match=f"^{field} 0 "):
        models.create("resnext50_32x4d", num_classes=10, **{field: 0})
