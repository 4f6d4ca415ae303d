"""Dual Path Networks (Chen, Li, Xiao, Jin, Yan, Feng, 2017), https://arxiv.org/abs/1707.01629.

Two paths run through a stage: maps that blocks add to, as in ResNet, and maps that they
append to, as in DenseNet (equation 8). Every block sees both.

Differs from the paper: nothing known. Only the authors' code has DPN-68 and DPN-107
(https://github.com/cypw/DPNs). What Table 1 leaves open follows that code: where batch
normalisation is, its constants, and which path a block's first outputs belong to.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/dpn_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks, resnet
from models.layers import Classifier, MaxPool, PooledLinear

# Table 1, by depth: the kernel and maps of conv1; in conv2, the maps of the residual
# path and of a block's 3x3 convolution, both doubled with every stage; the groups of
# that convolution; in conv2 to conv5, the blocks and the maps that each appends.
NETWORKS = {
    68: ((3, 10), 64, 128, 32, (3, 4, 12, 3), (16, 32, 32, 64)),
    92: ((7, 64), 256, 96, 32, (3, 4, 20, 3), (16, 32, 24, 128)),
    98: ((7, 96), 256, 160, 40, (3, 6, 20, 3), (16, 32, 32, 128)),
    131: ((7, 128), 256, 160, 40, (4, 8, 28, 3), (16, 32, 32, 128)),
    107: ((7, 128), 256, 200, 50, (4, 8, 20, 3), (20, 64, 64, 128)),
}


def conv_and_norm(dtype, train):
    """ResNet's, with MXNet's default epsilon."""
    conv, norm = resnet.conv_and_norm(dtype, train)
    return conv, functools.partial(norm, epsilon=1e-3)


class NormReluConv(nn.Module):
    """Batch normalisation, ReLU, convolution."""

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x, *, train):
        conv, norm = conv_and_norm(self.dtype, train)
        return conv(
            self.features,
            self.kernel_size,
            self.strides,
            padding=self.kernel_size // 2,
            feature_group_count=self.groups,
            name="conv",
        )(nn.relu(norm(name="bn")(x)))


class DualPathBlock(nn.Module):
    """Figure 2(d) and (e): a tuple of the two paths, each [B, h, w, .], to the same.

    The first block of a stage takes a tuple of any length and projects all of it to new
    paths of `residual` and 2 * `increment` maps.
    """

    residual: int
    width: int  # of the 1x1 and 3x3 convolutions
    increment: int
    groups: int
    strides: int
    first: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, paths, *, train):
        conv = functools.partial(NormReluConv, dtype=self.dtype)
        x = jnp.concatenate(paths, axis=-1)
        if self.first:
            features = self.residual + 2 * self.increment
            paths = self.split(
                conv(features, 1, self.strides, name="c1x1_w")(x, train=train)
            )
        residual, dense = paths
        x = conv(self.width, 1, name="c1x1_a")(x, train=train)
        x = conv(self.width, 3, self.strides, self.groups, name="c3x3_b")(
            x, train=train
        )
        x = conv(self.residual + self.increment, 1, name="c1x1_c")(x, train=train)
        added, appended = self.split(x)
        dense = jnp.concatenate([dense, appended], axis=-1)
        return ops.once(residual + added), dense

    def split(self, x):
        return tuple(jnp.split(x, [self.residual], axis=-1))


class DPNBackbone(nn.Module):
    """Table 1 up to conv5: [B, H, W, C] to a dict of the stages' outputs.

    A stage's output is its two paths in one array, residual path first; conv5's is
    taken after the BN-ReLU ahead of the pooling.
    """

    depth: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        (kernel, features), residual, width, groups, *table = NETWORKS[self.depth]
        conv, norm = conv_and_norm(self.dtype, train)
        stages = {}
        x = conv(features, kernel, 2, padding=kernel // 2, name="conv1")(x)
        x = stages["conv1"] = nn.relu(norm(name="bn1")(x))
        paths = (MaxPool(3, 2, 1, name="pool1")(x),)
        for i, (size, increment) in enumerate(zip(*table, strict=True)):
            for j in range(size):
                block = DualPathBlock(
                    residual=residual * 2**i,
                    width=width * 2**i,
                    increment=increment,
                    groups=groups,
                    strides=2 if i > 0 and j == 0 else 1,
                    first=j == 0,
                    dtype=self.dtype,
                    name=f"conv{i + 2}_{j + 1}",
                )
                paths = block(paths, train=train)
            stages[f"conv{i + 2}"] = jnp.concatenate(paths, axis=-1)
        stages["conv5"] = nn.relu(norm(name="bn5")(stages["conv5"]))
        return stages


class DPN(Classifier):
    """DPN-68 to 131: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a depth that is not in `NETWORKS`.
    """

    num_classes: int
    depth: int = 92
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", NETWORKS)
        super().__post_init__()

    def setup(self):
        self.backbone = DPNBackbone(self.depth, self.dtype)
        self.head = PooledLinear(self.num_classes, self.dtype)


MODELS = {f"dpn{depth}": functools.partial(DPN, depth=depth) for depth in NETWORKS}
