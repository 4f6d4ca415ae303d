"""Wide ResNet (Zagoruyko, Komodakis, 2016), https://arxiv.org/abs/1605.07146.

WRN-n-k for CIFAR has n convolutions and k times the maps of a ResNet, in basic units
with pre-activation (Table 1). For ImageNet the ResNets of 18 and 34 layers have wider
basic blocks and those of 50 and 101 wider 3x3 convolutions within the same bottlenecks
(Section 3, on ImageNet), all with the activation after the convolution.

Differs from the paper: WRN-101-2 is not in it; torchvision has it.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import resnet
from models.layers import Classifier
from models.preact_resnet import PreactBackbone
from models.resnet import PooledLinear, conv_and_norm

# Tables 4, 5 and 6: depth and widening factor.
CIFAR = (
    *((40, 1), (40, 2), (40, 4), (40, 8), (40, 10), (28, 10), (28, 12)),
    *((22, 8), (22, 10), (16, 4), (16, 8), (16, 10)),
)
# Tables 7 and 8, without the ResNets, whose factor is 1.
IMAGENET = ((18, 1.5), (18, 2), (18, 3), (34, 1.5), (34, 2), (50, 2), (101, 2))


class WideUnit(nn.Module):
    """Figure 1(d): two 3x3 convolutions B(3, 3), with dropout between them.

    Where it changes the shape, a 1x1 convolution of what the first one sees is the
    shortcut.
    """

    features: int
    strides: int
    preactivate: bool  # False: the input is activated
    dtype: jnp.dtype
    dropout: float

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        y = nn.relu(norm(name="bn1")(x)) if self.preactivate else x
        z = conv(self.features, 3, self.strides, padding=1, name="conv1")(y)
        z = nn.relu(norm(name="bn2")(z))
        z = nn.Dropout(self.dropout, deterministic=not train)(z)
        z = conv(self.features, 3, padding=1, name="conv2")(z)
        if x.shape != z.shape:
            x = conv(self.features, 1, self.strides, name="shortcut")(y)
        return ops.once(x + z)


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

    def setup(self):
        # Of n convolutions, one is conv1 and three are shortcuts.
        size, rest = divmod(self.depth - 4, 6)
        if size < 1 or rest:
            raise ValueError(f"depth {self.depth} is not 6 N + 4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is outside [0, 1)")
        self.backbone = PreactBackbone(
            unit=functools.partial(WideUnit, dropout=self.dropout),
            stage_sizes=(size,) * 3,
            imagenet_stem=False,
            stem_features=16,
            features=widened(16, self.widening_factor),
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class WideResNet(Classifier):
    """For ImageNet: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a widening_factor that gives no whole number of maps, or a stride_on
        that is neither 1x1 nor 3x3.
    """

    num_classes: int
    depth: int = 50
    widening_factor: float = 2
    stride_on: str = "3x3"  # as in fb.resnet.torch, which the paper starts from
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        resnet.check_stride_on(self.stride_on)
        features = widened(64, self.widening_factor)
        options = {"shortcut": "B", "zero_init": self.zero_init, "dtype": self.dtype}
        sizes = resnet.STAGE_SIZES[self.depth]
        if self.depth >= 50:
            options |= {"stride_on": self.stride_on, "width": features}
            block = functools.partial(resnet.Bottleneck, **options)
            self.backbone = resnet.ResNetBackbone(block, sizes, self.dtype)
        else:
            block = functools.partial(resnet.BasicBlock, **options)
            self.backbone = resnet.ResNetBackbone(block, sizes, self.dtype, features)
        self.head = PooledLinear(self.num_classes, self.dtype)


def widened(features, factor):
    if factor <= 0 or features * factor != int(features * factor):
        raise ValueError(f"widening_factor {factor} does not give whole maps")
    return int(features * factor)


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
