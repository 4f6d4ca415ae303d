"""Inception-v3 against Table 1 of the paper and against the released network."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import inception_v3
from models.layers import AvgPool


def create(**fields):
    return models.create("inception_v3", num_classes=1000, **fields)


@functools.cache
def trace(size, **fields):
    """Shapes from `init` for a square of `size` pixels, and the layers called.

    The layers are copies without a parent, by path.
    """
    called = {}

    def record(call, args, kwargs, context):
        called["/".join(context.module.path)] = context.module.copy(parent=None)
        return call(*args, **kwargs)

    init = functools.partial(create(**fields).init, jax.random.key(0), train=False)
    with nn.intercept_methods(record):
        variables = traced.eval_shape(init, jnp.zeros((1, size, size, 3)))
    return variables, called


def test_stages_have_the_sizes_of_table_1():
    def backbone(x):
        def stages(model, x):
            return model.backbone(x, train=False)

        return create().init_with_output(jax.random.key(0), x, method=stages)[0]

    stages = traced.eval_shape(backbone, jnp.zeros((1, 299, 299, 3)))
    sizes = [stages[name].shape[1:] for name in inception_v3.MODULES]
    assert sizes[:7] == [
        *[(149, 149, 32), (147, 147, 32), (147, 147, 64), (73, 73, 64)],
        *[(73, 73, 80), (71, 71, 192), (35, 35, 192)],
    ]
    assert sizes[7:] == [
        *[(35, 35, 256), (35, 35, 288), (35, 35, 288)],
        *[(17, 17, 768)] * 5,
        *[(8, 8, 1280), (8, 8, 2048), (8, 8, 2048)],
    ]


def test_parameters_of_each_module_are_the_released_ones():
    params = trace(299)[0]["params"]
    counts = {name: count(module) for name, module in params["backbone"].items()}
    assert {name: n for name, n in counts.items() if name.startswith("Mixed")} == {
        "Mixed_5b": 255_904,
        "Mixed_5c": 277_472,
        "Mixed_5d": 285_152,
        "Mixed_6a": 1_153_280,
        "Mixed_6b": 1_297_408,
        "Mixed_6c": 1_691_008,
        "Mixed_6d": 1_691_008,
        "Mixed_6e": 2_141_952,
        "Mixed_7a": 1_698_304,
        "Mixed_7b": 5_044_608,
        "Mixed_7c": 6_076_800,
    }
    assert count(params["head"]) == 2_049_000
    assert count(params["auxiliary_head"]) == 3_326_696


def test_the_auxiliary_head_is_sown_in_training_alone():
    def apply(variables, images, train):
        rngs = {"dropout": jax.random.key(0)} if train else {}
        mutable = ["batch_stats", "auxiliary"]
        return create().apply(
            variables, images, train=train, mutable=mutable, rngs=rngs
        )

    images = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    variables, _ = trace(299)
    train = functools.partial(apply, train=True)
    _, updated = traced.eval_shape(train, variables, images)
    (logits,) = updated["auxiliary"]["aux1"]
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    evaluation = functools.partial(apply, train=False)
    _, updated = traced.eval_shape(evaluation, variables, images)
    assert "auxiliary" not in updated
    assert "auxiliary" not in variables


def test_both_convolutions_of_the_auxiliary_head_are_normalised():
    stats = trace(299)[0]["batch_stats"]["auxiliary_head"]
    assert {n: s["bn"]["mean"].shape for n, s in stats.items()} == {
        "conv1": (128,),
        "conv2": (768,),
    }


@pytest.mark.parametrize(("size", "kernel"), [(299, 5), (75, 1)])
def test_the_auxiliary_head_takes_what_is_left_of_smaller_images(size, kernel):
    params = trace(size)[0]["params"]["auxiliary_head"]
    assert params["conv2"]["conv"]["kernel"].shape == (kernel, kernel, 128, 768)


def test_two_layers_of_a_fork_see_the_same_map():
    x = jnp.arange(2 * 9 * 9 * 1, dtype=jnp.float32).reshape(2, 9, 9, 1)
    double = (("avg",), ("avg",))
    module = inception_v3.Inception((("max", double), ("max",)), None, False)
    y = module.apply({}, x, train=False)
    assert y.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(y[..., 0], y[..., 1])
    np.testing.assert_array_equal(y[..., 2], x[:, 2::2, 2::2, 0])


@pytest.mark.parametrize("counts", [False, True])
def test_padding_counts_in_averages_if_the_field_says_so(counts):
    fields = {"count_include_pad": True} if counts else {}
    pools = [
        layer
        for path, layer in trace(75, **fields)[1].items()
        if isinstance(layer, AvgPool) and path.startswith("backbone")
    ]
    assert [pool.count_include_pad for pool in pools] == [counts] * 9


def test_weights_start_as_released():
    sigmas = {
        "auxiliary_head/conv2/conv": 0.01,
        "auxiliary_head/fc": 0.001,
        "head/fc": 0.01,
    }
    layers = trace(75)[1]
    assert sigmas.keys() < layers.keys()
    inits = {}
    for path, layer in layers.items():
        if isinstance(layer, nn.Conv | nn.Dense):
            inits[sigmas.get(path, 0.1), layer.kernel_init] = path
    assert len(inits) == 4
    for sigma, init in inits:
        draw = init(jax.random.key(0), (20_000,), jnp.float32)
        # A normal distribution cut off at two deviations has 0.880 of its deviation.
        np.testing.assert_allclose(draw.std(), 0.880 * sigma, rtol=0.02)
        assert 1.9 * sigma < jnp.abs(draw).max() <= 2 * sigma


@pytest.mark.parametrize(("size", "last"), [(28, "Mixed_6a"), (74, "Mixed_7a")])
def test_small_images_are_refused(size, last):
    message = f"{size}x{size} are too small: nothing is left of them after {last}"
    with pytest.raises(ValueError, match=message):
        trace(size)
