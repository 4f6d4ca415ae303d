"""What every family must do: learn with all its parameters, and be exact when told to.

A small real network of each family, at an image size that is quick, with a compiled
forward and backward pass.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiment import build
from models import resnext, vgg

# name: image size, channels, fields. Random paths are off where they would leave
# parameters without a gradient.
FAMILIES = {
    "lenet5_modern": (28, 1, {}),
    "alexnet": (67, 3, {}),
    "zfnet": (64, 3, {}),
    "overfeat_fast": (71, 3, {}),
    "nin": (32, 3, {}),
    "vgg11": (32, 3, {}),
    "vgg11_cifar": (32, 3, {}),
    "googlenet": (112, 3, {}),
    "bn_inception": (64, 3, {}),
    "inception_v3": (107, 3, {}),
    "inception_v4": (75, 3, {}),
    "inception_resnet_v2": (75, 3, {}),
    "resnet18": (48, 3, {}),
    "resnet20": (32, 3, {}),
    "preact_resnet110": (16, 3, {}),
    "wrn_16_4": (16, 3, {}),
    "resnext29_1x64d": (16, 3, {}),
    "densenet_40_12": (16, 3, {}),
    "fractalnet_10": (32, 3, {"drop_path": 0.0}),
    "dpn68": (48, 3, {}),
    "se_resnet50": (48, 3, {}),
}


@pytest.fixture(autouse=True)
def shrunk(monkeypatch, shallow):
    """Narrows and shortens networks whose fields do not."""
    monkeypatch.setattr(vgg, "CHANNELS", (16, 32, 64, 64, 64))
    monkeypatch.setattr(resnext, "CIFAR_STAGE_SIZES", (1, 1, 1))


def random_variables(model, image_shape):
    """Variables with values that keep activations alive, drawn without a compiler."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(x.shape[:-1])) ** 0.5, x.shape)
        return (
            rng.uniform(0.5, 1.5, x.shape)
            if name in ("scale", "var")
            else (rng.uniform(-0.1, 0.1, x.shape))
        )

    shapes = build.abstract_variables(model, image_shape)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(np.float32, variables)


# They take two or three minutes of compilation together.
SLOW = """
    googlenet bn_inception inception_v3 inception_v4 inception_resnet_v2
    preact_resnet110 densenet_40_12 dpn68 se_resnet50 overfeat_fast resnet18 vgg11
    fractalnet_10 zfnet alexnet resnext29_1x64d
""".split()


families = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in FAMILIES
    ],
)


@families
def test_family(name):
    size, channels, fields = FAMILIES[name]
    model = models.create(name, num_classes=7, **fields)
    variables = random_variables(model, (size, size, channels))
    params, stats = variables["params"], variables.get("batch_stats", {})
    images = jax.random.normal(jax.random.key(1), (4, size, size, channels))

    def loss(params, images, key):
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats", "auxiliary"],
            rngs={"dropout": key},
        )
        heads = [logits, *jax.tree.leaves(updated.get("auxiliary", {}))]
        value = sum(jnp.square(head - 1).mean() for head in heads)
        return value, (logits, updated.get("batch_stats", {}))

    # Unoptimized code compiles in half the time and runs once.
    train = jax.jit(jax.value_and_grad(loss, has_aux=True))
    train = train.lower(params, images, jax.random.key(0)).compile(
        compiler_options={"xla_backend_optimization_level": 0}
    )
    run = functools.partial(train, params, images)
    (value, (logits, new_stats)), grads = jax.device_get(run(jax.random.key(0)))

    # All finite, and every parameter has a part in the loss.
    assert logits.shape == (4, 7) and logits.dtype == jnp.float32
    assert np.isfinite(value)
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)

    # All batch statistics move in training.
    assert jax.tree.structure(stats) == jax.tree.structure(new_stats)
    for old, new in zip(
        jax.tree.leaves(stats), jax.tree.leaves(new_stats), strict=True
    ):
        assert not np.array_equal(old, new)

    # Dropout and drop-path draw from the key.
    (_, (again, _)), _ = run(jax.random.key(0))
    (_, (differently, _)), _ = run(jax.random.key(5))
    np.testing.assert_array_equal(again, logits)
    assert np.array_equal(differently, logits) == (name not in RANDOM)


# The families with dropout or drop-path by default.
RANDOM = """
    alexnet zfnet overfeat_fast nin vgg11 googlenet inception_v3 inception_v4
    inception_resnet_v2 fractalnet_10
""".split()


@families
def test_evaluates_without_a_key_and_in_bfloat16(name):
    """flax refuses to draw without a key, or to change statistics unasked."""
    size, channels, fields = FAMILIES[name]
    model = models.create(name, num_classes=7, dtype=jnp.bfloat16, **fields)
    kinds = set()

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if "kernel" in context.module.variables.get("params", {}):
            kinds.add(output.dtype)
        return output

    def forward(variables, images):
        with flax.linen.intercept_methods(record):
            return model.apply(variables, images, train=False)

    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    variables = build.abstract_variables(model, (size, size, channels))
    logits = jax.eval_shape(forward, variables, images)
    assert logits.dtype == jnp.float32
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
