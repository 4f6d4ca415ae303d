"""ResNet against Table 1 and Sections 3.3, 3.4 and 4.2 of the paper."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count, stages

import models
from comparison import counting
from models import resnet


@functools.cache
def parameters(name, size=64, **fields):
    """The shapes of parameters."""
    model = models.create(name, num_classes=10 if size == 32 else 1000, **fields)
    images = jnp.zeros((1, size, size, 3))
    return traced.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )["params"]


def init(module, x):
    return jax.jit(functools.partial(module.init, train=False))(jax.random.key(1), x)


def table(name, size):
    """(name, pixels, maps) of each stage."""
    found = stages(models.create(name, num_classes=10), size)
    return [(stage, *shape[1:]) for stage, shape in found.items()]


@pytest.mark.parametrize(("name", "expansion"), [("resnet34", 1), ("resnet50", 4)])
def test_stages_are_table_1s(name, expansion):
    assert table(name, 224) == [
        ("conv1", 112, 64),
        ("conv2_x", 56, 64 * expansion),
        ("conv3_x", 28, 128 * expansion),
        ("conv4_x", 14, 256 * expansion),
        ("conv5_x", 7, 512 * expansion),
    ]


def test_stages_for_cifar_are_section_4_2s():
    assert table("resnet20", 32) == [
        ("conv1", 32, 16),
        ("conv2_x", 32, 16),
        ("conv3_x", 16, 32),
        ("conv4_x", 8, 64),
    ]


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("resnet18", "A", 11_515_688),
        ("resnet34", "A", 21_623_848),
        ("resnet34", "C", 22_716_840),
        ("resnet50", "A", 22_780_456),
        ("resnet50", "C", 40_128_552),
    ],
)
def test_shortcut_options(name, option, expected):
    """Section 3.3. A has no parameters, so it counts as the plain network does."""
    assert count(parameters(name, shortcut=option)) == expected


@pytest.mark.parametrize(("depth", "expected"), [(20, 272_474), (56, 855_770)])
def test_projections_for_cifar(depth, expected):
    assert count(parameters(f"resnet{depth}", 32, shortcut="B")) == expected


def test_option_a_repeats_every_second_pixel_and_adds_zeros():
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    y = resnet.shortcut("A", x, (1, 2, 2, 5), 2, None, None)
    assert y.shape == (1, 2, 2, 5)
    np.testing.assert_array_equal(y[..., :2], x[:, ::2, ::2])
    assert not y[..., 2:].any()


def test_plain_networks_have_no_way_around_a_block():
    """A block whose last scale is 0 adds nothing: its input comes through a shortcut,
    but not without one."""
    for option, passes in (("A", True), ("none", False)):
        block = resnet.BasicBlock(4, 1, option, zero_init=True, dtype=jnp.float32)
        x = jax.random.uniform(jax.random.key(0), (1, 5, 5, 4))
        y = jax.jit(functools.partial(block.apply, train=False))(init(block, x), x)
        np.testing.assert_array_equal(y, x if passes else jnp.zeros_like(x))


@pytest.mark.parametrize(
    ("kind", "last"), [(resnet.BasicBlock, "bn2"), (resnet.Bottleneck, "bn3")]
)
def test_zero_init_zeroes_the_last_scale_of_a_block(kind, last):
    block = kind(4, 2, "B", zero_init=True, dtype=jnp.float32)
    params = init(block, jnp.zeros((1, 4, 4, 2)))["params"]
    scales = {name: p["scale"] for name, p in params.items() if "bn" in name}
    assert {name for name, scale in scales.items() if not scale.any()} == {last}
    assert all(scale.all() for name, scale in scales.items() if name != last)
    model = models.create("resnet50", num_classes=10, zero_init=True).bind({})
    assert model.backbone.block.keywords["zero_init"]


def test_drop_path_leaves_the_shortcut_alone_or_divides_by_what_is_kept():
    block = resnet.BasicBlock(4, 1, "A", False, jnp.float32, drop_path=0.25)
    x = jax.random.normal(jax.random.key(0), (200, 2, 2, 4))
    variables = init(block, x)

    @functools.partial(jax.jit, static_argnums=1)
    def apply(key, block):
        y, _ = block.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return y

    y = apply(jax.random.key(1), block)
    dropped = (y == nn.relu(x)).all((1, 2, 3))
    assert 0.15 < dropped.mean() < 0.35  # three deviations of 200 draws: 0.09
    always = block.clone(drop_path=0.0)
    pre = apply(jax.random.key(1), always)
    kept = ~np.asarray(dropped)
    seen = np.asarray((pre > 0) & (y > 0))[kept]  # where no ReLU hides the sum
    added, whole = (np.asarray(z - x)[kept][seen] for z in (y, pre))
    np.testing.assert_allclose(added, whole / 0.75, atol=2e-5)


def test_drop_path_rises_from_the_first_block_to_the_last():
    model = models.create("resnet18", num_classes=3, drop_path=0.7)
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, resnet.BasicBlock):
            rates.append(context.module.drop_path)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        traced.eval_shape(lambda x: init(model, x), jnp.zeros((1, 32, 32, 3)))
    np.testing.assert_allclose(rates, np.arange(8) / 10, atol=1e-12)
    with pytest.raises(ValueError, match=r"drop_path 1\.0 is not in \[0, 1\)"):
        models.create("resnet18", num_classes=3, drop_path=1.0)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(50, 4_089_184_256), (101, 7_801_405_440), (152, 11_513_626_624)],
)
def test_multiply_adds_with_the_strides_on_the_3x3(depth, expected):
    """ "v1.5" has more work than Table 1 and the same parameters."""
    model = models.create(f"resnet{depth}", num_classes=1000, stride_on="3x3")
    rows = counting.layers(model, (224, 224, 3))
    assert sum(row.multiply_adds for row in rows) == expected


@pytest.mark.parametrize(("stride_on", "sizes"), [("1x1", (4, 4)), ("3x3", (8, 4))])
def test_the_stride_is_where_stride_on_says(stride_on, sizes):
    model = models.create("resnet50", num_classes=10, stride_on=stride_on)
    rows = {row.name: row.output for row in counting.layers(model, (32, 32, 3))}
    for i, (first, second) in enumerate([(8, 8), sizes], 2):
        assert rows[f"conv{i}_1.conv1"][0] == first
        assert rows[f"conv{i}_1.conv2"][0] == second


def test_weights_start_as_section_3_4_says():
    """He et al. 2015: standard deviation sqrt(2 / inputs of a unit), no biases."""
    block = resnet.BasicBlock(64, 1, "A", zero_init=False, dtype=jnp.float32)
    params = init(block, jnp.zeros((1, 4, 4, 64)))["params"]
    assert set(params["conv2"]) == {"kernel"}
    deviation = params["conv2"]["kernel"].std()
    np.testing.assert_allclose(deviation, (2 / (9 * 64)) ** 0.5, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("wrn_16_4", "conv2_1/conv1"),
        ("wrn_50_2", "conv2_2/conv2"),
        ("resnext50_32x4d", "conv2_1/conv2"),
        ("resnext29_8x64d", "conv2_1/conv2"),
    ],
)
def test_descendants_of_fb_resnet_count_the_outputs(name, layer):
    """Standard deviation sqrt(2 / (9 * outputs)), of all groups together."""
    model = models.create(name, num_classes=10)
    params = init(model, jnp.zeros((1, 32, 32, 3)))["params"]["backbone"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for path in ("conv1", layer):
        kernel = flat[f"{path}/kernel"]
        height, width, _, outputs = kernel.shape
        expected = (2 / (height * width * outputs)) ** 0.5
        # conv1 of wrn_16_4 has 432 draws, so a deviation's own is 3.4 %.
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet18", {"shortcut": "D"}, "shortcut 'D' is none of A, B, C, none"),
        ("resnet20", {"shortcut": ""}, "shortcut '' is none of A, B, C, none"),
        ("plain20", {"zero_init": True}, "zero_init True needs shortcuts"),
        ("plain34", {"zero_init": True}, "zero_init True needs shortcuts"),
        ("plain18", {"drop_path": 0.1}, "drop_path 0.1 needs shortcuts"),
        ("resnet50", {"stride_on": "5x5"}, "stride_on '5x5' is none of 1x1, 3x3"),
    ],
)
def test_impossible_fields_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, **fields)


@pytest.mark.parametrize("network", [resnet.ResNet, resnet.CifarResNet])
def test_a_depth_that_is_not_in_the_paper_is_refused(network):
    with pytest.raises(ValueError, match="depth 19 is none of"):
        network(num_classes=10, depth=19)
