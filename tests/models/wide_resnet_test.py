"""Wide ResNet against Table 1 and the authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

import models
from models import wide_resnet


def trace(name, size, **fields):
    return traced.backbone(models.MODELS[name](num_classes=10, **fields), size)


@pytest.mark.parametrize(("name", "factor"), [("wrn_16_8", 8), ("wrn_28_10", 10)])
def test_stages_are_table_1s(name, factor):
    """All groups are widened; conv1 is not."""
    assert trace(name, 32)[0] == [
        ("conv1", 32, 16),
        ("conv2_x", 32, 16 * factor),
        ("conv3_x", 16, 32 * factor),
        ("conv4_x", 8, 64 * factor),
    ]


@pytest.mark.parametrize("name", ["wrn_16_4", "wrn_28_10", "wrn_40_1"])
def test_depth_counts_convolutions(name):
    """n = 6 N + 4, with the 1x1 shortcuts; at k = 1 conv2_x needs none."""
    _, params = trace(name, 32)
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    kernels = [path for path in kernels if path[-1].key == "kernel"]
    _, n, k = name.split("_")
    assert len(kernels) == int(n) - (k == "1")


@pytest.mark.parametrize(("name", "has_own"), [("wrn_16_4", False), ("wrn_40_1", True)])
def test_a_first_unit_that_keeps_the_shape_has_its_own_activation(name, has_own):
    """Its shortcut is conv1; others' two paths see the stem's activation."""
    _, params = trace(name, 32)
    assert ("bn1" in params["conv2_1"], "bn1" in params) == (has_own, not has_own)


def test_stages_for_imagenet():
    """Wider basic blocks have wider outputs, wider bottlenecks do not."""
    assert [maps for *_, maps in trace("wrn_18_1.5", 64)[0]] == [64, 96, 192, 384, 768]
    stages, params = trace("wrn_50_2", 64)
    assert [maps for *_, maps in stages] == [64, 256, 512, 1024, 2048]
    assert params["conv2_2"]["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert params["conv5_2"]["conv2"]["kernel"].shape == (3, 3, 1024, 1024)


def test_dropout_is_between_the_two_convolutions_of_a_unit():
    """With all of it dropped, a unit is its shortcut."""
    module = wide_resnet.WideUnit(3, 1, True, jnp.float32, dropout=1.0)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    init = jax.jit(functools.partial(module.init, train=False))
    variables = init(jax.random.key(1), x)
    rngs = {"dropout": jax.random.key(2)}
    options = {"train": True, "rngs": rngs, "mutable": ["batch_stats"]}
    y, updated = jax.jit(functools.partial(module.apply, **options))(variables, x)
    np.testing.assert_array_equal(y, x)
    evaluated = jax.jit(functools.partial(module.apply, train=False))(variables, x)
    assert not np.array_equal(evaluated, x)
    # The second normalisation is ahead of the dropout: it has seen something.
    assert updated["batch_stats"]["bn2"]["mean"].any()


def test_dropout_is_a_field_and_off_by_default():
    assert "dropout" in models.fields("wrn_28_10")
    assert models.create("wrn_28_10", num_classes=10).dropout == 0


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (wide_resnet.CifarWideResNet, {"depth": 20}, "depth 20 is not 6 n"),
        (wide_resnet.CifarWideResNet, {"depth": 4}, "depth 4 is not 6 n"),
        (wide_resnet.CifarWideResNet, {"dropout": 1.0}, "dropout 1.0"),
        (
            wide_resnet.CifarWideResNet,
            {"widening_factor": 0.3},
            "widening_factor 0.3 makes 16 maps 4.8",
        ),
        (
            wide_resnet.WideResNet,
            {"widening_factor": -1},
            "widening_factor -1 is not a positive number",
        ),
        (wide_resnet.WideResNet, {"stride_on": "2x2"}, "stride_on '2x2'"),
        (wide_resnet.WideResNet, {"depth": 28}, "depth 28"),
    ],
)
def test_impossible_fields_are_refused(network, fields, message):
    with pytest.raises(ValueError, match=message):
        network(num_classes=10, **fields)
