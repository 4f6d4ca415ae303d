"""ResNet (He, Zhang, Ren, Sun, 2015), https://arxiv.org/abs/1512.03385.

The networks for ImageNet (Table 1) and for CIFAR-10 (Section 4.2), and the plain
networks that both are compared with: the same without shortcuts.

Differs from the paper: with `stride_on="3x3"` a bottleneck's stride is on its 3x3
convolution ("v1.5", as torchvision has it); the default is the paper's, on its first
1x1. `zero_init` starts each block's last scale at 0 (https://arxiv.org/abs/1706.02677),
off by default; so is `drop_path`, stochastic depth (https://arxiv.org/abs/1603.09382):
in training the last block adds to its shortcut with probability 1 - drop_path, drawn
for each image, the first block always, those between in proportion. The pool of the
stem pads by 1; the authors' Caffe nets pool in ceil mode without padding, which gives
the same size with windows one pixel further on.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kernels import ops
from models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    MaxPool,
    global_avg_pool,
)

# Table 1: blocks in conv2_x, conv3_x, conv4_x and conv5_x.
STAGE_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Section 4.2: blocks in each of three stages; depth 6n + 2.
CIFAR_STAGE_SIZES = {6 * n + 2: (n, n, n) for n in (3, 5, 7, 9, 18, 200)}

# Section 3.4 and https://arxiv.org/abs/1502.01852: N(0, 2 / n), n the inputs of a unit.
he_normal = nn.initializers.he_normal()


class BasicBlock(nn.Module):
    """Figure 5, left: two 3x3 convolutions."""

    features: int
    strides: int
    shortcut: str  # "A", "B", "C" (Section 3.3), or "none": a plain network
    zero_init: bool
    dtype: jnp.dtype
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        y = conv(self.features, 3, self.strides, padding=1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.features, 3, padding=1, name="conv2")(y)
        y = norm(name="bn2", scale_init=last_scale(self.zero_init))(y)
        y = drop_path(y, self.drop_path, train)
        if self.shortcut != "none":
            y += shortcut(self.shortcut, x, y.shape, self.strides, conv, norm)
        return ops.once(nn.relu(y))


class Bottleneck(nn.Module):
    """Figure 5, right: 1x1 that reduces, 3x3, 1x1 that restores (times four).

    Descendants widen the 3x3 convolution, split it into groups, or `recalibrate` what
    is added to the shortcut.
    """

    features: int
    strides: int
    shortcut: str
    zero_init: bool
    dtype: jnp.dtype
    stride_on: str = "1x1"
    width: int = 64  # of the 3x3 convolution at 64 features; in proportion at others
    groups: int = 1  # of the 3x3 convolution
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        first, second = self.strides, 1
        if self.stride_on == "3x3":
            first, second = second, first
        width = self.width * self.features // 64
        grouped = functools.partial(conv, feature_group_count=self.groups)
        y = conv(width, 1, first, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = grouped(width, 3, second, padding=1, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv(4 * self.features, 1, name="conv3")(y)
        y = norm(name="bn3", scale_init=last_scale(self.zero_init))(y)
        y = drop_path(self.recalibrate(y), self.drop_path, train)
        if self.shortcut != "none":
            y += shortcut(self.shortcut, x, y.shape, self.strides, conv, norm)
        return ops.once(nn.relu(y))

    def recalibrate(self, y):
        return y


def conv_and_norm(dtype, train):
    """Convolution without bias and batch normalisation as all networks here have them.

    torch's momentum 0.1 (fb.resnet.torch) is 0.9 here: the weight of the old value.
    """
    conv = functools.partial(
        Conv, use_bias=False, kernel_init=he_normal, dtype=dtype, padding=0
    )
    norm = functools.partial(
        BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
    )
    return conv, norm


def last_scale(zero_init):
    return nn.initializers.zeros if zero_init else nn.initializers.ones


def drop_path(x, rate, train):
    """x [B, H, W, C] with some of its images all 0, the others divided by 1 - rate."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)(x)


def shortcut(option, x, shape, strides, conv, norm):
    """Section 3.3: x in the `shape` of the block's output.

    A: the identity, with zeros for further channels; B: a projection where the shape
    changes; C: projections everywhere. Strided, A and B take every second pixel.
    """
    if x.shape == shape and option != "C":
        return x
    if option == "A":
        return pad_channels(x, shape, strides)
    x = conv(shape[-1], 1, strides, name="shortcut")(x)
    return norm(name="shortcut_bn")(x)


def pad_channels(x, shape, strides):
    """Section 3.3, option A: the identity, with zeros for further channels."""
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, [(0, 0)] * 3 + [(0, shape[-1] - x.shape[-1])])


class ResNetBackbone(nn.Module):
    """Table 1 up to conv5_x: [B, H, W, C] to a dict of the stages' outputs."""

    block: type[nn.Module]  # with the block's own fields bound
    stage_sizes: tuple
    dtype: jnp.dtype
    features: int = 64  # of the blocks in conv2_x; twice as many in every next stage
    drop_path: float = 0.0  # of the last block

    @nn.compact
    def __call__(self, x, *, train):
        stages = {}
        x = stages["conv1"] = self.stem(x, train=train)
        x = self.pool(x)
        rates = iter(np.linspace(0, self.drop_path, sum(self.stage_sizes)))
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = 2 if i > 0 and j == 0 else 1
                features = self.features * 2**i
                rate = float(next(rates))
                options = {"drop_path": rate} if rate else {}
                name = f"conv{i + 2}_{j + 1}"
                block = self.block(features, strides, name=name, **options)
                x = block(x, train=train)
            stages[f"conv{i + 2}_x"] = x
        return stages

    def stem(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        x = conv(64, 7, 2, padding=3, name="conv1")(x)
        return nn.relu(norm(name="bn1")(x))

    def pool(self, x):
        return MaxPool(3, 2, 1, name="pool1")(x)


class CifarBackbone(nn.Module):
    """Section 4.2: a 3x3 convolution and three stages of 16, 32 and 64 maps."""

    block: type[nn.Module]
    stage_sizes: tuple
    dtype: jnp.dtype
    features: int = 16  # of conv1 and of the blocks in conv2_x; doubled as above

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        stages = {}
        x = conv(self.features, 3, padding=1, name="conv1")(x)
        x = stages["conv1"] = nn.relu(norm(name="bn1")(x))
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = 2 if i > 0 and j == 0 else 1
                features = self.features * 2**i
                block = self.block(features, strides, name=f"conv{i + 2}_{j + 1}")
                x = block(x, train=train)
            stages[f"conv{i + 2}_x"] = x
        return stages


class PooledLinear(nn.Module):
    """The head: global average pooling and one linear layer, "fc"."""

    num_classes: int
    dtype: jnp.dtype
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train, window=None):
        x = global_avg_pool(x, window)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)


class ResNet(Classifier):
    """ResNet-18 to 152 and the plain networks: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a shortcut other than A, B, C or none, a stride_on that is neither 1x1
        nor 3x3, or a drop_path that is no probability below 1.
    """

    num_classes: int
    depth: int = 50
    shortcut: str = "B"
    stride_on: str = "1x1"
    zero_init: bool = False
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        check_shortcut(self.shortcut)
        check_stride_on(self.stride_on)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be from 0 to below 1: {self.drop_path}")
        if self.depth >= 50:
            block = functools.partial(Bottleneck, stride_on=self.stride_on)
        else:
            block = BasicBlock
        block = functools.partial(
            block, shortcut=self.shortcut, zero_init=self.zero_init, dtype=self.dtype
        )
        self.backbone = ResNetBackbone(
            block, STAGE_SIZES[self.depth], self.dtype, drop_path=self.drop_path
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class CifarResNet(Classifier):
    """ResNet-20 to 1202 and the plain networks for 32x32 images (Section 4.2)."""

    num_classes: int
    depth: int = 20
    shortcut: str = "A"
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        check_shortcut(self.shortcut)
        block = functools.partial(
            BasicBlock,
            shortcut=self.shortcut,
            zero_init=self.zero_init,
            dtype=self.dtype,
        )
        sizes = CIFAR_STAGE_SIZES[self.depth]
        self.backbone = CifarBackbone(block, sizes, self.dtype)
        self.head = PooledLinear(self.num_classes, self.dtype)


def check_shortcut(option):
    if option not in ("A", "B", "C", "none"):
        raise ValueError(f"shortcut {option!r} is none of A, B, C, none")


def check_stride_on(layer):
    if layer not in ("1x1", "3x3"):
        raise ValueError(f"stride_on {layer!r} is neither 1x1 nor 3x3")


MODELS = {
    **{f"resnet{d}": functools.partial(ResNet, depth=d) for d in STAGE_SIZES},
    **{
        f"plain{d}": functools.partial(ResNet, depth=d, shortcut="none")
        for d in (18, 34)
    },
    **{
        f"resnet{d}": functools.partial(CifarResNet, depth=d) for d in CIFAR_STAGE_SIZES
    },
    **{
        f"plain{d}": functools.partial(CifarResNet, depth=d, shortcut="none")
        for d in (20, 32, 44, 56, 110)
    },
}
