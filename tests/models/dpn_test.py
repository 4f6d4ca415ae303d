"""Dual path networks against Table 1 of the paper and the authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import dpn


def trace(name):
    """The stages of one image, name: (pixels, maps), and the shapes of parameters."""
    model = models.create(name, num_classes=10)
    stages, params = traced.backbone(model, 224)
    return {name: tuple(shape) for name, *shape in stages}, params


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("dpn68", (10, 64 + 5 * 16, 128 + 6 * 32, 256 + 14 * 32, 832)),
        ("dpn92", (64, 256 + 5 * 16, 512 + 6 * 32, 1024 + 22 * 24, 2688)),
    ],
)
def test_stages(name, maps):
    # The dense path starts with twice what each block then adds.
    stages, _ = trace(name)
    pixels = (112, 56, 28, 14, 7)
    names = "conv1 conv2 conv3 conv4 conv5".split()
    assert stages == dict(zip(names, zip(pixels, maps, strict=True), strict=True))
    assert list(stages) == names


def test_the_convolutions_of_dpn92s_first_blocks():
    _, params = trace("dpn92")
    shapes = {
        n: layer["conv"]["kernel"].shape for n, layer in params["conv3_1"].items()
    }
    assert shapes == {
        "c1x1_w": (1, 1, 336, 512 + 2 * 32),
        "c1x1_a": (1, 1, 336, 192),
        "c3x3_b": (3, 3, 6, 192),
        "c1x1_c": (1, 1, 192, 512 + 32),
    }
    # "32 x 3d": 32 groups of 3 maps in conv2, of 24 in conv5.
    assert params["conv2_1"]["c3x3_b"]["conv"]["kernel"].shape == (3, 3, 3, 96)
    assert params["conv5_1"]["c3x3_b"]["conv"]["kernel"].shape == (3, 3, 24, 768)
    assert "c1x1_w" not in params["conv3_2"]


def test_parameters_of_a_block():
    # Every convolution has a batch normalisation of its own input, and no bias.
    _, params = trace("dpn68")
    inputs = 64 + 3 * 16
    weights = inputs * 128 + 9 * 128 * 4 + 128 * (64 + 16)
    assert count(params["conv2_2"]) == weights + 2 * (inputs + 128 + 128)
    assert count(params["conv2_1"]["c1x1_w"]) == 10 * (64 + 2 * 16) + 2 * 10


def block(**fields):
    sizes = {"residual": 8, "width": 4, "increment": 3, "groups": 2, "strides": 1}
    return dpn.DualPathBlock(**sizes | {"first": False, "dtype": jnp.float32} | fields)


def test_a_block_adds_to_one_path_and_appends_to_the_other():
    draw = np.random.default_rng(0).normal
    paths = tuple(draw(size=(2, 6, 6, m)).astype(np.float32) for m in (8, 9))
    init = functools.partial(block().init, train=False)
    variables = traced.eval_shape(init, jax.random.key(0), paths)
    variables = jax.tree.map(jnp.ones_like, variables)
    apply = jax.jit(functools.partial(block().apply, train=False))
    residual, dense = apply(variables, paths)
    assert residual.shape == (2, 6, 6, 8) and dense.shape == (2, 6, 6, 12)
    np.testing.assert_array_equal(dense[..., :9], paths[1])

    # What the last convolution says goes to both: its first maps are added.
    conv = variables["params"]["c1x1_c"]["conv"]
    conv["kernel"] = conv["kernel"].at[..., :8].set(0)
    same, again = apply(variables, paths)
    np.testing.assert_array_equal(same, paths[0])
    np.testing.assert_array_equal(again, dense)
    assert not jnp.array_equal(residual, same)


def test_the_first_block_of_a_stage_starts_both_paths():
    first = block(first=True, strides=2)
    image = (jnp.ones((2, 6, 6, 5)),)
    call = functools.partial(first.init_with_output, train=False)
    paths, _ = traced.eval_shape(call, jax.random.key(0), image)
    assert [path.shape for path in paths] == [(2, 3, 3, 8), (2, 3, 3, 9)]
