"""SENet (Hu, Shen, Albanie, Sun, Wu, 2017), https://arxiv.org/abs/1709.01507.

Squeeze-and-excitation on what a bottleneck adds to its shortcut (Figure 3): SE-ResNet,
SE-ResNeXt (Table 1) and SENet-154 (appendix).

Differs from the paper: nothing known. As in the authors' Caffe networks
(https://github.com/hujie-frank/SENet), the pool of the stem is in ceil mode without
padding, and the strides of an SE-ResNet are on a bottleneck's first 1x1; timm's newer
networks have `stride_on="3x3"` and `padded_pool=True`.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import resnet, resnext
from models.layers import Classifier, MaxPool, SqueezeExcite
from models.resnet import PooledLinear, conv_and_norm

# Appendix: the blocks of ResNet-152.
SENET154_STAGE_SIZES = resnet.STAGE_SIZES[152]


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
    """ResNet's with the authors' pool, or its own, padded by 1."""

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
      ValueError: a reduction outside 1 to 256, a cardinality or a bottleneck_width
        below 1, or a stride_on that is neither 1x1 nor 3x3.
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

    def setup(self):
        check_reduction(self.reduction)
        resnext.check_paths(self.cardinality, self.bottleneck_width)
        resnet.check_stride_on(self.stride_on)
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
        sizes = resnet.STAGE_SIZES[self.depth]
        self.backbone = SEResNetBackbone(
            block, sizes, self.dtype, padded_pool=self.padded_pool
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

    def setup(self):
        check_reduction(self.reduction)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is outside [0, 1)")
        block = functools.partial(
            SENet154Block, reduction=self.reduction, dtype=self.dtype
        )
        self.backbone = SENet154Backbone(block, SENET154_STAGE_SIZES, self.dtype)
        self.head = PooledLinear(self.num_classes, self.dtype, self.dropout)


def check_reduction(reduction):
    if not 1 <= reduction <= 256:
        raise ValueError(f"reduction {reduction} is outside 1 to 256")


SE_RESNEXT = {"cardinality": 32, "bottleneck_width": 4, "stride_on": "3x3"}
MODELS = {
    **{f"se_resnet{d}": functools.partial(SEResNet, depth=d) for d in (50, 101, 152)},
    **{
        f"se_resnext{d}_32x4d": functools.partial(SEResNet, depth=d, **SE_RESNEXT)
        for d in (50, 101)
    },
    "senet154": SENet154,
}
