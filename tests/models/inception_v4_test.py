"""Inception-v4 and Inception-ResNet-v2 against the paper's and the released figures."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import inception_v4

NETWORKS = ["inception_v4", "inception_resnet_v2"]
# The second has the first one's stem and is traced for seconds.
networks = pytest.mark.parametrize(
    "name", [NETWORKS[0], pytest.param(NETWORKS[1], marks=pytest.mark.slow)]
)


@functools.cache
def trace(name, size=299, **fields):
    """Shapes from `init` for a square of `size` pixels, and sizes of the stages.

    It also returns the kernels' initialisers, by path.
    """
    inits = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Conv | nn.Dense):
            inits["/".join(context.module.path)] = context.module.kernel_init
        return call(*args, **kwargs)

    def init(x):
        def run(model, x):
            model(x, train=False)
            return model.backbone(x, train=False)

        model = models.create(name, num_classes=1000, **fields)
        return model.init_with_output(jax.random.key(0), x, method=run)

    with nn.intercept_methods(record):
        stages, variables = traced.eval_shape(init, jnp.zeros((1, size, size, 3)))
    table, _ = inception_v4.NETWORKS[name]
    return variables, [stages[stage].shape[1:] for stage in table], inits


@pytest.mark.slow
def test_stages_of_inception_v4_have_the_sizes_of_figures_3_and_9():
    _, sizes, _ = trace("inception_v4")
    assert sizes == [
        *[(149, 149, 32), (147, 147, 32), (147, 147, 64)],
        *[(73, 73, 160), (71, 71, 192), (35, 35, 384)],
        *[(35, 35, 384)] * 4,
        *[(17, 17, 1024)] * 8,
        *[(8, 8, 1536)] * 4,
    ]


@pytest.mark.slow  # the deepest: it is traced for seconds
def test_stages_of_inception_resnet_v2_have_the_released_sizes():
    _, sizes, _ = trace("inception_resnet_v2")
    assert sizes[6:] == [
        (35, 35, 192),
        *[(35, 35, 320)] * 11,
        *[(17, 17, 1088)] * 21,
        *[(8, 8, 2080)] * 11,
        (8, 8, 1536),
    ]


def test_parameters_of_the_modules_of_inception_v4():
    params = trace("inception_v4")[0]["params"]["backbone"]
    counts = {name: count(module) for name, module in params.items()}
    assert {counts[f"Mixed_5{letter}"] for letter in "bcde"} == {317_632}
    assert {counts[f"Mixed_6{letter}"] for letter in "bcdefgh"} == {2_936_256}
    assert {counts[f"Mixed_7{letter}"] for letter in "bcd"} == {4_553_088}


def test_residuals_are_scaled_by_017_01_and_02_and_the_last_one_is_not():
    blocks = [
        (step.scale, step.relu)
        for step in inception_v4.INCEPTION_RESNET_V2.values()
        if isinstance(step, inception_v4.Residual)
    ]
    assert blocks == [
        *[(0.17, True)] * 10,
        *[(0.1, True)] * 20,
        *[(0.2, True)] * 9,
        (1.0, False),
    ]


@pytest.mark.parametrize("relu", [True, False])
def test_a_residual_is_a_linear_function_of_the_module_scaled_and_added(relu):
    module = ((inception_v4.same(2, 1),), (inception_v4.same(3, 3),))
    conv = functools.partial(
        inception_v4.ConvNorm,
        kernel_init=nn.initializers.ones,
        momentum=0.9,
        dtype=jnp.float32,
    )
    block = inception_v4.ResidualBlock(
        inception_v4.Residual(module, 0.5, relu),
        conv,
        nn.initializers.ones,
        jnp.float32,
    )

    @jax.jit
    def run(x):
        variables = block.init(jax.random.key(1), x, train=False)
        variables["params"]["linear"]["bias"] += 2
        return block.apply(variables, x, train=False), variables

    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    y, variables = run(x)
    assert set(variables["params"]) == {"module", "linear"}
    assert set(variables["params"]["linear"]) == {"kernel", "bias"}
    assert set(variables["batch_stats"]) == {"module"}
    # Every unit of the module is the ReLU of a sum over its window, 1x1 or 3x3.
    total = np.asarray(x).sum(-1)
    padded = np.pad(total, ((0, 0), (1, 1), (1, 1)))
    around = sum(padded[:, i : i + 5, j : j + 5] for i in range(3) for j in range(3))
    units = 2 * np.maximum(total, 0) + 3 * np.maximum(around, 0)
    residual = units / np.sqrt(1 + 1e-3) + 2
    expected = np.asarray(x) + 0.5 * residual[..., None]
    expected = np.maximum(expected, 0) if relu else expected
    np.testing.assert_allclose(y, expected, atol=1e-5)


@networks
def test_weights_start_as_released(name):
    # He's deviations for the convolutions of Inception-v4, Glorot's for all others.
    he, glorot = np.sqrt(2 / 100), np.sqrt(2 / (100 + 400))
    inits = {}
    for path, init in trace(name)[2].items():
        is_he = name == "inception_v4" and path != "head/fc"
        inits[he if is_he else glorot, init] = path
    for deviation, init in inits:
        draw = init(jax.random.key(0), (100, 400), jnp.float32)
        np.testing.assert_allclose(draw.std(), deviation, rtol=0.02)


@networks
def test_small_images_are_refused(name):
    with pytest.raises(ValueError, match="28x28 are too small: nothing is left of"):
        trace(name, 28)
