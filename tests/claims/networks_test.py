"""The networks that only claims need: their counts, shapes and what sets them apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

import models
from claims import networks
from comparison import counting
from models import googlenet


def test_thin_googlenet_has_quarters_of_the_modules():
    model = models.create("claims.networks:ThinGoogLeNet", num_classes=10)
    rows = {row.name: row for row in counting.layers(model, (32, 32, 3))}
    assert rows["conv1"].parameters == 27 * 48 + 48
    # inception_3a has a quarter of 64, 96, 128, 16, 32 and 32 maps.
    module = [r for name, r in rows.items() if name.startswith("inception_3a.")]
    weights = 48 * 16 + 48 * 24 + 24 * 32 * 9 + 48 * 4 + 4 * 8 * 25 + 48 * 8
    biases = 16 + 24 + 32 + 4 + 8 + 8
    assert sum(row.parameters for row in module) == weights + biases
    assert rows["fc"].parameters == 256 * 10 + 10
    assert rows["inception_4a.3x3"].output == (8, 8, 52)
    assert rows["inception_5b.5x5"].output == (4, 4, 32)
    # A side head: 5x5 averages with stride 3 leave 2x2 of 8x8, and then 128, 1024, 10.
    heads = sum(row.parameters for row in rows.values() if row.auxiliary)
    maps = (192 + 208 + 48 + 64) // 4, (112 + 288 + 64 + 64) // 4
    head = 128 + 4 * 128 * 1024 + 1024 + 1024 * 10 + 10
    assert heads == 2 * head + 128 * sum(maps)


def test_thin_googlenet_has_two_side_heads_in_training():
    model = models.create("claims.networks:ThinGoogLeNet", num_classes=10)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = traced.eval_shape(init, jax.random.key(0), images)
    assert {f"side_heads_{name}" for name in googlenet.AUXILIARY} < set(
        variables["params"]
    )
    apply = functools.partial(
        model.apply,
        train=True,
        mutable=["auxiliary"],
        rngs={"dropout": jax.random.key(1)},
    )
    logits, sown = traced.eval_shape(apply, variables, images)
    assert logits.shape == (2, 10)
    assert [x.shape for x in jax.tree.leaves(sown)] == [(2, 10), (2, 10)]


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_moving_averages_of_another_momentum(shallow, momentum):
    """The batch's part of the averages is another; answers and weights are the same."""
    model = networks.MomentumResNet(10, momentum=momentum)
    usual = models.create("resnet20", num_classes=10)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    init = jax.jit(functools.partial(usual.init, train=False))
    variables = init(jax.random.key(1), images)
    own = traced.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(1), images
    )
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)

    def trained(network):
        apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
        return jax.jit(apply)(variables, images)

    logits, updated = trained(model)
    expected, usually = trained(usual)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    share = (1 - momentum) / 0.1

    def check(before, after, after_usually):
        wanted = before + share * (after_usually - before)
        np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-6)
        assert np.abs(after - before).max() > 1e-4

    stats = (variables, updated, usually)
    jax.tree.map(check, *(found["batch_stats"] for found in stats))
    evaluated = jax.jit(functools.partial(model.apply, train=False))
    assert evaluated(variables, images).shape == (4, 10)


def test_a_momentum_that_no_average_has():
    with pytest.raises(ValueError, match=r"momentum 1.0 is not in \[0, 1\)"):
        networks.MomentumResNet(10, momentum=1.0)
