"""GoogLeNet as torchvision has it: the network of no paper.

It differs from models/googlenet.py in this: batch normalisation after every convolution
replaces biases and local response normalisation; what Table 1 calls 5x5 are 3x3
kernels; the pool before inception_5a is 2x2; the side heads average over 4x4
overlapping parts of a map of any size; dropout is 0.2; and weights start from
N(0, 0.01^2), biases at 0.

Counts: tests/models/registry_test.py; published results: comparison/published.py; twin:
weights/names.py, compared in tests/parity/googlenet_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models import googlenet
from models.googlenet import AUXILIARY
from models.layers import BatchNorm, Conv, MaxPool, PooledLinear

normal = nn.initializers.normal(0.01)


def conv_norm_relu(x, features, kernel, strides=1, *, train, name, dtype):
    """A convolution called `name`, batch normalisation and ReLU."""
    x = Conv(
        features,
        kernel,
        strides,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=normal,
        dtype=dtype,
        name=name,
    )(x)
    x = BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-3,
        dtype=dtype,
        name=f"{name}_bn",
    )(x)
    return nn.relu(x)


class Inception(googlenet.Inception):
    """A bug of TensorFlow's port that torchvision keeps for the sake of its weights."""

    KERNEL_5X5 = 3


class GoogLeNetBNBackbone(googlenet.GoogLeNetBackbone):
    """Table 1 with a smaller last pool."""

    def pool(self, x, name):
        return MaxPool(2 if name == "pool4" else 3, 2, ceil=True, name=name)(x)


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


class AuxiliaryHead(googlenet.AuxiliaryHead):
    """The small classifier, on a map of any size."""

    KERNEL_INIT = staticmethod(normal)
    BIAS_INIT = staticmethod(nn.initializers.zeros)

    def pool(self, x):
        return AdaptiveAvgPool(4, name="pool")(x)


class GoogLeNetBN(googlenet.GoogLeNet):
    """torchvision's network: images [B, H, W, C] to logits [B, K].

    The fields are those of GoogLeNet, with torchvision's defaults.
    """

    lrn_k: float | None = None
    dropout: float = 0.2

    def setup(self):
        conv = functools.partial(conv_norm_relu, dtype=self.dtype)
        inception = functools.partial(Inception, conv=conv, naive=self.naive)
        self.backbone = GoogLeNetBNBackbone(conv, inception, self.lrn_k)
        self.head = PooledLinear(self.num_classes, self.dtype, self.dropout, normal)
        side_head = self.num_classes, conv, self.auxiliary_dropout, self.dtype
        self.side_heads = {name: AuxiliaryHead(*side_head) for name in AUXILIARY}


MODELS = {"googlenet_bn": GoogLeNetBN}
