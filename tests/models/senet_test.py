"""SENet against Table 1 and the appendix of the paper, and the authors' networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import senet


def trace(name, size, **fields):
    return traced.backbone(models.create(name, num_classes=1000, **fields), size)


def test_stages_are_table_1s():
    assert trace("se_resnet50", 224)[0] == [
        ("conv1", 112, 64),
        ("conv2_x", 56, 256),
        ("conv3_x", 28, 512),
        ("conv4_x", 14, 1024),
        ("conv5_x", 7, 2048),
    ]


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [("se_resnet50", 2_514_944, 2_530_992), ("se_resnext50_32x4d", 2_514_944, None)],
)
def test_what_squeeze_and_excitation_adds(name, weights, expected):
    """Equation 5: 2 / r times the sum of C^2 over all blocks, and biases."""
    _, params = trace(name, 64)
    blocks = [block["se"] for block in params.values() if "se" in block]
    assert len(blocks) == 3 + 4 + 6 + 3
    kernels = sum(layer["kernel"].size for b in blocks for layer in b.values())
    assert kernels == weights
    if expected:
        assert count(blocks) == expected


def test_the_reduction_of_table_10_can_be_chosen():
    _, params = trace("se_resnet50", 32, reduction=8)
    assert params["conv2_1"]["se"]["fc1"]["kernel"].shape == (256, 32)
    assert params["conv5_3"]["se"]["fc2"]["kernel"].shape == (256, 2048)


def test_excitation_scales_the_residual_and_not_the_shortcut():
    """Figure 3: with the scales at 0, only the shortcut remains."""
    block = senet.SEBottleneck(4, 1, "B", False, jnp.float32)
    x = np.random.default_rng(0).uniform(size=(1, 5, 5, 16)).astype(np.float32)
    init = jax.jit(functools.partial(block.init, train=False))
    apply = jax.jit(functools.partial(block.apply, train=False))
    variables = init(jax.random.key(1), x)
    assert not np.array_equal(apply(variables, x), x)
    bias = variables["params"]["se"]["fc2"]["bias"]
    variables["params"]["se"]["fc2"]["bias"] = jnp.full_like(bias, -100)
    np.testing.assert_array_equal(apply(variables, x), x)


def test_senet154_is_the_appendix():
    stages, params = trace("senet154", 64)
    assert stages == [
        ("conv1", 32, 128),
        ("conv2_x", 16, 256),
        ("conv3_x", 8, 512),
        ("conv4_x", 4, 1024),
        ("conv5_x", 2, 2048),
    ]
    # Half the maps in a block's first convolution, 64 groups in its second.
    shapes = [params["conv3_2"][f"conv{i}"]["kernel"].shape for i in (1, 2, 3)]
    assert shapes == [(1, 1, 512, 256), (3, 3, 4, 512), (1, 1, 512, 512)]
    # Projections are 3x3 where they have a stride.
    projections = {n: b["shortcut"] for n, b in params.items() if "shortcut" in b}
    sizes = {name: p["kernel"].shape[0] for name, p in projections.items()}
    assert sizes == {"conv2_1": 1, "conv3_1": 3, "conv4_1": 3, "conv5_1": 3}
    # 154 layers: the stem, 50 blocks of three, and the linear one.
    assert sum("se" in block for block in params.values()) == 50


def test_senet154_drops_a_fifth_of_what_its_last_layer_sees():
    assert models.create("senet154", num_classes=10).dropout == 0.2


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("se_resnet50", "reduction", 257),
        ("se_resnet50", "stride_on", "7x7"),
        ("se_resnet50", "cardinality", 0),
        ("se_resnet50", "bottleneck_width", 0),
        ("senet154", "reduction", 0),
        ("senet154", "dropout", -0.1),
    ],
)
def test_impossible_fields_are_refused(name, field, value):
    with pytest.raises(ValueError, match=f"^{field} {value!r} "):
        models.create(name, num_classes=10, **{field: value})
