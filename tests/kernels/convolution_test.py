"""The blocked convolution is the convolution."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import value_and_gradients
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import convolution, ops

NHWC = ("NHWC", "HWIO", "NHWC")


def draw(*shape, dtype=None):
    rng = np.random.default_rng(math.prod(shape))
    return jnp.asarray(rng.normal(size=shape), dtype)


def assert_same(f, g, images, kernel):
    ours = value_and_gradients(f, images, kernel)
    theirs = value_and_gradients(g, images, kernel)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        # At most 600 terms of size about 1, in float64.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


PADDINGS = (((0, 0), (0, 0)), ((2, 1), (0, 3)), ((-1, 1), (1, 0)))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_equals_lax_in_value_and_gradients(float64, kernel, strides, dilation):
    w = draw(*kernel, 3, 4)
    for padding, size in zip(PADDINGS, [(9, 11), (12, 8), (10, 9)], strict=True):

        def ours(x, w, padding=padding):
            return convolution.blocked_conv(x, w, strides, padding, dilation)

        def theirs(x, w, padding=padding):
            return lax.conv_general_dilated(
                x, w, strides, padding, None, dilation, NHWC
            )

        assert_same(ours, theirs, draw(2, *size, 3), w)


@pytest.mark.parametrize("block", list(itertools.product((1, 2, 3, 5), (1, 4))))
def test_every_block_gives_the_same(float64, block):
    """Blocks that divide the output, that leave a rest, and one block in all."""
    strides, padding, dilation = (2, 1), ((2, 2), (0, 1)), (1, 2)

    def ours(x, w):
        return convolution.blocked_conv(x, w, strides, padding, dilation, block=block)

    def theirs(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, None, dilation, NHWC)

    assert_same(ours, theirs, draw(2, 9, 11, 3), draw(5, 3, 3, 2))


def test_string_padding_and_empty_batch(float64):
    for padding, n in [("SAME", 2), ("VALID", 2), ("SAME", 0)]:

        def ours(x, w, padding=padding):
            return convolution.conv_general_dilated(
                x, w, (1, 1), padding, dimension_numbers=NHWC
            )

        def theirs(x, w, padding=padding):
            return lax.conv_general_dilated(
                x, w, (1, 1), padding, dimension_numbers=NHWC
            )

        assert_same(ours, theirs, jnp.ones((n, 8, 7, 3)), draw(3, 3, 3, 2))


@pytest.mark.parametrize(
    "lhs, rhs, options",
    [
        ((2, 8, 8, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
        ((2, 8, 8, 4), (3, 3, 4, 6), {"lhs_dilation": (2, 2)}),
        ((4, 8, 8, 4), (3, 3, 4, 6), {"batch_group_count": 2}),
        ((2, 8, 4), (3, 4, 6), {"dimension_numbers": ("NHC", "HIO", "NHC")}),
        ((2, 4, 8, 8), (6, 4, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    ],
)
def test_everything_else_is_left_to_lax(float64, lhs, rhs, options):
    strides, padding = (1,) * (len(lhs) - 2), [(1, 1)] * (len(lhs) - 2)
    options = {"dimension_numbers": NHWC, **options}

    def ours(x, w):
        return convolution.conv_general_dilated(x, w, strides, padding, **options)

    def theirs(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, **options)

    assert_same(ours, theirs, draw(*lhs), draw(*rhs))


def product_layer(features=6):
    return nn.Conv(
        features,
        (5, 5),
        padding=2,
        conv_general_dilated=convolution.conv_general_dilated,
    )


@pytest.mark.parametrize(
    "side, kernel, padding, product",
    [
        (28, (5, 5, 1, 6), "VALID", True),
        (28, (28, 28, 16, 32), "VALID", True),
        (3, (3, 3, 16, 20), "SAME", False),
        (28, (3, 3, 16, 20), "VALID", False),
    ],
)
def test_only_small_layers_are_products(side, kernel, padding, product):
    def f(x, w):
        return convolution.conv_general_dilated(
            x, w, (1, 1), padding, dimension_numbers=NHWC
        )

    images = jnp.ones((8, side, side, kernel[2]))
    text = jax.jit(f).lower(images, jnp.ones(kernel)).compile().as_text()
    assert ("convolution(" not in text) == product


def test_in_a_loop_no_convolution_is_left():
    images, layer = jnp.ones((8, 28, 28, 1)), product_layer()
    variables = layer.init(jax.random.key(0), images)

    def loss(variables):
        return jnp.square(layer.apply(variables, images)).sum()

    def body(_, variables):
        return jax.tree.map(lambda v, g: v - g, variables, jax.grad(loss)(variables))

    def loop(variables):
        return lax.fori_loop(0, 3, body, variables)

    text = jax.jit(loop).lower(variables).compile().as_text()
    assert " dot(" in text or "ynn" in text
    assert "convolution(" not in text


def test_bfloat16():
    images, kernel = draw(2, 12, 12, 3), draw(5, 5, 3, 4)
    options = {"window_strides": (1, 1), "padding": [(2, 2), (2, 2)]}
    exact = lax.conv_general_dilated(images, kernel, dimension_numbers=NHWC, **options)
    rounded = convolution.conv_general_dilated(
        images.astype(jnp.bfloat16),
        kernel.astype(jnp.bfloat16),
        dimension_numbers=NHWC,
        **options,
    )
    assert rounded.dtype == jnp.bfloat16
    # Inputs and result are rounded to 8 bits; 75 products of size about 1.
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=0, atol=0.25)


def test_vmap_and_forward_mode(float64):
    images, kernels = draw(3, 2, 9, 9, 2), draw(3, 3, 3, 2, 4)

    def ours(x, w):
        return convolution.conv_general_dilated(
            x, w, (1, 1), [(1, 1), (1, 1)], dimension_numbers=NHWC
        )

    def theirs(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), [(1, 1), (1, 1)], dimension_numbers=NHWC
        )

    np.testing.assert_allclose(
        jax.vmap(ours)(images, kernels), jax.vmap(theirs)(images, kernels), atol=1e-12
    )
    primals = images[0], kernels[0]
    tangents = images[1], kernels[1]
    np.testing.assert_allclose(
        jax.jvp(ours, primals, tangents)[1],
        jax.jvp(theirs, primals, tangents)[1],
        atol=1e-12,
    )


def test_a_split_batch_is_not_gathered():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    first, second = product_layer(), product_layer(16)
    images = draw(16, 28, 28, 1, dtype=jnp.float32)
    variables = first.init(jax.random.key(0), images)
    variables = variables, second.init(jax.random.key(1), jnp.ones((1, 28, 28, 6)))

    def loss(variables, images):
        x = nn.relu(first.apply(variables[0], images))
        return jnp.square(second.apply(variables[1], x)).mean()

    step = jax.jit(jax.value_and_grad(loss), in_shardings=(whole, split))
    text = step.lower(variables, images).compile().as_text()
    assert "all-reduce" in text
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text

    alone = jax.jit(jax.value_and_grad(loss))(variables, images)
    for a, b in zip(
        jax.tree.leaves(step(variables, images)), jax.tree.leaves(alone), strict=True
    ):
        # The sum over the batch is in another order: float32 rounding of its terms.
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("batch, grid", [(16, [8]), (16, [2, 4]), (4, [8])])
def test_groups_of_a_split_batch_are_not_gathered(float64, batch, grid):
    """XLA gathers them; a batch of fewer images than devices stays XLA's."""
    axes = ("data", "more")[: len(grid)]
    mesh = Mesh(np.array(jax.devices()).reshape(grid), axes)
    split = NamedSharding(mesh, PartitionSpec(axes if batch >= 8 else None))
    whole = NamedSharding(mesh, PartitionSpec())
    images, kernel = draw(batch, 9, 11, 8), draw(3, 3, 2, 12)

    def convolve(images, kernel):
        return convolution.conv_general_dilated(
            images,
            kernel,
            (2, 1),
            ((1, 1), (0, 2)),
            dimension_numbers=NHWC,
            feature_group_count=4,
        )

    def gradients(images, kernel):
        return value_and_gradients(convolve, images, kernel)

    program = jax.jit(
        gradients, in_shardings=(split, whole), out_shardings=(split, split, whole)
    )
    with ops.for_mesh(mesh):
        compiled = program.lower(images, kernel).compile()
    if batch >= 8:
        assert "all-reduce" in compiled.as_text()
        assert "all-gather" not in compiled.as_text()
    for a, b in zip(compiled(images, kernel), gradients(images, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
