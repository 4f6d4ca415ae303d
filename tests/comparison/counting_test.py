"""Counts of layers and networks that can be checked by hand."""

import flax.linen as nn
import jax
import pytest
import traced

from comparison import counting, counts
from comparison.counts import Counts
from experiment import build
from models.layers import AvgPool, Conv, LocalResponseNorm, MaxPool


class Tiny(nn.Module):
    """4x4x1 images; every kind of layer that is counted, or is not."""

    @nn.compact
    def __call__(self, x, *, train):
        norm = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="norm")
        y = Conv(2, 3, padding=1, name="conv1")(x)  # keeps nothing: an image
        y = nn.relu(norm(y))  # keeps conv1's 4x4x2
        a = Conv(4, 1, padding=0, name="conv2")(y)  # keeps the ReLU's 4x4x2
        b = Conv(4, 1, padding=0, name="conv3")(y)  # the same array
        y = LocalResponseNorm(name="lrn")(a + b)  # keeps the sum's 4x4x4
        y = MaxPool(2, 2, name="max")(y)  # keeps 4x4x4
        y = AvgPool(2, 2, name="mean")(y)  # keeps nothing
        y = nn.Dropout(0.5, deterministic=not train)(y)  # keeps nothing
        return nn.Dense(3, name="fc")(y[:, 0, 0])  # keeps 4


def test_activations_by_hand():
    rows = counting.layers(Tiny(), (4, 4, 1))
    assert {row.name: row.activations for row in rows} == {
        "conv1": 0,
        "norm": 32,
        "conv2": 32,
        "conv3": 0,
        "lrn": 64,
        "max": 64,
        "mean": 0,
        "fc": 4,
    }
    tiny = counting.count(Tiny(), (4, 4, 1))
    assert tiny == Counts(
        parameters=(9 * 2 + 2) + 2 * (2 * 4 + 4) + (4 * 3 + 3),
        auxiliary_parameters=0,
        multiply_adds=16 * 18 + 2 * 16 * 8 + 12,
        activations=196,
    )
    assert counts.activation_bytes(tiny, 32) == 196 * 32 * 4


def test_activations_of_a_network_by_hand():
    """resnet20: the stem, then each block's inputs of two convolutions and norms."""
    maps = [32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64]
    stem = maps[0]  # the input of its norm
    first = [maps[0] + 3 * maps[0], maps[0] + 3 * maps[1], maps[1] + 3 * maps[2]]
    others = [2 * 4 * size for size in maps]
    assert traced.counts("resnet20").activations == (
        stem + sum(first) + sum(others) + 64  # and the pooled map, the input of fc
    )


@pytest.mark.parametrize("name", ["resnet20", "resnext29_8x64d", "fractalnet_20"])
def test_layers_that_repeat_are_not_traced_again(name, monkeypatch):
    monkeypatch.setattr(counting, "_signature", lambda *_: None)
    assert counting.layers(*traced.create(name)) == traced.layers(name)


@pytest.mark.parametrize("name", ["lenet5", "nin", "resnet20", "googlenet"])
def test_parameters_are_those_of_the_network_as_created(name):
    params = build.abstract_variables(*traced.create(name))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert traced.counts(name).parameters == count


def test_auxiliary_heads_count_in_parameters_and_activations_only():
    googlenet = traced.counts("googlenet")
    assert googlenet.parameters == 13_378_280
    assert googlenet.auxiliary_parameters == 3_188_840 + 3_190_888
    assert googlenet.multiply_adds == 1_582_671_872
