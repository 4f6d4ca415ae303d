"""A rematerialised network is the network itself, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from kernels import ops
from models import resnet
from training import remat

# name: image size, fields, and the stages that are computed twice.
NETWORKS = {
    "resnet20": (16, {}, ("conv2", "conv4")),
    "wrn_16_4": (16, {"dropout": 0.3}, ("all",)),
    "resnext29_1x64d": (16, {}, ("all",)),
    "densenet_40_12": (16, {"dropout": 0.2}, ("block2", "transition1")),
    "dpn68": (32, {}, ("conv3",)),
    "vgg11_bn": (32, {}, ("conv1", "conv3")),
    "googlenet_bn": (64, {}, ("inception_4",)),
    "fractalnet_10": (32, {}, ("all",)),
}
SLOW = """
    resnext29_1x64d densenet_40_12 dpn68 vgg11_bn googlenet_bn fractalnet_10 wrn_16_4
""".split()


def random_variables(model, shape):
    """Float64, scaled so that activations live."""
    rng = np.random.default_rng(0)

    def draw(x):
        if x.ndim == 1:
            return rng.uniform(0.5, 1.5, x.shape)
        return rng.normal(0, (2 / np.prod(x.shape[:-1])) ** 0.5, x.shape)

    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(draw, shapes)


def loss_of(network, stats, images, params, key):
    """A loss with all that training takes from a network."""
    logits, updated = network.apply(
        {"params": params, "batch_stats": stats},
        images,
        train=True,
        mutable=["batch_stats", "auxiliary"],
        rngs={"dropout": key},
    )
    heads = jax.tree.leaves((logits, updated.get("auxiliary", {})))
    return sum(jnp.square(head).mean() for head in heads), updated


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETWORKS],
)
def test_loss_gradients_and_statistics_are_the_same(name, monkeypatch):
    monkeypatch.setitem(resnet.CIFAR, 20, (2, 1, 1))  # it compiles in half the time
    size, fields, stages = NETWORKS[name]
    images = np.random.default_rng(1).normal(size=(4, size, size, 3))

    def results(network):
        stats = variables.get("batch_stats", {})
        loss = functools.partial(loss_of, network, stats, images)
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        arguments = variables["params"], jax.random.key(3)
        options = {"xla_backend_optimization_level": 0}
        program = step.lower(*arguments).compile(compiler_options=options)
        return jax.device_get(program(*arguments))

    with jax.enable_x64():
        model = models.create(name, num_classes=7, dtype=jnp.float64, **fields)
        twice = remat.rematerialised(model, stages, (size, size, 3))
        variables = random_variables(model, (size, size, 3))
        (loss, updated), gradients = results(model)
        (loss_twice, updated_twice), gradients_twice = results(twice)
    assert jax.tree.structure(updated) == jax.tree.structure(updated_twice)
    # Rounding of float64; a gradient sums up to 1e5 numbers. Another draw of dropout
    # or statistics that move twice are off by 0.01 and more.
    np.testing.assert_allclose(loss_twice, loss, rtol=1e-12)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    jax.tree.map(close, updated_twice, updated)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(gradients))
    close = functools.partial(close, atol=1e-12 * scale)
    jax.tree.map(close, gradients_twice, gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "vgg11_cifar"])
def test_the_program_takes_less_memory(name):
    model = models.create(name, num_classes=10)
    shape = (32, 32, 3)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
    images = jax.ShapeDtypeStruct((64, *shape), jnp.float32)

    def scratch(network):
        def loss(params, stats, images):
            return loss_of(network, stats, images, params, jax.random.key(0))[0]

        options = ops.compiler_options("cpu")
        step = jax.jit(jax.grad(loss), compiler_options=options)
        program = step.lower(variables["params"], variables["batch_stats"], images)
        return program.compile().memory_analysis().temp_size_in_bytes

    usual = scratch(model)
    least = scratch(remat.rematerialised(model, ("all",), shape))
    # 9 blocks of ResNet-20 keep their inputs and one of them its activations: a third.
    # In VGG-11 a stage is up to a third of the network, and parameters count too.
    assert least < (0.5 if name == "resnet20" else 0.9) * usual


def test_a_stage_that_is_not_there():
    model = models.create("resnet50", num_classes=10)
    with pytest.raises(ValueError, match="'conv6'; it has conv2, conv3, conv4, conv5"):
        remat.rematerialised(model, ("conv2", "conv6"), (64, 64, 3))
    with pytest.raises(ValueError, match="'all'; it has"):
        remat.rematerialised(model, ("all", "conv2"), (64, 64, 3))
    model = models.create("alexnet", num_classes=10)
    with pytest.raises(ValueError, match="AlexNet has no stages"):
        remat.rematerialised(model, ("conv1",), (67, 67, 3))


@pytest.mark.parametrize(
    ("name", "size", "stages"),
    [
        ("densenet_40_12", 32, "block1 transition1 block2 transition2 block3"),
        ("googlenet", 112, "inception_3 inception_4 inception_5"),
        ("vgg11_lrn", 32, "conv1 conv2 conv3 conv4 conv5"),
        ("se_resnet50", 64, "conv2 conv3 conv4 conv5"),
    ],
)
def test_stages_have_the_names_of_their_blocks(name, size, stages):
    model = models.create(name, num_classes=10)
    assert remat.stages(model, (size, size, 3)) == stages.split()
