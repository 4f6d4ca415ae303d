"""The published rows: their order, protocols, sources and depths."""

import jax
import jax.numpy as jnp
import pytest
import traced

import models
from comparison.published import PUBLISHED
from kernels import ops
from models import layers


def test_every_network_has_a_row():
    assert set(PUBLISHED) == set(models.MODELS)
    assert all(name == row.name for name, row in PUBLISHED.items())


def test_rows_are_in_order_of_publication():
    years = [row.year for row in PUBLISHED.values()]
    assert years == sorted(years)
    assert years[0] == 1998


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_an_error_has_a_protocol_and_a_source(row):
    has_error = row.top1 is not None or row.top5 is not None
    assert has_error == bool(row.protocol) == bool(row.source)
    assert row.verified or has_error
    if row.top5 is not None:
        assert 2 < row.top5 < (row.top1 or 49) < 50
    if row.classes != 1000:
        assert row.top5 is None
        assert "crop" not in row.protocol


@pytest.mark.parametrize(
    "name",
    (
        "alexnet nin nin_imagenet overfeat_accurate vgg16_cifar googlenet bn_inception "
        "inception_v3 inception_v4 resnet50 resnet110 resnext29_8x64d"
    ).split(),
)
def test_layers_are_those_on_the_longest_path(name):
    assert longest_path(name) == PUBLISHED[name].layers


def test_what_the_longest_path_does_not_say():
    # LeNet-5 counts two sub-samplings, and its last layer is no product.
    assert longest_path("lenet5") == PUBLISHED["lenet5"].layers - 3
    # Three projections beside the path, and not the last layer.
    assert longest_path("wrn_16_4") == PUBLISHED["wrn_16_4"].layers - 3 + 1
    # The convolutions alone.
    assert longest_path("fractalnet_20") == PUBLISHED["fractalnet_20"].layers + 1


def longest_path(name):
    """Convolutions and products that the output depends on one after another."""
    model, shape = traced.create(name)

    def output(key):
        return model.init_with_output(key, jnp.zeros((1, *shape)), train=False)[0]

    with ops.portable(), layers.shapes_only():
        return max(depths(jax.make_jaxpr(output)(jax.random.key(0)), [0]))


def depths(jaxpr, inputs):
    """How many convolutions and products are ahead of each output."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def depth(variable):
        return 0 if hasattr(variable, "val") else known.get(variable, 0)

    for equation in jaxpr.eqns:
        before = [depth(v) for v in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            after = [max(before) + 1]
        elif equation.primitive.name == "cond":
            branches = [depths(b, before[1:]) for b in equation.params["branches"]]
            after = map(max, zip(*branches, strict=True))
        elif inner:
            after = depths(inner, before)
        else:
            after = [max(before, default=0)] * len(equation.outvars)
        known.update(zip(equation.outvars, after, strict=True))
    return [depth(v) for v in jaxpr.outvars]
