"""BN-Inception (Ioffe, Szegedy, 2015), https://arxiv.org/abs/1502.03167.

Figure 5 with what Section 4.2.1 changes: no dropout, no local response normalisation.

Differs from the paper: conv1 is a plain 7x7 convolution, where the paper's is separable
with depth multiplier 8. There are no side heads; the paper does not mention any, and
counts 13.6 million parameters. Figure 5 projects to 128 channels after the pools of 4c
and 4d, but its output sizes, 576, leave 96 for them: `bn_inception` has 96. The paper
leaves two things open: here the average pools between convolutions do not count the
zeros around the map, and weights start from N(0, 2 / n), n the inputs of a unit.

`bn_inception_128` is the form of the Caffe models in circulation: 128 channels in these
places, so 4c and 4d give 608, and average pools that count the zeros.

Counts: tests/models/registry_test.py; published results: comparison/published.py; twin:
the Caffe model, as ONNX ships it, in tests/parity/bn_inception_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from models import checks
from models.googlenet import xavier
from models.layers import AvgPool, BatchNorm, Classifier, Conv, MaxPool, PooledLinear

# Figure 5: #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, the pool and its
# projection. Without a 1x1 the strides are 2 and the pool passes on all channels.
INCEPTIONS = {
    "3a": (64, 64, 64, 64, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, "avg", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),  # or 96: `pool_proj`
    "4d": (96, 128, 192, 160, 192, "avg", 128),  # or 96
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}

he_normal = nn.initializers.he_normal()


def conv_norm_relu(train, dtype):
    """Section 3.2: convolution without bias, batch normalisation, ReLU."""

    def apply(x, features, kernel, strides=1, *, name):
        x = Conv(
            features,
            kernel,
            strides,
            padding=kernel // 2,
            use_bias=False,
            kernel_init=he_normal,
            dtype=dtype,
            name=name,
        )(x)
        norm = BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=dtype,
            name=f"{name}_bn",
        )
        return nn.relu(norm(x))

    return apply


class Inception(nn.Module):
    """GoogLeNet's module with two 3x3 in place of the 5x5, and average pools."""

    row: tuple  # of INCEPTIONS
    count_include_pad: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = conv_norm_relu(train, self.dtype)
        n1, reduce, n3, double_reduce, double, pool, proj = self.row
        strides = 1 if n1 else 2
        maps = [conv(x, n1, 1, name="1x1")] if n1 else []
        y = conv(x, reduce, 1, name="3x3_reduce")
        maps.append(conv(y, n3, 3, strides, name="3x3"))
        y = conv(x, double_reduce, 1, name="double_3x3_reduce")
        y = conv(y, double, 3, name="double_3x3_a")
        maps.append(conv(y, double, 3, strides, name="double_3x3_b"))
        if strides == 2:
            # These pads give as many windows as the convolutions have. On an even map
            # that is Caffe's ceil mode, which on an odd one has a row and column less.
            pads = tuple((n % 2, 1) for n in x.shape[1:3])
            y = MaxPool(3, 2, pads, name="pool")(x)
        elif pool == "max":
            y = MaxPool(3, 1, 1, name="pool")(x)
        else:
            count = {"count_include_pad": self.count_include_pad}
            y = AvgPool(3, 1, 1, **count, name="pool")(x)
        maps.append(conv(y, proj, 1, name="pool_proj") if proj else y)
        return jnp.concatenate(maps, -1)


class BNInceptionBackbone(nn.Module):
    """Figure 5 up to inception_5b: [B, H, W, C] to a dict of the stages' outputs."""

    pool_proj: int  # in 4c and 4d
    count_include_pad: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = conv_norm_relu(train, self.dtype)
        stages = {}
        x = stages["conv1"] = conv(x, 64, 7, 2, name="conv1")
        x = stages["pool1"] = MaxPool(3, 2, ceil=True, name="pool1")(x)
        x = conv(x, 64, 1, name="conv2_reduce")
        x = stages["conv2"] = conv(x, 192, 3, name="conv2")
        x = stages["pool2"] = MaxPool(3, 2, ceil=True, name="pool2")(x)
        for cell, row in INCEPTIONS.items():
            if cell in ("4c", "4d"):
                row = (*row[:-1], self.pool_proj)
            name = f"inception_{cell}"
            inception = Inception(row, self.count_include_pad, self.dtype, name=name)
            x = stages[name] = inception(x, train=train)
        return stages


class BNInception(Classifier):
    """BN-Inception: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a pool_proj below 1.
    """

    num_classes: int
    pool_proj: int = 96  # in 4c and 4d
    count_include_pad: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.at_least(self, 1, "pool_proj")
        checks.switches(self, "count_include_pad")
        super().__post_init__()

    def setup(self):
        self.backbone = BNInceptionBackbone(
            self.pool_proj, self.count_include_pad, self.dtype
        )
        self.head = PooledLinear(self.num_classes, self.dtype, kernel_init=xavier)


MODELS = {
    "bn_inception": functools.partial(BNInception, pool_proj=96),
    "bn_inception_128": functools.partial(
        BNInception, pool_proj=128, count_include_pad=True
    ),
}
