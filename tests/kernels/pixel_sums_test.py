"""Sums over pixels and their gradients are the sums of all numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import ops, pixel_sums

# Fewer pixels than one turn has, rows left over at some turn, none, and no channels.
SHAPES = ((2, 1, 1, 3), (3, 5, 7, 4), (5, 33, 31, 16), (4, 32, 32, 8), (2, 4, 4, 0))


def draw(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def close(x, y, rtol=1e-5):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol, rtol * np.abs(y).max(initial=1))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_total_is_the_sum_in_float64(shape, per_image):
    x = draw(shape)
    y = jax.jit(pixel_sums.total, static_argnums=1)(x, per_image)
    assert y.dtype == x.dtype
    close(y, x.astype(np.float64).sum((1, 2) if per_image else (0, 1, 2)))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_total_and_spread_are_each_others_transpose(shape, per_image):
    x = draw(shape)
    dy = draw(shape[:1] * per_image + shape[-1:])
    (dx,) = jax.vjp(lambda x: pixel_sums.total(x, per_image), x)[1](dy)
    rows = dy[:, None, None] if per_image else dy
    np.testing.assert_array_equal(dx, np.broadcast_to(rows, shape))
    (back,) = jax.vjp(lambda dy: pixel_sums.spread(dy, shape), dy)[1](x)
    close(back, x.astype(np.float64).sum((1, 2) if per_image else (0, 1, 2)))


def test_derivatives_of_higher_order():
    x = draw((3, 6, 7, 4))

    def ours(a):
        y = pixel_sums.spread(a, x.shape) * x
        return jnp.square(pixel_sums.total(jnp.square(y))).sum()

    def plain(a):
        return jnp.square(jnp.square(a.reshape(1, 1, 1, -1) * x).sum((0, 1, 2))).sum()

    a = draw(4)

    def derivatives(f):
        slope = jax.jvp(f, (a,), (a,))[1]
        return jax.hessian(f)(a), slope

    for theirs, own in zip(
        jax.jit(lambda: derivatives(plain))(),
        jax.jit(lambda: derivatives(ours))(),
        strict=True,
    ):
        close(own, theirs)


@pytest.mark.parametrize("per_image", [False, True])
def test_sums_of_many_at_once(per_image):
    x = draw((5, 3, 6, 7, 4))
    y = jax.vmap(lambda x: pixel_sums.total(x, per_image), 1)(np.moveaxis(x, 0, 1))
    close(y, np.stack([pixel_sums.total(part, per_image) for part in x]))
    back = jax.vmap(lambda y: pixel_sums.spread(y, x.shape[1:]))(y)
    close(back[2], pixel_sums.spread(y[2], x.shape[1:]))


def test_low_precision_is_added_in_float32():
    x = draw((4, 32, 32, 8)) + 1
    low = jnp.asarray(x, jnp.bfloat16)
    y = pixel_sums.total(low)
    assert y.dtype == jnp.bfloat16
    close(y, np.asarray(low, np.float64).sum((0, 1, 2)), 2**-8)


def test_a_sharded_batch_is_reduced_not_gathered():
    mesh = Mesh(np.array(jax.devices()), "d")
    x = draw((16, 8, 8, 4))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
    everywhere = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(pixel_sums.total, out_shardings=everywhere)
    text = program.lower(sharded).compile().as_text()
    assert "all-reduce(" in text
    assert "all-gather(" not in text and "collective-permute(" not in text
    close(program(sharded), pixel_sums.total(x))


def test_portable_programs_have_no_primitives_of_ours():
    def both(x):
        return pixel_sums.spread(pixel_sums.total(x, True), x.shape)

    x = draw((2, 3, 3, 4))
    with ops.portable():
        text = str(jax.make_jaxpr(both)(x))
        y = both(x)
    assert "pixel" not in text
    close(y, both(x))
