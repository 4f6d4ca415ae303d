"""Wide ResNet (Zagoruyko, Komodakis, 2016), https://arxiv.org/abs/1605.07146.

WRN-n-k for CIFAR has n convolutions and k times the maps of a ResNet, in basic units
with pre-activation (Table 1). For ImageNet the ResNets of 18 and 34 layers get wider
basic blocks, and those of 50 and 101 layers wider 3x3 convolutions within the same
bottlenecks (Section 3, on ImageNet), all with the activation after the convolution.

Differs from the paper: WRN-101-2 is not in it; torchvision has it.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/wide_resnet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks, resnet
from models.layers import Classifier, Dropout, PooledLinear
from models.preact_resnet import CifarPreactBackbone
from models.resnet import conv_and_norm, he_fan_out

# Tables 4, 5 and 6: depth and widening factor.
CIFAR = (
    *((40, 1), (40, 2), (40, 4), (40, 8), (40, 10), (28, 10), (28, 12)),
    *((22, 8), (22, 10), (16, 4), (16, 8), (16, 10)),
)
# Tables 7 and 8, except for the ResNets, whose factor is 1.
IMAGENET = ((18, 1.5), (18, 2), (18, 3), (34, 1.5), (34, 2), (50, 2), (101, 2))


class WideUnit(nn.Module):
    """Figure 1(d): two 3x3 convolutions B(3, 3), with dropout between them.

    Where the unit changes the shape, its shortcut is a 1x1 convolution of what the
    first 3x3 sees.
    """

    features: int
    strides: int
    preactivate: bool  # False: the input is activated
    dtype: jnp.dtype
    dropout: float

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, he_fan_out)
        y = nn.relu(norm(name="bn1")(x)) if self.preactivate else x
        z = conv(self.features, 3, self.strides, padding=1, name="conv1")(y)
        z = nn.relu(norm(name="bn2")(z))
        z = Dropout(self.dropout, deterministic=not train)(z)
        z = conv(self.features, 3, padding=1, name="conv2")(z)
        if x.shape != z.shape:
            x = conv(self.features, 1, self.strides, name="shortcut")(y)
        return ops.once(x + z)


class UnwidenedBackbone(CifarPreactBackbone):
    """Of k = 1, whose first unit keeps the shape: the activation is in its branch.

    In the authors' code a unit's two paths share an activation only where it changes
    the number of maps, as all other first units do.
    """

    def options(self, i, j):
        return {"preactivate": True, "dtype": self.dtype}

    def stem(self, x, *, train):
        conv, _ = conv_and_norm(self.dtype, train, self.kernel_init)
        return conv(16, 3, padding=1, name="conv1")(x)


class CifarWideResNet(Classifier):
    """WRN-n-k for 32x32 images: [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that is not 6 N + 4, a widening_factor that gives no whole
        number of maps, or a dropout outside [0, 1).
    """

    num_classes: int
    depth: int = 28
    widening_factor: float = 10
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        # N units of 2 convolutions in each of three stages, conv1 and three shortcuts.
        checks.depth(self, 6, 4)
        check_widening(self, 16)
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        unit = functools.partial(WideUnit, dropout=self.dropout)
        n = (self.depth - 4) // 6
        features = int(16 * self.widening_factor)
        backbone = UnwidenedBackbone if features == 16 else CifarPreactBackbone
        self.backbone = backbone(unit, (n, n, n), self.dtype, features)
        self.head = PooledLinear(self.num_classes, self.dtype)


class WideResNet(Classifier):
    """For ImageNet: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that Table 1 of ResNet lacks, a widening_factor that gives no
        whole number of maps, or a stride_on other than 1x1 and 3x3.
    """

    num_classes: int
    depth: int = 50
    widening_factor: float = 2
    stride_on: str = "3x3"  # as in fb.resnet.torch, which the paper starts from
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", resnet.TABLE_1)
        checks.choice(self, "stride_on", resnet.STRIDES_ON)
        checks.switches(self, "zero_init")
        check_widening(self, 64)
        super().__post_init__()

    def setup(self):
        block, stage_sizes = resnet.TABLE_1[self.depth]
        init = {"kernel_init": he_fan_out}
        block = functools.partial(
            block, shortcut="B", zero_init=self.zero_init, dtype=self.dtype, **init
        )
        features = int(64 * self.widening_factor)
        if block.func is resnet.Bottleneck:
            options = {"stride_on": self.stride_on, "width": features}
            block, features = functools.partial(block, **options), 64
        self.backbone = resnet.ResNetBackbone(
            block, stage_sizes, self.dtype, features, **init
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


def check_widening(network, features):
    """Raises ValueError unless widening that many features gives a whole number."""
    checks.positive(network, "widening_factor")
    factor = network.widening_factor
    if features * factor != int(features * factor):
        raise ValueError(
            f"widening_factor {factor} makes {features} maps {features * factor}"
        )


MODELS = {
    **{
        f"wrn_{n}_{k}": functools.partial(CifarWideResNet, depth=n, widening_factor=k)
        for n, k in CIFAR
    },
    **{
        f"wrn_{n}_{k}": functools.partial(WideResNet, depth=n, widening_factor=k)
        for n, k in IMAGENET
    },
}
