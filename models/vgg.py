"""VGG (Simonyan, Zisserman, 2014), https://arxiv.org/abs/1409.1556.

The six networks of Table 1; the same with batch normalisation after each convolution
(`vgg16_bn`, as torchvision has it); and networks for 32x32 images with batch
normalisation and one linear layer (`vgg16_cifar`), which are not in the paper.

Differs from the paper: all weights start as in Glorot and Bengio, 2010, which a
footnote of Section 3.1 found sufficient without pre-training. With
`initialization="normal"` they come from the normal distribution with mean 0 and
variance 0.01 that the section prints. The deeper networks then need what it says next:
the first four convolutions and the three fully connected layers of a trained network A.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: weights/names.py, compared in tests/parity/vgg_test.py.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    Dropout,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
)

# Table 1: kernel sizes of the convolutions in the five stages; a pool ends each stage.
TABLE_1 = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3, "LRN"), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
# Table 1: channels in the five stages, units of the first two fully connected layers.
CHANNELS = (64, 128, 256, 512, 512)
UNITS = 4096

# Section 3.1: the initial weights of a convolution, and of a fully connected layer on a
# map. Glorot's n there are all inputs of a unit and all units that see an input.
INITIALIZATIONS = {
    "glorot": (
        nn.initializers.glorot_uniform(),
        nn.initializers.glorot_uniform(in_axis=(0, 1, 2)),
    ),
    "normal": (nn.initializers.normal(0.01**0.5),) * 2,
}


class VGGBackbone(nn.Module):
    """Table 1 up to pool5: [B, H, W, C] to a dict of the layers' outputs."""

    stages: tuple  # a row of TABLE_1 ...
    channels: tuple  # ... and as many numbers of channels
    batch_norm: bool
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        outputs = {}
        rows = zip(self.stages, self.channels, strict=True)
        for i, (kernels, channels) in enumerate(rows, start=1):
            layers = self.stage(
                x,
                name=f"conv{i}",
                number=i,
                kernels=kernels,
                channels=channels,
                train=train,
            )
            x = layers[f"pool{i}"]
            outputs |= layers
        return outputs

    def stage(self, x, *, name, number, kernels, channels, train):
        """Runs one stage; returns its layers' outputs by name, the pool's last."""
        outputs = {}
        for j, kernel in enumerate(kernels, start=1):
            if kernel == "LRN":
                norm = f"norm{number}"
                x = outputs[norm] = LocalResponseNorm(name=norm)(x)
                continue
            x = Conv(
                channels,
                kernel,
                padding=kernel // 2,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"{name}_{j}",
            )(x)
            if self.batch_norm:
                x = BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    dtype=self.dtype,
                    name=f"bn{number}_{j}",
                )(x)
            x = outputs[f"{name}_{j}"] = ops.relu(x)
        pool = f"pool{number}"
        outputs[pool] = MaxPool(2, 2, name=pool)(x)
        return outputs


class ThreeLayers(nn.Module):
    """The head of Table 1: fc6, which sees the whole map, fc7 and fc8."""

    num_classes: int
    units: int
    dropout: float
    initialization: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del window  # fc6's is the size of its kernel.
        init, init_on_map = INITIALIZATIONS[self.initialization]
        dropout = Dropout(self.dropout, deterministic=not train)
        x = FullyConnected(self.units, self.dtype, init_on_map, name="fc6")(x)
        x = dropout(nn.relu(x))
        x = nn.Dense(self.units, dtype=self.dtype, kernel_init=init, name="fc7")(x)
        x = dropout(nn.relu(x))
        return nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=init, name="fc8"
        )(x)


class OneLayer(nn.Module):
    """The head of the networks for CIFAR: "fc", which sees the whole map."""

    num_classes: int
    initialization: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del train, window
        _, init = INITIALIZATIONS[self.initialization]
        return FullyConnected(self.num_classes, self.dtype, init, name="fc")(x)


class VGG(Classifier):
    """Table 1: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: an unknown configuration, an initialization other than glorot and
        normal, or a dropout outside [0, 1).
    """

    num_classes: int
    configuration: str = "D"  # a column of Table 1
    batch_norm: bool = False
    dropout: float = 0.5  # of fc6 and fc7 (Section 3.1)
    initialization: str = "glorot"
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "configuration", TABLE_1)
        checks.choice(self, "initialization", INITIALIZATIONS)
        checks.switches(self, "batch_norm")
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        self.backbone = backbone(self, self.batch_norm)
        self.head = ThreeLayers(
            self.num_classes, UNITS, self.dropout, self.initialization, self.dtype
        )


class CifarVGG(Classifier):
    """Table 1's convolutions, whose pools reduce 32x32 to one pixel, and one layer.

    Raises:
      ValueError: an unknown configuration, or an initialization other than glorot and
        normal.
    """

    num_classes: int
    configuration: str = "D"
    initialization: str = "glorot"
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "configuration", TABLE_1)
        checks.choice(self, "initialization", INITIALIZATIONS)
        super().__post_init__()

    def setup(self):
        self.backbone = backbone(self, batch_norm=True)
        self.head = OneLayer(self.num_classes, self.initialization, self.dtype)


def backbone(network, batch_norm):
    """The backbone that the fields of a `network` ask for."""
    return VGGBackbone(
        TABLE_1[network.configuration],
        CHANNELS,
        batch_norm,
        INITIALIZATIONS[network.initialization][0],
        network.dtype,
    )


COLUMNS = {11: "A", 13: "B", 16: "D", 19: "E"}
MODELS = {
    **{f"vgg{n}": functools.partial(VGG, configuration=c) for n, c in COLUMNS.items()},
    "vgg11_lrn": functools.partial(VGG, configuration="A-LRN"),
    "vgg16_c": functools.partial(VGG, configuration="C"),
    **{
        f"vgg{n}_bn": functools.partial(VGG, configuration=c, batch_norm=True)
        for n, c in COLUMNS.items()
    },
    **{
        f"vgg{n}_cifar": functools.partial(CifarVGG, configuration=c)
        for n, c in COLUMNS.items()
    },
}
