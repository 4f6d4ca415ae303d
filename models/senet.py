"""SENet (Hu, Shen, Albanie, Sun, Wu, 2017), https://arxiv.org/abs/1709.01507.

Squeeze-and-excitation of what a bottleneck adds to its shortcut (Figure 3): SE-ResNet,
SE-ResNeXt (Table 1) and SENet-154 (appendix).

Differs from the paper: nothing known. As in the authors' Caffe networks
(https://github.com/hujie-frank/SENet), the pool before conv2_x is in ceil mode without
padding, and an SE-ResNet's bottlenecks have their stride on the first 1x1; timm's newer
networks have `stride_on="3x3"` and `padded_pool=True`.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/senet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks, resnet
from models.layers import (
    Classifier,
    MaxPool,
    PooledLinear,
    SqueezeExcite,
)
from models.resnet import conv_and_norm

# Table 1: blocks in conv2_x to conv5_x, as in ResNet. The appendix: SENet-154 has as
# many as the network of 152 layers.
STAGE_SIZES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class SEBottleneck(resnet.Bottleneck):
    """Figure 3 and Table 1: squeeze-and-excitation before the addition."""

    reduction: int = 16

    def recalibrate(self, y):
        return SqueezeExcite(self.reduction, self.dtype, name="se")(y)


class SENet154Block(nn.Module):
    """Appendix: the first 1x1 has half the maps of the 3x3, and projections are 3x3.

    The projection of conv2_x, which keeps the size, is 1x1.
    """

    features: int
    strides: int
    reduction: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        grouped = functools.partial(conv, feature_group_count=64)
        features = 4 * self.features
        y = conv(features // 2, 1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = grouped(features, 3, self.strides, padding=1, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv(features, 1, name="conv3")(y)
        y = norm(name="bn3")(y)
        y = SqueezeExcite(self.reduction, self.dtype, name="se")(y)
        if x.shape != y.shape:
            kernel = 1 if self.strides == 1 else 3
            projection = functools.partial(conv, padding=kernel // 2, name="shortcut")
            x = projection(features, kernel, self.strides)(x)
            x = norm(name="shortcut_bn")(x)
        return ops.once(nn.relu(x + y))


class SEResNetBackbone(resnet.ResNetBackbone):
    """ResNet's, with the authors' pool or, padded by 1, with ResNet's own."""

    padded_pool: bool = False

    def pool(self, x):
        if self.padded_pool:
            return super().pool(x)
        return MaxPool(3, 2, 0, ceil=True, name="pool1")(x)


class SENet154Backbone(SEResNetBackbone):
    """Appendix: three 3x3 convolutions for the 7x7 of the stem."""

    def stem(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        for i, (features, strides) in enumerate([(64, 2), (64, 1), (128, 1)], 1):
            x = conv(features, 3, strides, padding=1, name=f"conv1_{i}")(x)
            x = nn.relu(norm(name=f"bn1_{i}")(x))
        return x


class SEResNet(Classifier):
    """SE-ResNet, and SE-ResNeXt by its fields: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth other than 50, 101 and 152, a reduction outside 1 to 256, a
        cardinality or bottleneck_width below 1, or a stride_on other than 1x1 and 3x3.
    """

    num_classes: int
    depth: int = 50
    cardinality: int = 1
    bottleneck_width: int = 64
    stride_on: str = "1x1"
    padded_pool: bool = False
    reduction: int = 16
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", STAGE_SIZES)
        checks.at_least(self, 1, "cardinality", "bottleneck_width")
        checks.choice(self, "stride_on", resnet.STRIDES_ON)
        checks.switches(self, "padded_pool", "zero_init")
        check_reduction(self)
        super().__post_init__()

    def setup(self):
        block = functools.partial(
            SEBottleneck,
            shortcut="B",
            zero_init=self.zero_init,
            dtype=self.dtype,
            stride_on=self.stride_on,
            width=self.cardinality * self.bottleneck_width,
            groups=self.cardinality,
            reduction=self.reduction,
        )
        self.backbone = SEResNetBackbone(
            block, STAGE_SIZES[self.depth], self.dtype, padded_pool=self.padded_pool
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class SENet154(Classifier):
    """Appendix: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a reduction outside 1 to 256 or a dropout outside [0, 1).
    """

    num_classes: int
    reduction: int = 16
    dropout: float = 0.2
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        check_reduction(self)
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        block = functools.partial(
            SENet154Block, reduction=self.reduction, dtype=self.dtype
        )
        self.backbone = SENet154Backbone(block, STAGE_SIZES[152], self.dtype)
        self.head = PooledLinear(self.num_classes, self.dtype, self.dropout)


def check_reduction(network):
    """Raises ValueError unless the 256 maps of conv2_x are reduced to 1 or more."""
    checks.at_least(network, 1, "reduction")
    if network.reduction > 256:
        raise ValueError(f"reduction {network.reduction} is above 256")


SE_RESNEXT = {"cardinality": 32, "bottleneck_width": 4, "stride_on": "3x3"}
MODELS = {
    **{f"se_resnet{d}": functools.partial(SEResNet, depth=d) for d in (50, 101, 152)},
    **{
        f"se_resnext{d}_32x4d": functools.partial(SEResNet, depth=d, **SE_RESNEXT)
        for d in (50, 101)
    },
    "senet154": SENet154,
}
