"""Pre-activation ResNet (He, Zhang, Ren, Sun, 2016), https://arxiv.org/abs/1603.05027.

A unit is x + F(x), with batch normalisation and ReLU before the convolutions of F and
nothing after the sum (Figure 4e). The first unit's pre-activation comes before its two
paths part, and one more follows the last unit (appendix). Where a unit changes the
shape, its projection sees what its first convolution sees.

Differs from the paper: nothing known. What it leaves open follows the authors' code:
https://github.com/KaimingHe/resnet-1k-layers for CIFAR, where a bottleneck's stride is
on its first 1x1, and https://github.com/facebookarchive/fb.resnet.torch for ImageNet,
where it is on the 3x3 and the stem has a batch normalisation, a ReLU and a pool.
Projections have no batch normalisation in either, and convolutions start from
N(0, 2 / n) with n the kernel's pixels times the outputs.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/preact_resnet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks, resnet
from models.layers import Classifier, PooledLinear
from models.resnet import conv_and_norm, he_fan_out


class BasicUnit(nn.Module):
    """Two 3x3 convolutions; the shortcut is option A of ResNet, without parameters."""

    features: int
    strides: int
    preactivate: bool  # False: the input is activated
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, he_fan_out)
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
        conv, norm = conv_and_norm(self.dtype, train, he_fan_out)
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


# Units in conv2_x to conv5_x: those of Table 1 of ResNet, and Section 5's ResNet-152
# with 16 more in conv3_x. All are bottlenecks.
STAGE_SIZES = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


class PreactBackbone(resnet.ResNetBackbone):
    """[B, H, W, C] to a dict of the stages' outputs.

    conv1's is the first unit's pre-activation, and the last stage's is activated for
    the head; the others are sums, not activated.
    """

    kernel_init: nn.initializers.Initializer = he_fan_out

    def options(self, i, j):
        return {"preactivate": i > 0 or j > 0, "dtype": self.dtype}

    def blocks(self, x, i, *, train):
        x = super().blocks(x, i, train=train)
        if i + 1 == len(self.stage_sizes):
            _, norm = conv_and_norm(self.dtype, train)
            x = nn.relu(norm(name="bn_last")(x))
        return x


class CifarPreactBackbone(PreactBackbone):
    """For 32x32 images: conv1 is a 3x3 convolution to 16 maps, without a pool."""

    def stem(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, self.kernel_init)
        x = conv(16, 3, padding=1, name="conv1")(x)
        return nn.relu(norm(name="bn1")(x))

    def pool(self, x):
        return x


class PreactResNet(Classifier):
    """For ImageNet, of bottlenecks: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that is not in `STAGE_SIZES`, or a stride_on other than 1x1
        and 3x3.
    """

    num_classes: int
    depth: int = 200
    stride_on: str = "3x3"
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", STAGE_SIZES)
        checks.choice(self, "stride_on", resnet.STRIDES_ON)
        super().__post_init__()

    def setup(self):
        unit = functools.partial(BottleneckUnit, stride_on=self.stride_on)
        self.backbone = PreactBackbone(unit, STAGE_SIZES[self.depth], self.dtype)
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

    def __post_init__(self):
        checks.switches(self, "bottleneck")
        # n units of 3 or 2 convolutions in each of three stages.
        checks.depth(self, 9 if self.bottleneck else 6, 2)
        super().__post_init__()

    def setup(self):
        unit = BottleneckUnit if self.bottleneck else BasicUnit
        n = (self.depth - 2) // (9 if self.bottleneck else 6)
        self.backbone = CifarPreactBackbone(unit, (n, n, n), self.dtype, features=16)
        self.head = PooledLinear(self.num_classes, self.dtype)


MODELS = {
    "preact_resnet110": functools.partial(
        CifarPreactResNet, depth=110, bottleneck=False
    ),
    "preact_resnet164": functools.partial(CifarPreactResNet, depth=164),
    "preact_resnet1001": functools.partial(CifarPreactResNet, depth=1001),
    "preact_resnet200": functools.partial(PreactResNet, depth=200),
}
