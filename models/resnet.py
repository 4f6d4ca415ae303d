"""ResNet (He, Zhang, Ren, Sun, 2015), https://arxiv.org/abs/1512.03385.

The networks for ImageNet (Table 1) and for CIFAR-10 (Section 4.2), and the plain
networks that the paper compares them with: the same without shortcuts.

Differs from the paper: the pool before conv2_x pads by 1; the authors' Caffe networks
pool in ceil mode without padding, which gives the same size with windows one pixel
further on. Three fields, off by default, are not in the paper. `stride_on="3x3"` moves
a bottleneck's stride from its first 1x1 to its 3x3 convolution ("v1.5", as torchvision
has it). `zero_init` starts the last scale of each block at 0
(https://arxiv.org/abs/1706.02677). `drop_path` is stochastic depth
(https://arxiv.org/abs/1603.09382): in training, an image's last block adds to its
shortcut with probability 1 - drop_path, its first block always, and those between with
probabilities that fall in proportion.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/resnet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kernels import ops
from models import checks
from models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    MaxPool,
    PooledLinear,
)

# Section 3.3, and "none": a plain network.
SHORTCUTS = ("A", "B", "C", "none")
# The convolution of a bottleneck that has its stride.
STRIDES_ON = ("1x1", "3x3")

# Section 3.4 and https://arxiv.org/abs/1502.01852: mean 0 and variance 2 / n, n the
# inputs of a unit; flax cuts the normal distribution off at two deviations.
he_normal = nn.initializers.he_normal()
# N(0, 2 / n) with n the kernel's pixels times all outputs: fb.resnet.torch, and the
# authors' code of its descendants (pre-activation, Wide ResNet, DenseNet, ResNeXt).
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Figure 5, left: two 3x3 convolutions."""

    features: int
    strides: int
    shortcut: str  # of SHORTCUTS
    zero_init: bool
    dtype: jnp.dtype
    drop_path: float = 0.0
    kernel_init: nn.initializers.Initializer = he_normal

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, self.kernel_init)
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
    the block adds to its shortcut.
    """

    features: int
    strides: int
    shortcut: str
    zero_init: bool
    dtype: jnp.dtype
    stride_on: str = "1x1"  # of STRIDES_ON
    width: int = 64  # of the 3x3 convolution at 64 features; in proportion at others
    groups: int = 1  # of the 3x3 convolution
    drop_path: float = 0.0
    kernel_init: nn.initializers.Initializer = he_normal

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, self.kernel_init)
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


def conv_and_norm(dtype, train, kernel_init=he_normal):
    """The convolution, without bias, and the batch normalisation of all networks here.

    torch's momentum of 0.1 (fb.resnet.torch) is 0.9 here: the weight of the old value.
    """
    conv = functools.partial(
        Conv, use_bias=False, kernel_init=kernel_init, dtype=dtype, padding=0
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
    """Sets some images of x [B, H, W, C] to 0 and divides the others by 1 - rate."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)(x)


def shortcut(option, x, shape, strides, conv, norm):
    """Section 3.3: x in the `shape` of the block's output.

    A is the identity, with zeros for the new channels; B projects where the shape
    changes; C projects everywhere. With a stride of 2 all take every second pixel.
    """
    if x.shape == shape and option != "C":
        return x
    if option == "A":
        return pad_channels(x, shape, strides)
    x = conv(shape[-1], 1, strides, name="shortcut")(x)
    return norm(name="shortcut_bn")(x)


def pad_channels(x, shape, strides):
    """Section 3.3, option A: the identity, with zeros for the new channels."""
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, [(0, 0)] * 3 + [(0, shape[-1] - x.shape[-1])])


# Table 1: the block, and the number of them in conv2_x, conv3_x, conv4_x and conv5_x.
TABLE_1 = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
# Section 4.2: n basic blocks in each of three stages; depth 6n + 2.
CIFAR = {6 * n + 2: (n, n, n) for n in (3, 5, 7, 9, 18, 200)}


class ResNetBackbone(nn.Module):
    """Table 1 up to conv5_x: [B, H, W, C] to a dict of the stages' outputs.

    The stages are conv1, conv2_x, conv3_x and so on; the pool belongs to conv2_x, as in
    Table 1. Calls with `first` or `last` run a part of them, with the parameters of the
    whole: x is then the output of the stage before `first`.

    Raises:
      ValueError: when called, if `first` or `last` is no stage, or in the wrong order.
    """

    block: type[nn.Module]  # with the block's own fields bound
    stage_sizes: tuple
    dtype: jnp.dtype
    features: int = 64  # of the blocks in conv2_x; twice as many in every next stage
    drop_path: float = 0.0  # of the last block
    kernel_init: nn.initializers.Initializer = he_normal  # of conv1

    @nn.compact
    def __call__(self, x, *, train, first=None, last=None):
        names = ["conv1", *(f"conv{i}_x" for i, _ in enumerate(self.stage_sizes, 2))]
        stages = {}
        for name in part(names, first, last):
            if name == "conv1":
                x = self.stem(x, train=train)
            else:
                x = self.blocks(x, names.index(name) - 1, train=train)
            stages[name] = x
        return stages

    def blocks(self, x, i, *, train):
        """The blocks of stage i, counted from 0, which is conv2_x."""
        if i == 0:
            x = self.pool(x)
        for j in range(self.stage_sizes[i]):
            block = self.block(
                self.features * 2**i,
                strides=2 if i > 0 and j == 0 else 1,
                name=f"conv{i + 2}_{j + 1}",
                **self.options(i, j),
            )
            x = block(x, train=train)
        return x

    def options(self, i, j):
        """The fields of block j of stage i that are not the same for all blocks."""
        rates = np.linspace(0, self.drop_path, sum(self.stage_sizes))
        rate = float(rates[sum(self.stage_sizes[:i]) + j])
        return {"drop_path": rate} if rate else {}

    def stem(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, self.kernel_init)
        x = conv(64, 7, 2, padding=3, name="conv1")(x)
        return nn.relu(norm(name="bn1")(x))

    def pool(self, x):
        return MaxPool(3, 2, 1, name="pool1")(x)


class CifarBackbone(ResNetBackbone):
    """Section 4.2: a 3x3 convolution and three stages of 16, 32 and 64 maps."""

    features: int = 16  # of conv1 too

    def stem(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train, self.kernel_init)
        x = conv(self.features, 3, padding=1, name="conv1")(x)
        return nn.relu(norm(name="bn1")(x))

    def pool(self, x):
        return x


def part(names, first, last):
    """The stages from `first` to `last`; None is the first or the last of all."""
    first = names[0] if first is None else first
    last = names[-1] if last is None else last
    stages = ", ".join(names)
    for field, name in (("first", first), ("last", last)):
        if name not in names:
            raise ValueError(f"{field} {name!r} is none of the stages {stages}")
    start, end = names.index(first), names.index(last) + 1
    if start >= end:
        raise ValueError(f"first {first!r} is after last {last!r}; stages: {stages}")
    return names[start:end]


def _check_plain(network, *fields):
    """Raises ValueError for fields that would leave a plain network without signal."""
    for field in fields:
        if network.shortcut == "none" and getattr(network, field):
            raise ValueError(
                f"{field} {getattr(network, field)!r} needs shortcuts: without them a "
                "block that adds nothing passes nothing on"
            )


class ResNet(Classifier):
    """ResNet-18 to 152 and the plain networks: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that Table 1 lacks, a shortcut other than A, B, C and none, a
        stride_on other than 1x1 and 3x3, a drop_path outside [0, 1), or zero_init or
        drop_path without shortcuts.
    """

    num_classes: int
    depth: int = 50
    shortcut: str = "B"
    stride_on: str = "1x1"  # of bottlenecks
    zero_init: bool = False
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", TABLE_1)
        checks.choice(self, "shortcut", SHORTCUTS)
        checks.choice(self, "stride_on", STRIDES_ON)
        checks.switches(self, "zero_init")
        checks.rates(self, "drop_path")
        _check_plain(self, "zero_init", "drop_path")
        super().__post_init__()

    def setup(self):
        block, stage_sizes = TABLE_1[self.depth]
        if block is Bottleneck:
            block = functools.partial(block, stride_on=self.stride_on)
        block = functools.partial(
            block, shortcut=self.shortcut, zero_init=self.zero_init, dtype=self.dtype
        )
        self.backbone = ResNetBackbone(
            block, stage_sizes, self.dtype, drop_path=self.drop_path
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class CifarResNet(Classifier):
    """ResNet-20 to 1202 and the plain networks for 32x32 images (Section 4.2).

    Raises:
      ValueError: a depth that Section 4.2 lacks, a shortcut other than A, B, C and
        none, or zero_init without shortcuts.
    """

    num_classes: int
    depth: int = 20
    shortcut: str = "A"
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", CIFAR)
        checks.choice(self, "shortcut", SHORTCUTS)
        checks.switches(self, "zero_init")
        _check_plain(self, "zero_init")
        super().__post_init__()

    def setup(self):
        block = functools.partial(
            BasicBlock,
            shortcut=self.shortcut,
            zero_init=self.zero_init,
            dtype=self.dtype,
        )
        self.backbone = CifarBackbone(block, CIFAR[self.depth], self.dtype)
        self.head = PooledLinear(self.num_classes, self.dtype)


MODELS = {
    **{f"resnet{d}": functools.partial(ResNet, depth=d) for d in TABLE_1},
    **{
        f"plain{d}": functools.partial(ResNet, depth=d, shortcut="none")
        for d in (18, 34)
    },
    **{f"resnet{d}": functools.partial(CifarResNet, depth=d) for d in CIFAR},
    **{
        f"plain{d}": functools.partial(CifarResNet, depth=d, shortcut="none")
        for d in (20, 32, 44, 56, 110)
    },
}
