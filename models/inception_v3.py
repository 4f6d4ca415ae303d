"""Inception-v3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, 2015),
https://arxiv.org/abs/1512.00567.

With batch normalisation in the auxiliary classifier ("BN-auxiliary", Table 3).

Differs from the paper: this is the network that its authors released (TensorFlow,
models/inception; slim's inception_v3). Its sizes from 35x35 on are those of Table 1,
but not its layers: it has a 1x1 convolution in the stem, keeps one 5x5 in the first
modules, has four modules and not five at 17x17, and separate modules (6a, 7a) that
reduce the grid. The initialisation, the dropout of 0.2 and the weight 0.9997 of the old
moving average (`norm_momentum`, to be lowered for runs much shorter than 10,000 steps)
are also the released ones; the paper does not give them. The released batch
normalisation has no scale; here it has one, as in torchvision. Padding does not count
in the averages of the modules; in torchvision it does (`count_include_pad=True`).

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/inception_v3_test.py.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from models import checks
from models.layers import (
    AvgPool,
    BatchNorm,
    Classifier,
    Conv,
    MaxPool,
    PooledLinear,
    global_avg_pool,
)


class Step(NamedTuple):
    """A convolution with batch normalisation and ReLU."""

    features: int
    kernel: tuple[int, int]
    strides: int
    padding: tuple[int, int]


def same(features, kernel):
    """A step that keeps the size of the map."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return Step(features, (height, width), 1, (height // 2, width // 2))


def valid(features, kernel, strides=1):
    """A step without padding."""
    return Step(features, (kernel, kernel), strides, (0, 0))


# A module is a tuple of branches, side by side; a branch is a tuple of steps, one after
# the other. A step is a convolution (above), "avg" (a 3x3/1 pool that keeps the size),
# "max" (a 3x3/2 pool without padding) or another module.


def inception_a(pool):
    """Figure 5, 35x35, with a 5x5 in place of the shorter stack of 3x3."""
    return (
        (same(64, 1),),
        (same(48, 1), same(64, 5)),
        (same(64, 1), same(96, 3), same(96, 3)),
        ("avg", same(pool, 1)),
    )


def inception_b(width):
    """Figure 6, 17x17, n = 7."""
    return (
        (same(192, 1),),
        (same(width, 1), same(width, (1, 7)), same(192, (7, 1))),
        (
            same(width, 1),
            *(same(width, (7, 1)), same(width, (1, 7))),
            *(same(width, (7, 1)), same(192, (1, 7))),
        ),
        ("avg", same(192, 1)),
    )


def inception_c():
    """Figure 7, 8x8."""
    fork = ((same(384, (1, 3)),), (same(384, (3, 1)),))
    return (
        (same(320, 1),),
        (same(384, 1), fork),
        (same(448, 1), same(384, 3), fork),
        ("avg", same(192, 1)),
    )


STEM = {
    "Conv2d_1a_3x3": valid(32, 3, 2),
    "Conv2d_2a_3x3": valid(32, 3),
    "Conv2d_2b_3x3": same(64, 3),
    "MaxPool_3a_3x3": "max",
    "Conv2d_3b_1x1": same(80, 1),
    "Conv2d_4a_3x3": valid(192, 3),
    "MaxPool_5a_3x3": "max",
}
# Table 1 as released, under the released names.
MODULES = STEM | {
    "Mixed_5b": inception_a(32),
    "Mixed_5c": inception_a(64),
    "Mixed_5d": inception_a(64),
    "Mixed_6a": (  # Figure 10
        (valid(384, 3, 2),),
        (same(64, 1), same(96, 3), valid(96, 3, 2)),
        ("max",),
    ),
    "Mixed_6b": inception_b(128),
    "Mixed_6c": inception_b(160),
    "Mixed_6d": inception_b(160),
    "Mixed_6e": inception_b(192),
    "Mixed_7a": (
        (same(192, 1), valid(320, 3, 2)),
        (same(192, 1), same(192, (1, 7)), same(192, (7, 1)), valid(192, 3, 2)),
        ("max",),
    ),
    "Mixed_7b": inception_c(),
    "Mixed_7c": inception_c(),
}

truncated_normal = nn.initializers.truncated_normal  # cut off at two deviations


class ConvNorm(nn.Module):
    step: Step
    kernel_init: nn.initializers.Initializer
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        features, kernel, strides, padding = self.step
        x = Conv(
            features,
            kernel,
            strides,
            padding=padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=1e-3,
            dtype=self.dtype,
            name="bn",
        )(x)
        return nn.relu(x)


class Inception(nn.Module):
    """A module of the tables: applies its branches to one map and concatenates."""

    branches: tuple
    conv: type[nn.Module]  # ConvNorm with all but its step bound
    count_include_pad: bool

    @nn.compact
    def __call__(self, x, *, train):
        outputs = []
        for i, branch in enumerate(self.branches):
            y = x
            for j, step in enumerate(branch):
                name = f"branch{i}_{j}"
                y = apply_step(
                    step, y, self.conv, self.count_include_pad, train=train, name=name
                )
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)


def apply_step(step, x, conv, count_include_pad, *, train, name):
    """Applies a step of a table to a map x, as a submodule called `name`."""
    if step == "max":
        return MaxPool(3, 2, name=name)(x)
    if step == "avg":
        return AvgPool(3, 1, 1, count_include_pad=count_include_pad, name=name)(x)
    if isinstance(step, Step):
        return conv(step, name=name)(x, train=train)
    return Inception(step, conv, count_include_pad, name=name)(x, train=train)


class InceptionV3Backbone(nn.Module):
    """The stem and the modules: [B, H, W, C] to a dict of their outputs."""

    conv: type[nn.Module]
    count_include_pad: bool

    @nn.compact
    def __call__(self, x, *, train):
        stages = {}
        for name, step in MODULES.items():
            x = apply_step(
                step, x, self.conv, self.count_include_pad, train=train, name=name
            )
            stages[name] = x
        return stages


class AuxiliaryHead(nn.Module):
    """Figure 8, on the last 17x17 map: [B, 17, 17, 768] to logits [B, 1, 1, K].

    A 5x5/3 average, a 1x1 convolution, a convolution over the remaining 5x5 and a
    linear layer. On a smaller map the average and the convolution cover what there is;
    a larger map gives several positions, whose mean is taken.
    """

    num_classes: int
    conv: type[nn.Module]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        window = tuple(min(5, size) for size in x.shape[1:3])
        x = AvgPool(window, 3, name="pool")(x)
        x = self.conv(same(128, 1), name="conv1")(x, train=train)
        window = tuple(min(5, size) for size in x.shape[1:3])
        step = Step(768, window, 1, (0, 0))
        x = self.conv(step, kernel_init=truncated_normal(0.01), name="conv2")(
            x, train=train
        )
        return nn.Dense(
            self.num_classes,
            kernel_init=truncated_normal(0.001),
            dtype=self.dtype,
            name="fc",
        )(global_avg_pool(x))


class InceptionV3(Classifier):
    """Inception-v3: images [B, H, W, C], 299x299 in the paper, to logits [B, K].

    In training the logits of the auxiliary head are sown in "auxiliary", as "aux1".

    Raises:
      ValueError: dropout or norm_momentum outside [0, 1).
    """

    num_classes: int
    dropout: float = 0.2
    norm_momentum: float = 0.9997  # the weight of the old value
    count_include_pad: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.rates(self, "dropout", "norm_momentum")
        checks.switches(self, "count_include_pad")
        super().__post_init__()

    def setup(self):
        conv = functools.partial(
            ConvNorm,
            kernel_init=truncated_normal(0.1),
            momentum=self.norm_momentum,
            dtype=self.dtype,
        )
        self.backbone = InceptionV3Backbone(conv, self.count_include_pad)
        self.auxiliary_head = AuxiliaryHead(self.num_classes, conv, self.dtype)
        self.head = PooledLinear(
            self.num_classes, self.dtype, self.dropout, truncated_normal(0.01)
        )

    def auxiliary(self, stages, *, train):
        if not (train or self.is_initializing()):
            return
        logits = self.auxiliary_head(stages["Mixed_6e"], train=train)[:, 0, 0]
        if train:
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            self.sow("auxiliary", "aux1", logits)


MODELS = {"inception_v3": InceptionV3}
