"""Residual backbones called by stages, as a detector does: one network in parts."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced

import models
from kernels import ops
from models import preact_resnet, resnet

IMAGENET = ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]
CIFAR = IMAGENET[:4]
# name: the network and its stages.
NETWORKS = {
    "resnet18": ({"drop_path": 0.5}, IMAGENET),
    "resnet50": ({"stride_on": "3x3"}, IMAGENET),
    "plain20": ({}, CIFAR),
    "resnet20": ({}, CIFAR),
    "preact_resnet110": ({}, CIFAR),
    "wrn_16_4": ({"dropout": 0.3}, CIFAR),
    "wrn_50_2": ({}, IMAGENET),
    "resnext29_1x64d": ({}, CIFAR),
    "se_resnet50": ({}, IMAGENET),
    "senet154": ({}, IMAGENET),
}


def whole(network, x, train):
    return network.backbone(x, train=train)


def in_parts(network, x, train, cuts):
    """All stages, by one call for each (first, last)."""
    stages = {}
    for first, last in cuts:
        stages |= network.backbone(x, train=train, first=first, last=last)
        x = list(stages.values())[-1]
    return stages


def cut_before(name):
    """Two parts, the second of which starts with the stage `name`."""
    return (None, IMAGENET[IMAGENET.index(name) - 1]), (name, None)


def program(function, *args):
    """What is computed, as text, and the shapes of the results."""
    with ops.portable():  # it is traced in a third of the time
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return re.sub("0x[0-9a-f]+", "", str(jaxpr)), shapes


def apply(model, method, variables, x, train):
    rngs = {"dropout": jax.random.key(3)}
    method = functools.partial(method, train=train)
    return model.apply(variables, x, mutable=["batch_stats"], rngs=rngs, method=method)


# They take two minutes of tracing together.
SLOW = """
    resnet50 preact_resnet110 wrn_50_2 resnext29_1x64d se_resnet50 senet154
""".split()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETWORKS],
)
def test_two_calls_are_the_program_of_one(name, shallow):
    """Initialisation, training with its draws and statistics, and evaluation."""
    fields, names = NETWORKS[name]
    model = models.create(name, num_classes=3, **fields)
    x = jnp.zeros((2, 64, 64, 3))
    parts = functools.partial(in_parts, cuts=cut_before(names[-1]))

    def init(method, key, x):
        return model.init(key, x, method=functools.partial(method, train=False))

    one, variables = program(functools.partial(init, whole), jax.random.key(0), x)
    two, same = program(functools.partial(init, parts), jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(same)
    assert one == two
    for train in (False, True):
        run = functools.partial(apply, model, train=train)
        one, (outputs, _) = program(functools.partial(run, whole), variables, x)
        two, (same, _) = program(functools.partial(run, parts), variables, x)
        assert list(outputs) == list(same) == names
        assert one == two


@pytest.mark.parametrize(
    ("name", "cut"),
    [pytest.param("resnet18", 5, marks=pytest.mark.slow), ("resnet20", 3)],
)
def test_numbers_are_those_of_one_call(name, cut, shallow):
    model = models.create(name, num_classes=3)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    parts = functools.partial(in_parts, cuts=cut_before(f"conv{cut}_x"))
    results = []
    for method in (whole, parts):
        init = functools.partial(
            model.init, method=functools.partial(method, train=False)
        )
        variables = jax.jit(init)(jax.random.key(0), x)
        run = jax.jit(functools.partial(apply, model, method, train=True))
        results.append((variables, run(variables, x)))
    one, two = results
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_every_stage_can_be_called_alone():
    model = models.create("resnet18", num_classes=3)
    x = jnp.zeros((2, 64, 64, 3))
    alone = functools.partial(in_parts, cuts=[(name, name) for name in IMAGENET])
    init = functools.partial(model.init, train=False)
    variables = traced.eval_shape(init, jax.random.key(0), x)
    one, _ = program(functools.partial(apply, model, whole, train=True), variables, x)
    five, _ = program(functools.partial(apply, model, alone, train=True), variables, x)
    assert one == five


def small_backbone(**fields):
    block = functools.partial(
        resnet.BasicBlock, shortcut="B", zero_init=False, dtype=jnp.float32
    )
    return resnet.ResNetBackbone(block, (1, 1, 1, 1), jnp.float32, **fields)


class Detector(nn.Module):
    """conv4_x of an image, and conv5_x of two regions of it."""

    @nn.compact
    def __call__(self, x):
        backbone = small_backbone(name="backbone")
        x = backbone(x, train=False, last="conv4_x")["conv4_x"]
        regions = (x[:, :2, :2], x[:, 2:, 2:])
        return x, [
            backbone(r, train=False, first="conv5_x")["conv5_x"] for r in regions
        ]


def test_a_stage_is_shared_by_regions():
    x = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    variables = jax.jit(Detector().init)(jax.random.key(0), x)
    conv4, regions = jax.jit(Detector().apply)(variables, x)
    # The variables are those of a backbone that is called once.
    backbone = small_backbone()
    variables = {name: tree["backbone"] for name, tree in variables.items()}
    init = functools.partial(backbone.init, train=False)
    once = traced.eval_shape(init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, once)
    run = jax.jit(functools.partial(backbone.apply, train=False, first="conv5_x"))
    for region, part in zip(regions, (conv4[:, :2, :2], conv4[:, 2:, 2:]), strict=True):
        # 1e-5: the same sums in another program.
        expected = run(variables, part)["conv5_x"]
        np.testing.assert_allclose(region, expected, rtol=1e-5, atol=1e-6)
        assert region.shape == (1, 1, 1, 512) and region.any()
    assert not np.allclose(*regions)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            {"first": "conv6_x"},
            "first 'conv6_x' is none of the stages conv1, conv2_x, ",
        ),
        ({"last": "conv4"}, "last 'conv4' is none of .* conv1, conv2_x, .*, conv5_x"),
        ({"last": ""}, "last '' is none of the stages conv1"),
        (
            {"first": "conv4_x", "last": "conv3_x"},
            "first 'conv4_x' is after last 'conv3_x'; stages: conv1, conv2_x, ",
        ),
    ],
)
def test_stages_that_are_not_there_or_in_order_are_refused(stages, message):
    model = models.create("resnet18", num_classes=3)
    with pytest.raises(ValueError, match=message):
        traced.eval_shape(
            lambda key, x: model.init(
                key, x, method=lambda m, x: m.backbone(x, train=False, **stages)
            ),
            jax.random.key(0),
            jnp.zeros((1, 64, 64, 3)),
        )


def test_cifar_networks_have_no_conv5():
    model = models.create("resnet20", num_classes=3)
    with pytest.raises(ValueError, match="'conv5_x' is none of .* conv3_x, conv4_x\n"):
        model.init(
            jax.random.key(0),
            jnp.zeros((1, 8, 8, 3)),
            method=lambda m, x: m.backbone(x, train=False, last="conv5_x"),
        )


def test_all_residual_backbones_are_called_by_stages():
    assert issubclass(resnet.CifarBackbone, resnet.ResNetBackbone)
    assert issubclass(preact_resnet.PreactBackbone, resnet.ResNetBackbone)
    assert set(NETWORKS) <= set(models.MODELS)
