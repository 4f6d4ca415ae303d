"""GoogLeNet (Szegedy et al., 2014), https://arxiv.org/abs/1409.4842.

Differs from the paper, which leaves the parameters of local response normalisation and
the initialisation open: both are those of BVLC's Caffe network (n 5, alpha 1e-4, beta
0.75, k 1 on either side of conv2; "xavier" weights and biases 0.2). Some parameter
counts printed in Table 1 are not those of its own layers: conv1 has 9,472, not 2.7 K.

`googlenet_bn` is the network that torchvision calls GoogLeNet, which no paper has:
batch normalisation after every convolution instead of its bias and of local response
normalisation; 3x3 kernels where Table 1 says 5x5; a 2x2 pool before inception_5a; the
side heads average over 4x4 overlapping parts of a map of any size; dropout 0.2.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models.layers import (
    AvgPool,
    BatchNorm,
    Classifier,
    Conv,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
    global_avg_pool,
)

# Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Section 5: the side heads "on top of the output of the Inception (4a) and (4d)".
AUXILIARY = {"aux1": "4a", "aux2": "4d"}

# Caffe's "xavier": uniform with variance 1 / n, n the inputs of a unit.
xavier = nn.initializers.lecun_uniform()
bias = nn.initializers.constant(0.2)


def conv_relu(train, torchvision, dtype):
    """Convolution and ReLU, with batch normalisation between them in `torchvision`."""

    def apply(x, features, kernel, strides=1, *, name):
        x = Conv(
            features,
            kernel,
            strides,
            padding=kernel // 2,
            use_bias=not torchvision,
            kernel_init=nn.initializers.normal(0.01) if torchvision else xavier,
            bias_init=bias,
            dtype=dtype,
            name=name,
        )(x)
        if torchvision:
            x = BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-3,
                dtype=dtype,
                name=f"{name}_bn",
            )(x)
        return nn.relu(x)

    return apply


class Inception(nn.Module):
    """Figure 2: filters of several sizes side by side, their maps concatenated.

    (b), with 1x1 convolutions that reduce; with `naive` (a), without any of them, so
    that the pool passes all channels of its input on.
    """

    row: tuple  # of INCEPTIONS
    naive: bool
    torchvision: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = conv_relu(train, self.torchvision, self.dtype)
        n1, reduce3, n3, reduce5, n5, proj = self.row
        maps = [conv(x, n1, 1, name="1x1")]
        y = x if self.naive else conv(x, reduce3, 1, name="3x3_reduce")
        maps.append(conv(y, n3, 3, name="3x3"))
        y = x if self.naive else conv(x, reduce5, 1, name="5x5_reduce")
        maps.append(conv(y, n5, 3 if self.torchvision else 5, name="5x5"))
        y = MaxPool(3, 1, 1, name="pool")(x)
        maps.append(y if self.naive else conv(y, proj, 1, name="pool_proj"))
        return jnp.concatenate(maps, -1)


class GoogLeNetBackbone(nn.Module):
    """Table 1 up to inception_5b: [B, H, W, C] to a dict of the stages' outputs.

    Pools are in ceil mode: 112, 56, 28, 14, 7 pixels for images of 224.
    """

    naive: bool
    torchvision: bool
    lrn_k: float | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = conv_relu(train, self.torchvision, self.dtype)
        pool = functools.partial(MaxPool, 3, 2, ceil=True)
        stages = {}

        def norm(x, name):
            if self.lrn_k is None:
                return x
            return LocalResponseNorm(5, 1e-4, 0.75, self.lrn_k, name=name)(x)

        x = stages["conv1"] = conv(x, 64, 7, 2, name="conv1")
        x = stages["pool1"] = pool(name="pool1")(x)
        x = conv(norm(x, "norm1"), 64, 1, name="conv2_reduce")
        x = stages["conv2"] = conv(x, 192, 3, name="conv2")
        x = stages["pool2"] = pool(name="pool2")(norm(x, "norm2"))
        for cell, row in INCEPTIONS.items():
            if cell == "4a":
                x = stages["pool3"] = pool(name="pool3")(x)
            elif cell == "5a":
                window = 2 if self.torchvision else 3
                x = stages["pool4"] = MaxPool(window, 2, ceil=True, name="pool4")(x)
            name = f"inception_{cell}"
            inception = Inception(
                row, self.naive, self.torchvision, self.dtype, name=name
            )
            x = stages[name] = inception(x, train=train)
        return stages


class AdaptiveAvgPool(nn.Module):
    """[B, h, w, C] to [B, size, size, C], as torch has it.

    Part i of `size` has the mean of pixels floor(i h / size) to ceil((i + 1) h / size).
    """

    size: int

    def __call__(self, x):
        means = []
        for n in x.shape[1:3]:
            part, pixel = np.arange(self.size)[:, None], np.arange(n)
            first, end = part * n // self.size, -(-(part + 1) * n // self.size)
            inside = (first <= pixel) & (pixel < end)
            means.append(jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype))
        return jnp.einsum("bhwc,ih,jw->bijc", x, *means)


class AuxiliaryHead(nn.Module):
    """Section 5: a small classifier on a map [B, 14, 14, C]; logits [B, K]."""

    num_classes: int
    torchvision: bool
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        size = x.shape[1:3]
        if min(size) < 5 and not self.torchvision:
            raise ValueError(
                f"a map of {size[0]}x{size[1]} is too small for the side heads, which "
                "average over 5x5 (14x14 for images of 224x224)"
            )
        if self.torchvision:
            x = AdaptiveAvgPool(4, name="pool")(x)
        else:
            x = AvgPool(5, 3, name="pool")(x)
        conv = conv_relu(train, self.torchvision, self.dtype)
        x = conv(x, 128, 1, name="conv")
        dense = {"kernel_init": xavier, "dtype": self.dtype}
        x = nn.relu(FullyConnected(1024, bias_init=bias, name="fc1", **dense)(x))
        if x.shape[1:3] != (1, 1):
            raise ValueError(
                f"a map of {size[0]}x{size[1]} is not of the size that the side heads "
                "were initialised with: train on images of one size"
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.num_classes, name="fc2", **dense)(x)[:, 0, 0]
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Head(nn.Module):
    """Average pooling, dropout and one linear layer, "fc"."""

    num_classes: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        x = global_avg_pool(x, window)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        dense = nn.Dense(
            self.num_classes, kernel_init=xavier, dtype=self.dtype, name="fc"
        )
        return dense(x)


class GoogLeNet(Classifier):
    """GoogLeNet: images [B, H, W, C] to logits [B, K].

    In training the logits of the side heads, "aux1" on inception_4a and "aux2" on
    inception_4d, are sown in "auxiliary"; the paper adds 0.3 of their losses.

    Raises:
      ValueError: an lrn_k that is not positive, or a dropout outside of [0, 1).
    """

    num_classes: int
    torchvision: bool = False
    naive: bool = False  # Figure 2 (a) instead of (b)
    lrn_k: float | None = 1.0  # None: no local response normalisation
    dropout: float = 0.4
    auxiliary_dropout: float = 0.7
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.lrn_k is not None and self.lrn_k <= 0:
            raise ValueError(f"lrn_k {self.lrn_k} is not positive")
        for field in ("dropout", "auxiliary_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)} is not in [0, 1)")
        self.backbone = GoogLeNetBackbone(
            self.naive, self.torchvision, self.lrn_k, self.dtype
        )
        self.head = Head(self.num_classes, self.dropout, self.dtype)
        side_head = functools.partial(
            AuxiliaryHead,
            self.num_classes,
            self.torchvision,
            self.auxiliary_dropout,
            self.dtype,
        )
        self.side_heads = {name: side_head() for name in AUXILIARY}

    def auxiliary(self, stages, *, train):
        if not train and not self.is_initializing():
            return
        for name, cell in AUXILIARY.items():
            logits = self.side_heads[name](stages[f"inception_{cell}"], train=train)
            if train:
                self.sow("auxiliary", name, logits)


class TorchvisionGoogLeNet(GoogLeNet):
    """The same with torchvision's defaults."""

    torchvision: bool = True
    lrn_k: float | None = None
    dropout: float = 0.2


MODELS = {
    "googlenet": functools.partial(GoogLeNet, torchvision=False),
    "googlenet_bn": functools.partial(TorchvisionGoogLeNet, torchvision=True),
}
