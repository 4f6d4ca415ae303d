"""Pre-activation ResNet (He, Zhang, Ren, Sun, 2016), https://arxiv.org/abs/1603.05027.

A unit is x + F(x), with batch normalisation and ReLU before the convolutions of F and
nothing after the sum (Figure 4e). The first unit's pre-activation comes before its two
paths part, and one more follows the last unit (appendix). Where a unit changes the
shape, its projection sees what its first convolution sees.

Differs from the paper: nothing known. What it leaves open is as in the authors' code:
https://github.com/KaimingHe/resnet-1k-layers for CIFAR, where strides are on a
bottleneck's first 1x1, and https://github.com/facebookarchive/fb.resnet.torch for
ImageNet, where they are on its 3x3 and the stem has a batch normalisation, a ReLU and a
pool. Projections have no batch normalisation in either.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import resnet
from models.layers import Classifier, MaxPool
from models.resnet import PooledLinear, conv_and_norm

# Section 5: ResNet-152 with 16 more units in conv3_x.
STAGE_SIZES = resnet.STAGE_SIZES | {200: (3, 24, 36, 3)}


class BasicUnit(nn.Module):
    """Two 3x3 convolutions; the shortcut is option A of ResNet, without parameters."""

    features: int
    strides: int
    preactivate: bool  # False: the input is activated
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        y = nn.relu(norm(name="bn1")(x)) if self.preactivate else x
        z = conv(self.features, 3, self.strides, padding=1, name="conv1")(y)
        z = nn.relu(norm(name="bn2")(z))
        z = conv(self.features, 3, padding=1, name="conv2")(z)
        if x.shape != z.shape:
            x = resnet.pad_channels(y, z.shape, self.strides)
        return ops.once(x + z)


class BottleneckUnit(nn.Module):
    """1x1 that reduces, 3x3, 1x1 that restores (times four); shortcuts of option B."""

    features: int
    strides: int
    preactivate: bool
    dtype: jnp.dtype
    stride_on: str = "1x1"

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        first, second = self.strides, 1
        if self.stride_on == "3x3":
            first, second = second, first
        y = nn.relu(norm(name="bn1")(x)) if self.preactivate else x
        z = conv(self.features, 1, first, name="conv1")(y)
        z = nn.relu(norm(name="bn2")(z))
        z = conv(self.features, 3, second, padding=1, name="conv2")(z)
        z = nn.relu(norm(name="bn3")(z))
        z = conv(4 * self.features, 1, name="conv3")(z)
        if x.shape != z.shape:
            x = conv(4 * self.features, 1, self.strides, name="shortcut")(y)
        return ops.once(x + z)


class PreactBackbone(nn.Module):
    """[B, H, W, C] to a dict of the stages' outputs.

    conv1's is the first unit's pre-activation, the last stage's the activation ahead of
    the head; the others' are sums, not activated.
    """

    unit: type[nn.Module]  # with the unit's own fields bound
    stage_sizes: tuple
    imagenet_stem: bool  # 7x7 with stride 2 and a pool, or 3x3
    stem_features: int
    features: int  # of the units in conv2_x; twice as many in every next stage
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        stages = {}
        kernel, strides = (7, 2) if self.imagenet_stem else (3, 1)
        padding = kernel // 2
        x = conv(self.stem_features, kernel, strides, padding=padding, name="conv1")(x)
        x = stages["conv1"] = nn.relu(norm(name="bn1")(x))
        if self.imagenet_stem:
            x = MaxPool(3, 2, 1, name="pool1")(x)
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                unit = self.unit(
                    self.features * 2**i,
                    strides=2 if i > 0 and j == 0 else 1,
                    preactivate=i > 0 or j > 0,
                    dtype=self.dtype,
                    name=f"conv{i + 2}_{j + 1}",
                )
                x = unit(x, train=train)
            stages[f"conv{i + 2}_x"] = x
        stages[f"conv{i + 2}_x"] = nn.relu(norm(name="bn_last")(x))
        return stages


class PreactResNet(Classifier):
    """For ImageNet, of bottlenecks: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a stride_on that is neither 1x1 nor 3x3.
    """

    num_classes: int
    depth: int = 200
    stride_on: str = "3x3"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        resnet.check_stride_on(self.stride_on)
        unit = functools.partial(BottleneckUnit, stride_on=self.stride_on)
        self.backbone = PreactBackbone(
            unit=unit,
            stage_sizes=STAGE_SIZES[self.depth],
            imagenet_stem=True,
            stem_features=64,
            features=64,
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class CifarPreactResNet(Classifier):
    """For 32x32 images: [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that is not 9 n + 2, or 6 n + 2 for basic units.
    """

    num_classes: int
    depth: int = 164
    bottleneck: bool = True
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        layers = 9 if self.bottleneck else 6  # in n units of each of three stages
        size, rest = divmod(self.depth - 2, layers)
        if size < 1 or rest:
            raise ValueError(f"depth {self.depth} is not {layers} n + 2")
        self.backbone = PreactBackbone(
            unit=BottleneckUnit if self.bottleneck else BasicUnit,
            stage_sizes=(size,) * 3,
            imagenet_stem=False,
            stem_features=16,
            features=16,
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


MODELS = {
    "preact_resnet110": functools.partial(
        CifarPreactResNet, depth=110, bottleneck=False
    ),
    "preact_resnet164": functools.partial(CifarPreactResNet, depth=164),
    "preact_resnet1001": functools.partial(CifarPreactResNet, depth=1001),
    "preact_resnet200": functools.partial(PreactResNet, depth=200),
}
