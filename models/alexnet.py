"""AlexNet: ImageNet classification with deep convolutional neural networks.

Krizhevsky, Sutskever, Hinton, 2012, https://papers.nips.cc/paper/4824.

`alexnet` is the paper's network: its two towers are grouped convolutions here, in which
a tower sees only itself. `alexnet_ungrouped` is the same without groups, and
`alexnet_one_tower` the later network for one GPU in "One weird trick for parallelizing
convolutional neural networks" (https://arxiv.org/abs/1404.5997), as torchvision has it:
without local response normalisation, and with dropout ahead of fc6 and fc7.

The paper's images have 224x224 pixels, but its 55x55 maps in conv1 take 227. The first
two networks have 55x55 from both: where the last window of conv1 sticks out, zeros
continue the image below and right, as in the authors' cuda-convnet.

Differs from the paper: alpha of the normalisation is divided by n, as in cuda-convnet;
`lrn_divide=False` is the formula as printed. Neighbours in that sum may be of the other
tower, as in Caffe. Dropout doubles what it keeps in training, where the paper halves
everything in tests: the same networks, with the next layer's kernel halved.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from models.layers import Classifier, Conv, FullyConnected, LocalResponseNorm, MaxPool

# Section 3.5 and Figure 2: maps of conv1 to conv5 and their groups; the padding of
# conv1 (None: what its windows need to cover the image); whether dropout is on the
# inputs of fc6 and fc7 or, as in Section 4.2, on their outputs.
VARIANTS = {
    "alexnet": ((96, 256, 384, 384, 256), (1, 2, 1, 2, 2), None, False),
    "alexnet_ungrouped": ((96, 256, 384, 384, 256), (1, 1, 1, 1, 1), None, False),
    "alexnet_one_tower": ((64, 192, 384, 256, 256), (1, 1, 1, 1, 1), 2, True),
}
ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}

# Section 5: N(0, 0.01^2).
gaussian = nn.initializers.normal(0.01)


class AlexNetBackbone(nn.Module):
    """conv1 to pool5: [B, H, W, C] to a dict of the stages' outputs."""

    maps: tuple
    groups: tuple
    padding: int | None
    kernels: tuple
    pool_window: int
    lrn: bool
    lrn_divide: bool
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for i in range(1, 6):
            maps, groups, kernel = (
                values[i - 1] for values in (self.maps, self.groups, self.kernels)
            )
            strides, padding = 1, kernel // 2
            if i == 1:
                strides, padding = 4, self.padding
                if padding is None:
                    padding = tuple((0, (kernel - size) % 4) for size in x.shape[1:3])
            x = Conv(
                maps,
                kernel,
                strides,
                padding,
                feature_group_count=groups,
                kernel_init=gaussian,
                bias_init=nn.initializers.constant(1.0 if i in (2, 4, 5) else 0.0),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = stages[f"conv{i}"] = ACTIVATIONS[self.activation](x)
            if self.lrn and i in (1, 2):
                norm = LocalResponseNorm(divide=self.lrn_divide, name=f"norm{i}")
                x = norm(x)
            if i in (1, 2, 5):
                x = MaxPool(self.pool_window, 2, name=f"pool{i}")(x)
                stages[f"pool{i}"] = x
        return stages


class FullyConnectedHead(nn.Module):
    """Hidden layers fc6, fc7, ... and a linear one: a map to scores [B, h, w, K].

    `first` is the number of the first layer. Dropout is on the outputs of the hidden
    layers or, with `drop_inputs`, on their inputs.
    """

    num_classes: int
    units: tuple
    dropout: float
    dtype: jnp.dtype
    bias: float = 0.0
    activation: str = "relu"
    drop_inputs: bool = False
    first: int = 6

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del window  # The first layer has its own.
        for i, units in enumerate(self.units, self.first):
            drop = nn.Dropout(self.dropout, deterministic=not train, name=f"drop{i}")
            layer = (FullyConnected if i == self.first else nn.Dense)(
                units,
                dtype=self.dtype,
                kernel_init=gaussian,
                bias_init=nn.initializers.constant(self.bias),
                name=f"fc{i}",
            )
            activation = ACTIVATIONS[self.activation]
            x = (
                activation(layer(drop(x)))
                if self.drop_inputs
                else drop(activation(layer(x)))
            )
        last = f"fc{self.first + len(self.units)}"
        return nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=gaussian, name=last
        )(x)


class AlexNet(Classifier):
    """The networks of `VARIANTS`: images [B, H, W, C] to logits [B, K].

    The fields are what the paper compares: ReLU or tanh (Section 3.1), local response
    normalisation or none (3.3), pooling with window 3 that overlaps or 2 that does not
    (3.4), dropout (4.2); and the kernel sizes of conv1 to conv5. conv2 to conv5 pad by
    half their kernel, so that no map changes its size with it.

    Raises:
      ValueError: an activation other than relu and tanh, a pool_window other than 2 and
        3, a dropout outside [0, 1), or kernels that are not five numbers, odd after the
        first.
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

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is neither relu nor tanh")
        if self.pool_window not in (2, 3):
            raise ValueError(f"pool_window {self.pool_window} is neither 2 nor 3")
        check_dropout(self.dropout)
        kernels = tuple(self.kernels)
        if (
            len(kernels) != 5
            or not all(isinstance(k, int) and k > 0 for k in kernels)
            or not all(k % 2 for k in kernels[1:])
        ):
            raise ValueError(
                f"kernels {kernels} are not the sizes of five, odd after the first"
            )
        maps, groups, padding, drop_inputs = VARIANTS[self.variant]
        self.backbone = AlexNetBackbone(
            maps,
            groups,
            padding,
            kernels,
            self.pool_window,
            self.lrn,
            self.lrn_divide,
            self.activation,
            self.dtype,
        )
        self.head = FullyConnectedHead(
            self.num_classes,
            (4096, 4096),
            self.dropout,
            self.dtype,
            bias=1.0,
            activation=self.activation,
            drop_inputs=drop_inputs,
        )


def check_dropout(rate):
    if not 0 <= rate < 1:
        raise ValueError(f"dropout {rate} is not a share from 0 to below 1")


MODELS = {
    "alexnet": functools.partial(AlexNet, variant="alexnet"),
    "alexnet_ungrouped": functools.partial(AlexNet, variant="alexnet_ungrouped"),
    "alexnet_one_tower": functools.partial(
        AlexNet, variant="alexnet_one_tower", lrn=False, lrn_divide=True
    ),
}
