"""Networks by their shapes alone; the published ones are traced once per process."""

import functools

import jax
import jax.numpy as jnp

import models
from comparison import counting
from comparison.published import PUBLISHED
from kernels import ops
from models.layers import shapes_only

# They take over a minute of tracing together. Shallower members of their families are
# traced in `make test`, these in `make parity`.
DEEPEST = """
    resnet1202 preact_resnet1001 densenet_100_12 densenet_100_24 densenet_bc_250_24
    densenet_bc_190_40 densenet264 densenet161 densenet169 densenet201 dpn92 dpn98
    dpn107 dpn131 resnet152 se_resnet101 se_resnet152 senet154 preact_resnet200
    se_resnext101_32x4d wrn_101_2 resnext101_32x4d resnext101_32x8d resnext101_64x4d
    inception_v4 inception_resnet_v2
""".split()


def create(name):
    """Returns a network and the shape [H, W, C] of its images, as published."""
    row = PUBLISHED[name]
    model = models.create(name, num_classes=row.classes)
    return model, (row.image, row.image, row.channels)


def eval_shape(function, *arguments):
    """`jax.eval_shape` by XLA's operations, which takes a third of the time.

    Neither our kernels nor initial values change shapes. tests/configs traces the
    networks with both.
    """
    with ops.portable(), shapes_only():
        return jax.eval_shape(function, *arguments)


@functools.cache
def layers(name):
    with ops.portable():  # as above
        return counting.layers(*create(name))


def counts(name):
    return counting.total(layers(name))


def count(tree):
    """The numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def variables(model, size=224, channels=3):
    """The variables of a network for square images, as shapes."""
    init = functools.partial(model.init, jax.random.key(0), train=False)
    return eval_shape(init, jnp.zeros((1, size, size, channels)))


@functools.cache
def stages(model, size=224, channels=3):
    """{stage: (height, width, maps)} of the backbone's outputs, in their order."""
    shapes = {}

    def record(module, images):
        outputs = module.backbone(images, train=False)
        shapes.update((name, x.shape[1:]) for name, x in outputs.items())

    init = functools.partial(model.init, method=record)
    eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    return shapes


@functools.cache
def backbone(model, size):
    """The stages [(name, pixels, maps)] of an image, and the parameters' shapes."""
    stages = []

    def init(key):
        outputs, variables = model.init_with_output(
            key,
            jnp.zeros((1, size, size, 3)),
            method=lambda m, x: m.backbone(x, train=False),
        )
        stages.extend((name, *x.shape[2:]) for name, x in outputs.items())
        return variables

    variables = eval_shape(init, jax.random.key(0))
    return stages, variables["params"]["backbone"]
