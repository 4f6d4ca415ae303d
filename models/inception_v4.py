"""Inception-v4 and Inception-ResNet-v2 (Szegedy, Ioffe, Vanhoucke, Alemi, 2016),
https://arxiv.org/abs/1602.07261.

Differs from the paper: both are the networks that its authors released (TensorFlow,
slim's inception_v4 and inception_resnet_v2). Inception-v4 is as drawn except for the
order of some 1xn and nx1. The released Inception-ResNet-v2 has the stem of Inception-v3
and one module without a shortcut (5b) where Figure 3 has Inception-v4's stem; 10, 20
and 10 residual blocks, not 5, 10 and 5; maps of 320, 1088 and 2080 channels, not 384,
1154 and 2048; a last block that is neither scaled nor followed by a ReLU; and a 1x1
convolution to 1536 channels before the average. The auxiliary classifier of the
released trainers, which the paper does not mention, is left out. Initialisation and
batch normalisation are as released, but with a scale: see models/inception_v3.py.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/inception_v4_test.py.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.inception_v3 import STEM, ConvNorm, Inception, apply_step, same, valid
from models.layers import Classifier, Conv, PooledLinear

# Figure 4. The notation is that of models/inception_v3.py.
INCEPTION_A = (
    (same(96, 1),),
    (same(64, 1), same(96, 3)),
    (same(64, 1), same(96, 3), same(96, 3)),
    ("avg", same(96, 1)),
)
# Figure 5.
INCEPTION_B = (
    (same(384, 1),),
    (same(192, 1), same(224, (1, 7)), same(256, (7, 1))),
    (
        same(192, 1),
        *(same(192, (7, 1)), same(224, (1, 7))),
        *(same(224, (7, 1)), same(256, (1, 7))),
    ),
    ("avg", same(128, 1)),
)
# Figure 6.
FORK = ((same(256, (1, 3)),), (same(256, (3, 1)),))
INCEPTION_C = (
    (same(256, 1),),
    (same(384, 1), FORK),
    (same(384, 1), same(448, (3, 1)), same(512, (1, 3)), FORK),
    ("avg", same(256, 1)),
)
# Figures 16, 17 and 19: the branches of the residual.
BLOCK35 = (
    (same(32, 1),),
    (same(32, 1), same(32, 3)),
    (same(32, 1), same(48, 3), same(64, 3)),
)
BLOCK17 = (
    (same(192, 1),),
    (same(128, 1), same(160, (1, 7)), same(192, (7, 1))),
)
BLOCK8 = (
    (same(192, 1),),
    (same(192, 1), same(224, (1, 3)), same(256, (3, 1))),
)


class Residual(NamedTuple):
    """x + scale * (1x1 convolution of the module's output), Section 3.3."""

    module: tuple
    scale: float
    relu: bool = True


def reduction_a(*widths):
    """Figure 7; Table 1 calls the widths k, l, m and n."""
    reduce, first, second, single = widths
    return (
        (valid(single, 3, 2),),
        (same(reduce, 1), same(first, 3), valid(second, 3, 2)),
        ("max",),
    )


# The networks, with the released names of their entries.
INCEPTION_V4 = {
    "Conv2d_1a_3x3": valid(32, 3, 2),  # Figure 3
    "Conv2d_2a_3x3": valid(32, 3),
    "Conv2d_2b_3x3": same(64, 3),
    "Mixed_3a": (("max",), (valid(96, 3, 2),)),
    "Mixed_4a": (
        (same(64, 1), valid(96, 3)),
        (same(64, 1), same(64, (1, 7)), same(64, (7, 1)), valid(96, 3)),
    ),
    "Mixed_5a": ((valid(192, 3, 2),), ("max",)),
    **{f"Mixed_5{letter}": INCEPTION_A for letter in "bcde"},
    "Mixed_6a": reduction_a(192, 224, 256, 384),
    **{f"Mixed_6{letter}": INCEPTION_B for letter in "bcdefgh"},
    "Mixed_7a": (  # Figure 8
        (same(192, 1), valid(192, 3, 2)),
        (same(256, 1), same(256, (1, 7)), same(320, (7, 1)), valid(320, 3, 2)),
        ("max",),
    ),
    **{f"Mixed_7{letter}": INCEPTION_C for letter in "bcd"},
}
INCEPTION_RESNET_V2 = {
    **STEM,
    "Mixed_5b": (
        (same(96, 1),),
        (same(48, 1), same(64, 5)),
        (same(64, 1), same(96, 3), same(96, 3)),
        ("avg", same(64, 1)),
    ),
    **{f"Block35_{i}": Residual(BLOCK35, 0.17) for i in range(1, 11)},
    "Mixed_6a": reduction_a(256, 256, 384, 384),
    **{f"Block17_{i}": Residual(BLOCK17, 0.10) for i in range(1, 21)},
    "Mixed_7a": (  # Figure 18
        (same(256, 1), valid(384, 3, 2)),
        (same(256, 1), valid(288, 3, 2)),
        (same(256, 1), same(288, 3), valid(320, 3, 2)),
        ("max",),
    ),
    **{f"Block8_{i}": Residual(BLOCK8, 0.20) for i in range(1, 10)},
    "Block8_10": Residual(BLOCK8, 1.0, relu=False),
    "Conv2d_7b_1x1": same(1536, 1),
}
# Their tables, and how their convolutions start.
NETWORKS = {
    "inception_v4": (INCEPTION_V4, nn.initializers.he_normal()),
    "inception_resnet_v2": (INCEPTION_RESNET_V2, nn.initializers.glorot_uniform()),
}


class ResidualBlock(nn.Module):
    """Adds a module to its input; the 1x1 has biases, no batch norm (Section 3.2)."""

    residual: Residual
    conv: type[nn.Module]  # ConvNorm with all but its step bound
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        module, scale, relu = self.residual
        y = Inception(module, self.conv, False, name="module")(x, train=train)
        y = Conv(
            x.shape[-1],
            1,
            padding=0,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="linear",
        )(y)
        x = x + scale * y
        return ops.once(nn.relu(x) if relu else x)


class InceptionV4Backbone(nn.Module):
    """A table of NETWORKS: [B, H, W, C] to a dict of the outputs of its entries."""

    network: str
    norm_momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        table, init = NETWORKS[self.network]
        conv = functools.partial(
            ConvNorm, kernel_init=init, momentum=self.norm_momentum, dtype=self.dtype
        )
        stages = {}
        for name, step in table.items():
            if isinstance(step, Residual):
                block = ResidualBlock(step, conv, init, self.dtype, name=name)
                x = block(x, train=train)
            else:
                x = apply_step(step, x, conv, False, train=train, name=name)
            stages[name] = x
        return stages


class InceptionV4(Classifier):
    """Either network: images [B, H, W, C], 299x299 in the paper, to logits [B, K].

    Raises:
      ValueError: an unknown network, or a dropout or norm_momentum outside [0, 1).
    """

    num_classes: int
    network: str = "inception_v4"
    dropout: float = 0.2
    norm_momentum: float = 0.9997  # the weight of the old value
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "network", NETWORKS)
        checks.rates(self, "dropout", "norm_momentum")
        super().__post_init__()

    def setup(self):
        self.backbone = InceptionV4Backbone(
            self.network, self.norm_momentum, self.dtype
        )
        glorot = nn.initializers.glorot_uniform()
        self.head = PooledLinear(self.num_classes, self.dtype, self.dropout, glorot)


MODELS = {name: functools.partial(InceptionV4, network=name) for name in NETWORKS}
