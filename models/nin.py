"""NIN: Network in network (Lin, Chen, Yan, 2013), https://arxiv.org/abs/1312.4400.

The network for CIFAR, and one for ImageNet that its authors published later in Caffe's
model zoo and not in the paper. A convolution is followed by 1x1 convolutions, "cccp"
(cascaded cross-channel parametric pooling, Section 3.1). The last of them has one map
for each class, and the mean of that map is the logit (Section 3.2).

The paper does not tabulate its layers; these come from the authors' definition files.
Both pools take the maximum and count a last window that sticks out, and the last 1x1
has a ReLU, so no logit is negative.

Differs from the paper: dropout doubles what it keeps in training instead of halving in
tests.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.layers import Classifier, Conv, Dropout, MaxPool, global_avg_pool

# Maps, kernel, stride and padding of each convolution, and the maps of the 1x1
# convolutions after it, without the very last. A 3x3 max pool with stride 2 stands
# between two rows.
BLOCKS = {
    "nin": (
        ((192, 5, 1, 2), (160, 96)),
        ((192, 5, 1, 2), (192, 192)),
        ((192, 3, 1, 1), (192,)),
    ),
    "nin_imagenet": (
        ((96, 11, 4, 0), (96, 96)),
        ((256, 5, 1, 2), (256, 256)),
        ((384, 3, 1, 1), (384, 384)),
        ((1024, 3, 1, 1), (1024,)),
    ),
}
# The pools that dropout follows.
DROPOUT = {"nin": ("pool1", "pool2"), "nin_imagenet": ("pool3",)}
# Weights start from N(0, 0.05^2), except in these layers: N(0, 0.01^2). Biases start
# at 0.
SMALLER = {"nin": (), "nin_imagenet": ("conv1", "conv3", "cccp8")}


def convolution(variant, name, maps, kernel, strides, padding, dtype):
    """A convolution called `name` with the initial weights it has in `variant`."""
    return Conv(
        maps,
        kernel,
        strides,
        padding,
        kernel_init=nn.initializers.normal(0.01 if name in SMALLER[variant] else 0.05),
        dtype=dtype,
        name=name,
    )


class NINBackbone(nn.Module):
    """All but the last 1x1: [B, H, W, C] to a dict of the layers' outputs."""

    variant: str
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        stages = {}

        def layer(x, name, *shape):
            conv = convolution(self.variant, name, *shape, self.dtype)
            stages[name] = ops.relu(conv(x))
            return stages[name]

        blocks, cccp = BLOCKS[self.variant], 0
        for i, (shape, mixing) in enumerate(blocks, 1):
            x = layer(x, f"conv{i}", *shape)
            for maps in mixing:
                cccp += 1
                x = layer(x, f"cccp{cccp}", maps, 1, 1, 0)
            if i < len(blocks):
                name = f"pool{i}"
                x = stages[name] = MaxPool(3, 2, ceil=True, name=name)(x)
                if name in DROPOUT[self.variant]:
                    x = Dropout(self.dropout, deterministic=not train)(x)
        return stages


class ClassMaps(nn.Module):
    """The head: a 1x1 convolution to one map per class, ReLU, and each map's mean."""

    num_classes: int
    variant: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del train
        name = f"cccp{1 + sum(len(mixing) for _, mixing in BLOCKS[self.variant])}"
        shape = (self.num_classes, 1, 1, 0)
        x = ops.relu(convolution(self.variant, name, *shape, self.dtype)(x))
        return global_avg_pool(x, window)


class NIN(Classifier):
    """The networks of `BLOCKS`: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: an unknown variant, or a dropout outside [0, 1).
    """

    num_classes: int
    variant: str = "nin"
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "variant", BLOCKS)
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        self.backbone = NINBackbone(self.variant, self.dropout, self.dtype)
        self.head = ClassMaps(self.num_classes, self.variant, self.dtype)


MODELS = {name: functools.partial(NIN, variant=name) for name in BLOCKS}
