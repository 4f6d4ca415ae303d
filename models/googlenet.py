"""GoogLeNet (Szegedy et al., 2014), https://arxiv.org/abs/1409.4842.

Differs from the paper, which leaves the parameters of local response normalisation and
the initialisation open: both are those of BVLC's Caffe network (n 5, alpha 1e-4, beta
0.75, k 1 on either side of conv2; "xavier" weights and biases 0.2). Some parameter
counts printed in Table 1 disagree with its own layers: conv1 has 9,472, not 2.7 K.

The network that torchvision calls GoogLeNet is in models/googlenet_bn.py.

Counts: tests/models/registry_test.py; published results: comparison/published.py; twin:
BVLC's network, as ONNX ships it, in tests/parity/googlenet_test.py.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.layers import (
    AvgPool,
    Classifier,
    Conv,
    Dropout,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
    PooledLinear,
)

# Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE_1 = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "pool3": "max pool",
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "pool4": "max pool",
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
# Section 5: the side heads "on top of the output of the Inception (4a) and (4d)".
AUXILIARY = {"aux1": "inception_4a", "aux2": "inception_4d"}

# Caffe's "xavier": uniform with variance 1 / n, n the inputs of a unit.
xavier = nn.initializers.lecun_uniform()
bias = nn.initializers.constant(0.2)


def conv_relu(x, features, kernel, strides=1, *, train, name, dtype):
    """A convolution called `name`, padded by half its kernel, and ReLU."""
    del train
    x = Conv(
        features,
        kernel,
        strides,
        padding=kernel // 2,
        kernel_init=xavier,
        bias_init=bias,
        dtype=dtype,
        name=name,
    )(x)
    return ops.relu(x)


class Inception(nn.Module):
    """Figure 2: filters of several sizes side by side, their maps concatenated.

    This is (b), where 1x1 convolutions reduce the maps first. With `naive` it is (a):
    there are no reductions, and the pool passes on all channels of its input.
    """

    row: tuple  # of TABLE_1
    conv: Callable  # `conv_relu` with its dtype bound
    naive: bool

    KERNEL_5X5 = 5

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(self.conv, train=train)
        n1, reduce3, n3, reduce5, n5, proj = self.row
        maps = [conv(x, n1, 1, name="1x1")]
        y = x if self.naive else conv(x, reduce3, 1, name="3x3_reduce")
        maps.append(conv(y, n3, 3, name="3x3"))
        y = x if self.naive else conv(x, reduce5, 1, name="5x5_reduce")
        maps.append(conv(y, n5, self.KERNEL_5X5, name="5x5"))
        y = MaxPool(3, 1, 1, name="pool")(x)
        maps.append(y if self.naive else conv(y, proj, 1, name="pool_proj"))
        return jnp.concatenate(maps, -1)


class GoogLeNetBackbone(nn.Module):
    """Table 1 up to inception_5b: [B, H, W, C] to a dict of the stages' outputs.

    Pools are in ceil mode, so images of 224 give maps of 112, 56, 28, 14 and 7 pixels.
    """

    conv: Callable
    inception: type[nn.Module]  # with all but its row bound
    lrn_k: float | None

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(self.conv, train=train)
        stages = {}
        x = stages["conv1"] = conv(x, 64, 7, 2, name="conv1")
        x = stages["pool1"] = self.pool(x, "pool1")
        x = conv(self.norm(x, "norm1"), 64, 1, name="conv2_reduce")
        x = stages["conv2"] = conv(x, 192, 3, name="conv2")
        x = stages["pool2"] = self.pool(self.norm(x, "norm2"), "pool2")
        for name, row in TABLE_1.items():
            if row == "max pool":
                x = self.pool(x, name)
            else:
                x = self.inception(row, name=name)(x, train=train)
            stages[name] = x
        return stages

    def norm(self, x, name):
        if self.lrn_k is None:
            return x
        return LocalResponseNorm(5, 1e-4, 0.75, self.lrn_k, name=name)(x)

    def pool(self, x, name):
        return MaxPool(3, 2, ceil=True, name=name)(x)


class AuxiliaryHead(nn.Module):
    """Section 5: a small classifier on a map [B, 14, 14, C]; logits [B, K]."""

    KERNEL_INIT = staticmethod(xavier)
    BIAS_INIT = staticmethod(bias)

    num_classes: int
    conv: Callable
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        size = x.shape[1:3]
        x = self.conv(self.pool(x), 128, 1, train=train, name="conv")
        dense = {"kernel_init": self.KERNEL_INIT, "dtype": self.dtype}
        x = FullyConnected(1024, bias_init=self.BIAS_INIT, name="fc1", **dense)(x)
        x = nn.relu(x)
        if x.shape[1:3] != (1, 1):
            raise ValueError(
                f"a map of {size[0]}x{size[1]} is not of the size that the side heads "
                "were initialised with: train on images of one size"
            )
        x = Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.num_classes, name="fc2", **dense)(x)[:, 0, 0]
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def pool(self, x):
        if min(x.shape[1:3]) < 5:
            raise ValueError(
                f"a map of {x.shape[1]}x{x.shape[2]} is too small for the side heads, "
                "which average over 5x5 (14x14 for images of 224x224)"
            )
        return AvgPool(5, 3, name="pool")(x)


class GoogLeNet(Classifier):
    """GoogLeNet: images [B, H, W, C] to logits [B, K].

    In training the logits of the side heads, "aux1" on inception_4a and "aux2" on
    inception_4d, are sown in "auxiliary"; the paper adds 0.3 of their losses.

    Raises:
      ValueError: an lrn_k that is not positive, or a dropout outside [0, 1).
    """

    num_classes: int
    naive: bool = False  # Figure 2 (a) instead of (b)
    lrn_k: float | None = 1.0  # None: no local response normalisation
    dropout: float = 0.4
    auxiliary_dropout: float = 0.7
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.switches(self, "naive")
        checks.rates(self, "dropout", "auxiliary_dropout")
        if self.lrn_k is not None:
            checks.positive(self, "lrn_k")
        super().__post_init__()

    def setup(self):
        conv = functools.partial(conv_relu, dtype=self.dtype)
        inception = functools.partial(Inception, conv=conv, naive=self.naive)
        self.backbone = GoogLeNetBackbone(conv, inception, self.lrn_k)
        self.head = PooledLinear(self.num_classes, self.dtype, self.dropout, xavier)
        side_head = self.num_classes, conv, self.auxiliary_dropout, self.dtype
        self.side_heads = {name: AuxiliaryHead(*side_head) for name in AUXILIARY}

    def auxiliary(self, stages, *, train):
        if not train and not self.is_initializing():
            return
        for name, stage in AUXILIARY.items():
            logits = self.side_heads[name](stages[stage], train=train)
            if train:
                self.sow("auxiliary", name, logits)


MODELS = {"googlenet": GoogLeNet}
