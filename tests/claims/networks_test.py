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


def checked(name, values, parameters, stage, shape, image=(32, 32, 3)):
    """Compares the parameters of a network and the shape of a stage."""
    model = models.create(f"claims.networks:{name}", num_classes=10, **values)
    assert counting.count(model, image).parameters == parameters
    size, _, channels = image
    assert traced.stages(model, size, channels)[stage] == shape
    variables = traced.variables(model, size, channels)
    apply = functools.partial(model.apply, train=False)
    logits = traced.eval_shape(apply, variables, jnp.zeros((2, *image)))
    assert logits.shape == (2, 10)


# A convolution has a bias, and a scale and a shift of batch normalisation.
RECEPTIVE = {
    "5x5": 25 * (3 * 16 + 2 * 256) + 3 * 48,
    "two 3x3": 9 * (3 * 16 + 5 * 256) + 3 * 96,
    "7x7": 49 * (3 * 16 + 2 * 256) + 3 * 48,
    "three 3x3": 9 * (3 * 16 + 8 * 256) + 3 * 144,
}


@pytest.mark.parametrize("name", RECEPTIVE)
def test_stages_of_one_receptive_field(name):
    count = RECEPTIVE[name] + 16 * 16 * 10 + 10
    values = {"configuration": name}
    checked("NarrowVGG", values, count, "pool3", (4, 4, 16))


def test_narrow_vgg():
    """Table 1's network A: one convolution in the first two stages, then two."""
    weights = 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 3 * 128 * 128)
    maps = 16 + 32 + 2 * 64 + 4 * 128
    count = weights + 3 * maps + 128 * 10 + 10
    checked("NarrowVGG", {"configuration": "A"}, count, "pool5", (1, 1, 128))
    with pytest.raises(ValueError, match="configuration 'F' is none of A"):
        networks.NarrowVGG(10, configuration="F")


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        # As many as plain20: the paper's 0.27 M, without projections.
        ({"batch_norm": True}, 269_722),
        # A bias in place of a scale and a shift: 7 layers of 16, 6 of 32, 6 of 64.
        ({"activation": "tanh"}, 269_722 - 7 * 16 - 6 * 32 - 6 * 64),
    ],
)
def test_plain(values, parameters):
    checked("Plain", values, parameters, "conv19", (8, 8, 64))


def test_plain_is_resnets_plain_network():
    """The same convolutions in the same order, beside the names."""
    ours, other = (
        [
            (row.output, row.parameters, row.kernel)
            for row in counting.layers(m, (32,) * 2 + (3,))
        ]
        for m in (
            networks.Plain(10, 56, batch_norm=True),
            models.create("plain56", num_classes=10),
        )
    )
    assert ours == other


NIN = 75 * 96 + 96 * 80 + 80 * 48 + 25 * 48 * 96 + 2 * 96 * 96 + 9 * 96 * 96 + 96 * 96
NIN += 96 + 80 + 48 + 3 * 96 + 2 * 96 + 96 * 10 + 10


@pytest.mark.parametrize(
    ("values", "parameters", "last"),
    [
        ({}, NIN, "conv3_2"),
        ({"head_kind": "connected"}, NIN + 640 * 10 + 10, "conv3_2"),
        ({"head_kind": "dropout"}, NIN + 640 * 10 + 10, "conv3_2"),
        ({"width": 1.0}, 966_986, "conv3_2"),  # the paper's network
        (
            {"mixing": False},
            75 * 96 + 25 * 96 * 96 + 9 * 96 * 96 + 3 * 96 + 96 * 10 + 10,
            "conv3_1",
        ),
    ],
)
def test_narrow_nin(values, parameters, last):
    maps = round(192 * values.get("width", 0.5))
    checked("NarrowNIN", values, parameters, last, (8, 8, maps))


def test_lenet5_with_all_connections():
    """36 more pairs of maps than Table I, with 25 weights each, at 10x10 positions."""
    rows = {
        row.name: row for row in counting.layers(networks.FullLeNet5(), (32, 32, 1))
    }
    assert sum(row.parameters for row in rows.values()) == 60_000 + 36 * 25
    assert rows["C3"].parameters == 96 * 25 + 16
    assert rows["C3"].connections == 100 * (96 * 25 + 16)
    table = networks.FullLeNet5Backbone().c3_table()
    assert table.shape == (6, 16) and table.dtype == np.bool_ and table.all()
    checked("FullLeNet5", {}, 60_900, "F6", (1, 1, 84), (32, 32, 1))


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


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (networks.FourLayers, {"dropout": 0.5}, "dropout 0.5 needs hidden units"),
        (networks.ThinGoogLeNet, {"naive": True}, "naive True is none of False"),
        (networks.ThinGoogLeNet, {"lrn_k": 1.0}, "lrn_k 1.0 is none of None"),
    ],
)
def test_fields_that_would_do_nothing(network, fields, message):
    with pytest.raises(ValueError, match=message):
        network(10, **fields)


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
