"""DenseNet (Huang, Liu, van der Maaten, Weinberger, 2016), https://arxiv.org/abs/1608.06993.

The networks for ImageNet (Table 1), the DenseNet-161 that the conference version has in
place of DenseNet-264, and those for CIFAR and SVHN (Table 2). Bottlenecks make a
DenseNet-B, compression below one a DenseNet-C, and both a DenseNet-BC.

Differs from the paper: nothing known. Convolutions start as in the authors' code, from
N(0, 2 / n) with n the outputs times the kernel's pixels; the paper only cites He et al.

Training keeps every layer's input for the gradient, each as an array of its own, so
memory grows with the square of a block's layers (https://arxiv.org/abs/1707.06990).

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/densenet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.layers import AvgPool, Classifier, Dropout, MaxPool, PooledLinear
from models.resnet import conv_and_norm, he_fan_out

# Table 1: growth rate, and layers in the four dense blocks.
IMAGENET = {
    121: (32, (6, 12, 24, 16)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
    264: (32, (6, 12, 64, 48)),
    161: (48, (6, 12, 36, 24)),
}
# Table 2: depth and growth rate.
CIFAR = ((40, 12), (100, 12), (100, 24))
CIFAR_BC = ((100, 12), (250, 24), (190, 40))


def conv_norm_and_dropout(dtype, dropout, train):
    """The parts of all layers; the dropout follows a convolution (Section 4.2)."""
    conv, norm = conv_and_norm(dtype, train, he_fan_out)
    return conv, norm, Dropout(dropout, deterministic=not train)


class DenseLayer(nn.Module):
    """Equation 2: [B, h, w, m] to [B, h, w, m + growth_rate], the new maps last.

    A bottleneck is a 1x1 convolution to 4 * growth_rate maps.
    """

    growth_rate: int
    bottleneck: bool
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm, dropout = conv_norm_and_dropout(self.dtype, self.dropout, train)
        y = x
        if self.bottleneck:
            y = nn.relu(norm(name="bottleneck_bn")(y))
            y = dropout(conv(4 * self.growth_rate, 1, name="bottleneck")(y))
        y = nn.relu(norm(name="bn")(y))
        y = dropout(conv(self.growth_rate, 3, padding=1, name="conv")(y))
        return ops.once(jnp.concatenate([x, y], axis=-1))


class Transition(nn.Module):
    """Between two blocks: [B, h, w, m] to [B, h / 2, w / 2, compression * m]."""

    compression: float
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm, dropout = conv_norm_and_dropout(self.dtype, self.dropout, train)
        features = int(self.compression * x.shape[-1])
        x = nn.relu(norm(name="bn")(x))
        x = dropout(conv(features, 1, name="conv")(x))
        return AvgPool(2, 2, name="pool")(x)


class DenseNetBackbone(nn.Module):
    """Table 1 up to its last block: [B, H, W, C] to a dict of the stages' outputs.

    The last block's output is taken after the BN-ReLU ahead of the pooling.
    """

    stem_features: int
    imagenet_stem: bool  # 7x7 with stride 2, BN-ReLU and a pool, or 3x3 alone
    growth_rate: int
    block_sizes: tuple
    bottleneck: bool
    compression: float
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm, _ = conv_norm_and_dropout(self.dtype, 0.0, train)
        stages = {}
        if self.imagenet_stem:
            x = conv(self.stem_features, 7, 2, padding=3, name="conv1")(x)
            x = stages["conv1"] = nn.relu(norm(name="bn1")(x))
            x = stages["pool1"] = MaxPool(3, 2, 1, name="pool1")(x)
        else:
            x = conv(self.stem_features, 3, padding=1, name="conv1")(x)
            stages["conv1"] = x
        shared = {"dropout": self.dropout, "dtype": self.dtype}
        for i, size in enumerate(self.block_sizes, 1):
            for j in range(size):
                layer = DenseLayer(
                    self.growth_rate,
                    self.bottleneck,
                    name=f"block{i}_{j + 1}",
                    **shared,
                )
                x = layer(x, train=train)
            stages[f"block{i}"] = x
            if i < len(self.block_sizes):
                name = f"transition{i}"
                layer = Transition(self.compression, name=name, **shared)
                x = stages[name] = layer(x, train=train)
        stages[f"block{i}"] = nn.relu(norm(name="bn")(x))
        return stages


class DenseNet(Classifier):
    """DenseNet-121 to 264 (Table 1): images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that Table 1 lacks, a compression outside (0, 1], or a dropout
        outside [0, 1).
    """

    num_classes: int
    depth: int = 121
    bottleneck: bool = True
    compression: float = 0.5
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", IMAGENET)
        check(self)
        super().__post_init__()

    def setup(self):
        growth_rate, block_sizes = IMAGENET[self.depth]
        self.backbone = DenseNetBackbone(
            stem_features=2 * growth_rate,
            imagenet_stem=True,
            growth_rate=growth_rate,
            block_sizes=block_sizes,
            bottleneck=self.bottleneck,
            compression=self.compression,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class CifarDenseNet(Classifier):
    """Three blocks of equal size on 32x32 images (Section 3, implementation details).

    The first convolution has 16 maps, or twice the growth rate in a DenseNet-BC. The
    authors' code has the latter everywhere, but the parameters of Table 2 agree only
    with the former.

    Raises:
      ValueError: a compression outside (0, 1], a dropout outside [0, 1), a growth_rate
        below 1, or a depth that is not 3 n + 4 (with bottlenecks, 6 n + 4).
    """

    num_classes: int
    depth: int = 40
    growth_rate: int = 12
    bottleneck: bool = False
    compression: float = 1.0
    dropout: float = 0.0  # 0.2 without augmentation (Section 4.2)
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        check(self)
        checks.at_least(self, 1, "growth_rate")
        # conv1, two transitions, the linear layer, and three blocks of n layers, each
        # of one convolution or two.
        checks.depth(self, 6 if self.bottleneck else 3, 4)
        super().__post_init__()

    def setup(self):
        n = (self.depth - 4) // (6 if self.bottleneck else 3)
        both = self.bottleneck and self.compression < 1
        self.backbone = DenseNetBackbone(
            stem_features=2 * self.growth_rate if both else 16,
            imagenet_stem=False,
            growth_rate=self.growth_rate,
            block_sizes=(n, n, n),
            bottleneck=self.bottleneck,
            compression=self.compression,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


def check(network):
    """Raises ValueError for the fields that both networks have."""
    checks.switches(network, "bottleneck")
    checks.positive(network, "compression")
    if network.compression > 1:
        raise ValueError(f"compression {network.compression!r} is not in (0, 1]")
    checks.rates(network, "dropout")


MODELS = {
    **{f"densenet{d}": functools.partial(DenseNet, depth=d) for d in IMAGENET},
    **{
        f"densenet_{d}_{k}": functools.partial(CifarDenseNet, depth=d, growth_rate=k)
        for d, k in CIFAR
    },
    **{
        f"densenet_bc_{d}_{k}": functools.partial(
            CifarDenseNet, depth=d, growth_rate=k, bottleneck=True, compression=0.5
        )
        for d, k in CIFAR_BC
    },
}
