"""ResNeXt (Xie, Girshick, Dollar, Tu, He, 2016), https://arxiv.org/abs/1611.05431.

A ResNet whose bottlenecks have C paths (cardinality) of d maps each, as grouped
convolutions (Figure 3c), with their strides on the 3x3 (Section 4). A name gives C x d,
where d is that of conv2_x and doubles with every stage.

Differs from the paper: ResNeXt-101 32x8d is not in it; torchvision has it. The paper's
CIFAR networks put batch normalisation and ReLU ahead of the convolutions; here they
have the ImageNet blocks, which the authors later found slightly better
(https://github.com/facebookresearch/ResNeXt).

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/resnext_test.py.
"""

import functools

import jax.numpy as jnp

from models import checks, resnet
from models.layers import Classifier, PooledLinear

# Table 1: blocks in conv2_x to conv5_x, as in ResNet.
STAGE_SIZES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Section 5.3: blocks in each of three stages of the 29 layers.
CIFAR_STAGE_SIZES = (3, 3, 3)


class ResNeXt(Classifier):
    """For ImageNet (Table 1): images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth other than 50 and 101, or a cardinality or bottleneck_width
        below 1.
    """

    num_classes: int
    depth: int = 50
    cardinality: int = 32
    bottleneck_width: int = 4
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", STAGE_SIZES)
        checks.at_least(self, 1, "cardinality", "bottleneck_width")
        checks.switches(self, "zero_init")
        super().__post_init__()

    def setup(self):
        sizes = STAGE_SIZES[self.depth]
        self.backbone = resnet.ResNetBackbone(
            bottleneck(self), sizes, self.dtype, kernel_init=resnet.he_fan_out
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class CifarResNeXt(Classifier):
    """ResNeXt-29 for 32x32 images (Section 5.3); stages of 256, 512 and 1024 maps.

    Raises:
      ValueError: a cardinality or bottleneck_width below 1.
    """

    num_classes: int
    cardinality: int = 8
    bottleneck_width: int = 64
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.at_least(self, 1, "cardinality", "bottleneck_width")
        checks.switches(self, "zero_init")
        super().__post_init__()

    def setup(self):
        self.backbone = resnet.CifarBackbone(
            bottleneck(self),
            CIFAR_STAGE_SIZES,
            self.dtype,
            features=64,
            kernel_init=resnet.he_fan_out,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


def bottleneck(net):
    """The block that the fields of `net` ask for."""
    return functools.partial(
        resnet.Bottleneck,
        shortcut="B",
        zero_init=net.zero_init,
        dtype=net.dtype,
        stride_on="3x3",
        width=net.cardinality * net.bottleneck_width,
        groups=net.cardinality,
        kernel_init=resnet.he_fan_out,
    )


MODELS = {
    # Table 2 has four more of about the same cost: 1x64d, 2x40d, 4x24d and 8x14d.
    "resnext50_32x4d": functools.partial(ResNeXt, depth=50),
    "resnext101_32x4d": functools.partial(ResNeXt, depth=101),
    "resnext101_64x4d": functools.partial(ResNeXt, depth=101, cardinality=64),
    "resnext101_32x8d": functools.partial(ResNeXt, depth=101, bottleneck_width=8),
    **{
        f"resnext29_{c}x64d": functools.partial(CifarResNeXt, cardinality=c)
        for c in (1, 8, 16)
    },
}
