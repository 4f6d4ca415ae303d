"""AlexNet: ImageNet classification with deep convolutional neural networks.

Krizhevsky, Sutskever, Hinton, 2012, https://papers.nips.cc/paper/4824.

`alexnet` is the paper's network. Its two towers are grouped convolutions here: a tower
sees only its own maps, except in conv3. `alexnet_ungrouped` has no groups, and
`alexnet_one_tower` is the later network for one GPU from "One weird trick for
parallelizing convolutional neural networks" (https://arxiv.org/abs/1404.5997) as
torchvision has it: fewer maps, no local response normalisation, and dropout on the
inputs of fc6 and fc7.

The paper's images have 224x224 pixels, but its 55x55 maps in conv1 need 227. The first
two networks give 55x55 for both sizes: where the last window of conv1 sticks out, zeros
extend the image below and to the right, as in the authors' cuda-convnet.

Differs from the paper: alpha of the normalisation is divided by n, as in cuda-convnet
(`lrn_divide=False` is the formula as printed), and the channels it sums over may belong
to the other tower, as in Caffe. Dropout doubles what it keeps in training, where the
paper halves every output in tests: the same network with the next layer's kernel
halved.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/alexnet_test.py.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.layers import (
    Classifier,
    Conv,
    Dropout,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
)


class Layer(NamedTuple):
    """A row of a table: a convolution or, without a kernel, a fully connected layer."""

    name: str
    maps: int
    kernel: int = 0
    stride: int = 1
    padding: int | None = None  # None: as `convolution` chooses it
    groups: int = 1
    bias: float = 0.0  # where the biases start
    lrn: bool = False  # local response normalisation after it
    pool: int = 0  # the window of the max pool after it; 0: no pool
    drop: str = ""  # dropout on its "inputs" or "outputs"


# Figure 2 and Sections 3.3 to 3.5; dropout from Section 4.2, biases from Section 5.
ALEXNET = (
    Layer("conv1", 96, kernel=11, stride=4, lrn=True, pool=3),
    Layer("conv2", 256, kernel=5, groups=2, bias=1.0, lrn=True, pool=3),
    Layer("conv3", 384, kernel=3),
    Layer("conv4", 384, kernel=3, groups=2, bias=1.0),
    Layer("conv5", 256, kernel=3, groups=2, bias=1.0, pool=3),
    Layer("fc6", 4096, bias=1.0, drop="outputs"),
    Layer("fc7", 4096, bias=1.0, drop="outputs"),
    Layer("fc8", 1000),
)
# https://arxiv.org/abs/1404.5997, as torchvision has it.
ONE_TOWER = (
    Layer("conv1", 64, kernel=11, stride=4, padding=2, pool=3),
    Layer("conv2", 192, kernel=5, bias=1.0, pool=3),
    Layer("conv3", 384, kernel=3),
    Layer("conv4", 256, kernel=3, bias=1.0),
    Layer("conv5", 256, kernel=3, bias=1.0, pool=3),
    Layer("fc6", 4096, bias=1.0, drop="inputs"),
    Layer("fc7", 4096, bias=1.0, drop="inputs"),
    Layer("fc8", 1000),
)
VARIANTS = {
    "alexnet": ALEXNET,
    "alexnet_ungrouped": tuple(row._replace(groups=1) for row in ALEXNET),
    "alexnet_one_tower": ONE_TOWER,
}
ACTIVATIONS = {"relu": ops.relu, "tanh": jnp.tanh}

# Section 5: N(0, 0.01^2).
gaussian = nn.initializers.normal(0.01)


def convolution(row, image, dtype):
    """A row's convolution, ready for an image of (height, width).

    Where the row leaves its padding open, stride 1 keeps the size of the image; with a
    larger stride, zeros below and to the right complete the last windows.
    """
    padding = row.padding
    if padding is None and row.stride == 1:
        padding = row.kernel // 2
    elif padding is None:
        padding = tuple((0, (row.kernel - size) % row.stride) for size in image)
    return Conv(
        row.maps,
        row.kernel,
        row.stride,
        padding,
        feature_group_count=row.groups,
        kernel_init=gaussian,
        bias_init=nn.initializers.constant(row.bias),
        dtype=dtype,
        name=row.name,
    )


class AlexNetBackbone(nn.Module):
    """The convolutions of a table: [B, H, W, C] to a dict of the stages' outputs."""

    rows: tuple
    activation: str = "relu"
    lrn_divide: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for row in self.rows:
            number = row.name.removeprefix("conv")
            conv = convolution(row, x.shape[1:3], self.dtype)
            x = stages[row.name] = ACTIVATIONS[self.activation](conv(x))
            if row.lrn:
                norm = LocalResponseNorm(divide=self.lrn_divide, name=f"norm{number}")
                x = norm(x)
            if row.pool:
                x = MaxPool(row.pool, 2, name=f"pool{number}")(x)
                stages[f"pool{number}"] = x
        return stages


class FullyConnectedHead(nn.Module):
    """The fully connected layers of a table: a map to scores [B, h, w, K].

    The last layer has an output for each class, whatever its row says, and no
    activation.
    """

    num_classes: int
    rows: tuple
    dropout: float
    activation: str = "relu"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del window  # The first layer has its own.
        first, *_, last = self.rows
        for row in self.rows:
            number = row.name.removeprefix("fc")
            drop = Dropout(self.dropout, deterministic=not train, name=f"drop{number}")
            if row.drop == "inputs":
                x = drop(x)
            x = (FullyConnected if row is first else nn.Dense)(
                self.num_classes if row is last else row.maps,
                dtype=self.dtype,
                kernel_init=gaussian,
                bias_init=nn.initializers.constant(row.bias),
                name=row.name,
            )(x)
            if row is not last:
                x = ACTIVATIONS[self.activation](x)
            if row.drop == "outputs":
                x = drop(x)
        return x


def split(rows):
    """A table's convolutions and its fully connected layers."""
    convolutions = tuple(row for row in rows if row.kernel)
    return convolutions, rows[len(convolutions) :]


class AlexNet(Classifier):
    """The networks of `VARIANTS`: images [B, H, W, C] to logits [B, K].

    The fields are what the paper compares: ReLU or tanh (Section 3.1), local response
    normalisation or none (3.3), pooling with overlapping windows of 3 or disjoint ones
    of 2 (3.4), dropout (4.2); and the kernel sizes of conv1 to conv5. conv2 to conv5
    pad by half their kernel, so no map changes its size with it.

    Raises:
      ValueError: an unknown variant, an activation other than relu and tanh, a
        pool_window other than 2 and 3, a dropout outside [0, 1), or kernels that are
        not five sizes, odd after the first.
    """

    num_classes: int
    variant: str = "alexnet"
    activation: str = "relu"
    lrn: bool = True
    lrn_divide: bool = True
    pool_window: int = 3
    dropout: float = 0.5
    kernels: tuple = (11, 5, 3, 3, 3)
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "variant", VARIANTS)
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "pool_window", (2, 3))
        checks.switches(self, "lrn", "lrn_divide")
        checks.rates(self, "dropout")
        if not (
            isinstance(self.kernels, tuple | list)
            and len(self.kernels) == 5
            and all(isinstance(k, int) and k > 0 for k in self.kernels)
            and all(k % 2 for k in self.kernels[1:])
        ):
            raise ValueError(
                f"kernels {self.kernels} are not five sizes, odd after the first"
            )
        super().__post_init__()

    def setup(self):
        convolutions, fully_connected = split(VARIANTS[self.variant])
        rows = tuple(
            row._replace(
                kernel=kernel,
                lrn=row.lrn and self.lrn,
                pool=row.pool and self.pool_window,
            )
            for row, kernel in zip(convolutions, self.kernels, strict=True)
        )
        self.backbone = AlexNetBackbone(
            rows, self.activation, self.lrn_divide, self.dtype
        )
        self.head = FullyConnectedHead(
            self.num_classes, fully_connected, self.dropout, self.activation, self.dtype
        )


MODELS = {
    "alexnet": functools.partial(AlexNet, variant="alexnet"),
    "alexnet_ungrouped": functools.partial(AlexNet, variant="alexnet_ungrouped"),
    "alexnet_one_tower": functools.partial(
        AlexNet, variant="alexnet_one_tower", lrn=False, lrn_divide=True
    ),
}
