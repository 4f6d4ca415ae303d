"""Convolution with explicit padding, and pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers

NONE = ((0, 0), (0, 0))


def value_and_gradient(pool, x):
    y, pull = jax.vjp(pool, x)
    direction = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, *pull(direction)


CASES = [
    # height, width, window, strides, padding
    (8, 12, (2, 2), (2, 2), NONE),
    (9, 12, (3, 2), (3, 2), NONE),
    (9, 7, (2, 2), (2, 2), NONE),
    (9, 7, (3, 3), (2, 2), ((1, 1), (0, 1))),
    (8, 8, (2, 2), (2, 2), ((1, 1), (1, 1))),
]


@pytest.mark.parametrize("case", CASES)
def test_max_pool_is_flax_max_pool(case):
    """Values bit for bit; the gradient too, though small whole numbers tie often."""
    h, w, *window = case
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (3, h, w, 4)), jnp.float32)
    ours = value_and_gradient(lambda x: layers.max_pool(x, *window), x)
    theirs = value_and_gradient(lambda x: nn.max_pool(x, *window), x)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_max_pool_gives_a_tie_to_the_first():
    x = jnp.asarray([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: layers.max_pool(x, (2, 2), (2, 2), NONE).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 1], [0, 0]])


@pytest.mark.parametrize("position", range(4))
def test_max_pool_keeps_a_nan(position):
    x = jnp.ones(4).at[position].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(layers.max_pool(x, (2, 2), (2, 2), NONE)).all()


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_avg_pool_is_flax_avg_pool(case, count_include_pad):
    h, w, *window = case
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, h, w, 4)), jnp.float32)
    args = (*window, count_include_pad)
    pool = functools.partial(layers.avg_pool, count_include_pad=count_include_pad)
    ours = value_and_gradient(lambda x: pool(x, *window), x)
    theirs = value_and_gradient(lambda x: nn.avg_pool(x, *args), x)
    for a, b in zip(ours, theirs, strict=True):
        # Up to nine numbers of size about 1 summed in another order.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strides", [1, 2])
def test_conv_is_nn_conv(strides):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 3)), jnp.float32)
    options = {"strides": strides, "padding": ((1, 0), (0, 2))}
    ours, theirs = layers.Conv(4, (3, 3), **options), nn.Conv(4, (3, 3), **options)
    variables = theirs.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=0, atol=1e-5
    )
    same = jax.tree.map(jnp.array_equal, ours.init(jax.random.key(0), x), variables)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("options", [{}, {"padding": "SAME"}, {"padding": "VALID"}])
def test_conv_wants_explicit_padding(options):
    with pytest.raises(ValueError, match="padding must be numbers"):
        layers.Conv(4, (3, 3), **options)
