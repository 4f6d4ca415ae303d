"""Networks that only claims need, named "claims.networks:FourLayers" in a config.

FourLayers stands for the network of AlexNet's Figure 1, of which the paper says only
that it is convolutional and has four layers. Here it has three convolutions of 5x5 with
32, 32 and 64 maps, each followed by an overlapping pool of 3x3 with stride 2, and one
fully connected layer, as the nets for CIFAR-10 in its author's code of the time.
Sigmoids is the network of Batch Normalization's Section 4.1. NarrowVGG and NarrowNIN
are the networks of their papers with fewer maps, Plain is ResNet's plain network for
CIFAR with any activation, and FullLeNet5 is LeNet-5 with all connections.
MomentumResNet is ResNet's network for CIFAR with other moving averages. ThinGoogLeNet
is GoogLeNet for images of 32x32 pixels, with a quarter of its maps.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models import checks, googlenet, lenet, nin, resnet, vgg
from models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    LocalResponseNorm,
    MaxPool,
    PooledLinear,
    global_avg_pool,
    max_pool,
)

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}
# The variance of initial weights times the fan-in: it keeps that of the activations
# (He et al., 2015; Glorot and Bengio, 2010). That of sigmoids it does not: their slope
# is 1/4, for which 16 would make up.
GAIN = {"relu": 2.0, "tanh": 1.0, "sigmoid": 1.0}
MAPS = (32, 32, 64)


def weights(activation):
    """The initial weights in front of an activation."""
    return nn.initializers.variance_scaling(GAIN[activation], "fan_in", "normal")


def normalised(x, train, dtype, name):
    """Applies batch normalisation, inside a module's `__call__`."""
    return BatchNorm(
        use_running_average=not train, momentum=0.9, dtype=dtype, name=name
    )(x)


class FourLayersBackbone(nn.Module):
    """The convolutions of FourLayers, without the head."""

    activation: str
    norm: str
    lrn: tuple
    pool: int
    hidden: int
    dropout: float
    groups: int
    width: float
    without: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        """[B, H, W, C] to a dict of the layers' outputs."""
        stages, act = {}, ACTIVATIONS[self.activation]
        for number, maps in enumerate(MAPS, 1):
            if number != self.without:
                last = number == len(MAPS)
                x = Conv(
                    maps if last else round(maps * self.width),
                    5,
                    padding=2,
                    use_bias=self.norm != "batch",
                    feature_group_count=self.groups if number > 1 else 1,
                    kernel_init=weights(self.activation),
                    dtype=self.dtype,
                    name=f"conv{number}",
                )(x)
                if self.norm == "batch":
                    x = normalised(x, train, self.dtype, f"bn{number}")
                x = stages[f"conv{number}"] = act(x)
            window = self.pool
            x = max_pool(x, window, 2, ((0, window - 2), (0, window - 2)))
            stages[f"pool{number}"] = x
            if self.norm == "lrn" and number < 3:
                size, alpha, k = self.lrn
                x = LocalResponseNorm(size, alpha, 0.75, k)(x)
                stages[f"norm{number}"] = x
        if self.hidden:
            x = x.reshape(len(x), 1, 1, -1)
            x = nn.Dense(
                self.hidden,
                kernel_init=weights(self.activation),
                dtype=self.dtype,
                name="fc1",
            )(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(act(x))
            stages["fc1"] = x
        return stages


class Flat(nn.Module):
    """The head: one fully connected layer over the whole map."""

    num_classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del train, window
        x = x.reshape(len(x), 1, 1, -1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)


class FourLayers(Classifier):
    """Images [B, H, W, C] to logits [B, K].

    Attributes:
      activation: "relu", "tanh" or "sigmoid".
      norm: "" for none, "lrn" after the first two pools, or "batch" after convolutions.
      lrn: of "lrn", the number of maps n, alpha, which is divided by n, and k.
      pool: the side of the pools' windows, 3 (overlapping) or 2; their stride is 2.
      hidden: units of a further fully connected layer; 0 for none.
      dropout: the part of these units that training drops.
      groups: towers: each map of a later convolution sees 1 / groups of the maps.
      width: the factor of the maps of all convolutions but the last.
      without: the number of a convolution to leave out; 0 for none.

    Raises:
      ValueError: a field has another value, or there is dropout but nothing to drop.
    """

    num_classes: int
    activation: str = "relu"
    norm: str = ""
    lrn: tuple = (5, 5e-4, 2.0)
    pool: int = 3
    hidden: int = 0
    dropout: float = 0.0
    groups: int = 1
    width: float = 1.0
    without: int = 0
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "norm", ("", "lrn", "batch"))
        checks.choice(self, "pool", (2, 3))
        if len(self.lrn) != 3:
            raise ValueError(f"lrn {self.lrn!r} must be three numbers: n, alpha and k")
        checks.choice(self, "without", (0, 1, 2, 3))
        checks.rates(self, "dropout")
        checks.at_least(self, 0, "hidden")
        if self.dropout and not self.hidden:
            raise ValueError(f"dropout {self.dropout!r} needs hidden units to drop")
        checks.at_least(self, 1, "groups")
        checks.positive(self, "width")
        super().__post_init__()

    def setup(self):
        self.backbone = FourLayersBackbone(
            self.activation,
            self.norm,
            self.lrn,
            self.pool,
            self.hidden,
            self.dropout,
            self.groups,
            self.width,
            self.without,
            self.dtype,
        )
        self.head = Flat(self.num_classes, self.dtype)


class SigmoidsBackbone(nn.Module):
    """The hidden layers of Sigmoids."""

    layers: int
    units: int
    batch_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        """[B, H, W, C] to a dict of the layers' outputs [B, 1, 1, units]."""
        stages = {}
        x = x.reshape(len(x), 1, 1, -1)
        for number in range(1, self.layers + 1):
            x = nn.Dense(
                self.units,
                use_bias=not self.batch_norm,
                kernel_init=nn.initializers.normal(0.1),  # "small random Gaussian"
                dtype=self.dtype,
                name=f"fc{number}",
            )(x)
            if self.batch_norm:
                x = normalised(x, train, self.dtype, f"bn{number}")
            x = stages[f"fc{number}"] = nn.sigmoid(x)
        return stages


class Sigmoids(Classifier):
    """Fully connected layers of sigmoids (Ioffe and Szegedy, 2015, Section 4.1)."""

    num_classes: int
    layers: int = 3
    units: int = 100
    batch_norm: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.at_least(self, 1, "layers", "units")
        checks.switches(self, "batch_norm")
        super().__post_init__()

    def setup(self):
        self.backbone = SigmoidsBackbone(
            self.layers, self.units, self.batch_norm, self.dtype
        )
        self.head = Flat(self.num_classes, self.dtype)


# Three stages of one convolution, or of as many 3x3 as see the same pixels (VGG, 2.3).
# All have as many maps, as a stack saves weights only between equal numbers of them.
RECEPTIVE = {
    "5x5": ((5,),) * 3,
    "two 3x3": ((3, 3),) * 3,
    "7x7": ((7,),) * 3,
    "three 3x3": ((3, 3, 3),) * 3,
}


class NarrowVGG(Classifier):
    """VGG with batch normalisation: images [B, H, W, C] to logits [B, K].

    Attributes:
      configuration: a column of VGG's Table 1, or a row of `RECEPTIVE`.
      width: the factor of the paper's channels, in `RECEPTIVE` of those of stage 1.

    Raises:
      ValueError: a field has another value.
    """

    num_classes: int
    configuration: str = "D"
    width: float = 0.25
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "configuration", vgg.TABLE_1 | RECEPTIVE)
        checks.positive(self, "width")
        super().__post_init__()

    def setup(self):
        stages = (vgg.TABLE_1 | RECEPTIVE)[self.configuration]
        channels = vgg.CHANNELS[: len(stages)]
        if self.configuration in RECEPTIVE:
            channels = channels[:1] * len(stages)
        self.backbone = vgg.VGGBackbone(
            stages,
            tuple(round(self.width * c) for c in channels),
            batch_norm=True,
            kernel_init=weights("relu"),
            dtype=self.dtype,
        )
        self.head = Flat(self.num_classes, self.dtype)


class PlainBackbone(nn.Module):
    """All convolutions of Plain, named conv01, conv02, ... in their order."""

    depth: int
    activation: str
    batch_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        """[B, H, W, C] to a dict of the layers' outputs."""
        stages, in_a_stage = {}, (self.depth - 2) // 3
        for number in range(1, self.depth):
            stage, place = divmod(max(number - 2, 0), in_a_stage)
            x = Conv(
                16 * 2**stage,
                3,
                2 if stage and place == 0 else 1,
                padding=1,
                use_bias=not self.batch_norm,
                kernel_init=weights(self.activation),
                dtype=self.dtype,
                name=f"conv{number:02}",
            )(x)
            if self.batch_norm:
                x = normalised(x, train, self.dtype, f"bn{number:02}")
            x = stages[f"conv{number:02}"] = ACTIVATIONS[self.activation](x)
        return stages


class Plain(Classifier):
    """ResNet's plain networks for CIFAR-10 (Section 4.2) with any activation.

    Attributes:
      depth: of `resnet.CIFAR`.
      activation: "relu", "tanh" or "sigmoid".
      batch_norm: normalises after each convolution; without, it has a bias.

    Raises:
      ValueError: a field has another value.
    """

    num_classes: int
    depth: int = 20
    activation: str = "relu"
    batch_norm: bool = False
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "depth", resnet.CIFAR)
        checks.choice(self, "activation", ACTIVATIONS)
        checks.switches(self, "batch_norm")
        super().__post_init__()

    def setup(self):
        self.backbone = PlainBackbone(
            self.depth, self.activation, self.batch_norm, self.dtype
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


class NarrowNINBackbone(nn.Module):
    """NIN's convolutions for CIFAR with fewer maps, without the last 1x1."""

    width: float
    mixing: bool
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        """[B, H, W, C] to a dict of the layers' outputs."""
        stages, rows = {}, nin.BLOCKS["nin"]
        for i, ((maps, kernel, _, padding), mixing) in enumerate(rows, 1):
            layers = [(maps, kernel, padding)]
            layers += [(maps, 1, 0) for maps in mixing if self.mixing]
            for j, (maps, kernel, padding) in enumerate(layers, 1):
                x = Conv(
                    round(maps * self.width),
                    kernel,
                    padding=padding,
                    kernel_init=weights("relu"),
                    dtype=self.dtype,
                    name=f"conv{i}_{j}",
                )(x)
                x = stages[f"conv{i}_{j}"] = nn.relu(x)
            if i < len(rows):
                x = stages[f"pool{i}"] = max_pool(x, 3, 2, ceil=True)
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return stages


class NarrowNINHead(nn.Module):
    """NIN's last 1x1, with one map for each class, and a classifier on these maps."""

    num_classes: int
    kind: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        maps = Conv(
            self.num_classes,
            1,
            padding=0,
            kernel_init=weights("relu"),
            dtype=self.dtype,
            name="cccp6",
        )
        x = nn.relu(maps(x))
        if self.kind == "average":
            return global_avg_pool(x, window)
        rate = 0.5 if self.kind == "dropout" else 0.0
        x = nn.Dropout(rate, deterministic=not train)(x)
        return Flat(self.num_classes, self.dtype, name="flat")(x, train=train)


class NarrowNIN(Classifier):
    """NIN for CIFAR: images [B, H, W, C] to logits [B, K].

    Attributes:
      head_kind: what stands on the class maps (Section 4.6): their "average", a fully
        connected layer ("connected"), or this behind "dropout" of half the inputs.
      mixing: whether 1x1 convolutions follow the larger ones.
      width: the factor of the paper's maps.
      dropout: the part of the pools' outputs that training drops.

    Raises:
      ValueError: a field has another value.
    """

    num_classes: int
    head_kind: str = "average"
    mixing: bool = True
    width: float = 0.5
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "head_kind", ("average", "connected", "dropout"))
        checks.switches(self, "mixing")
        checks.positive(self, "width")
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        self.backbone = NarrowNINBackbone(
            self.width, self.mixing, self.dropout, self.dtype
        )
        self.head = NarrowNINHead(self.num_classes, self.head_kind, self.dtype)


class FullLeNet5Backbone(lenet.LeNet5Backbone):
    """LeNet-5 up to F6, where each map of C3 sees all maps of S2."""

    def c3_table(self):
        return np.ones_like(super().c3_table())


class FullLeNet5(lenet.LeNet5):
    """LeNet-5 of 1998 without Table I: images [B, 32, 32, 1] to logits [B, 10]."""

    def setup(self):
        self.backbone = FullLeNet5Backbone(self.dtype)
        self.output = lenet.RBF()


class MomentumResNet(resnet.CifarResNet):
    """A network of models/resnet.py for CIFAR whose moving averages are others.

    With each step they keep `momentum` of their old value, where models/resnet.py has
    0.9. The gradient does not see them, so the training is the same.

    Raises:
      ValueError: the momentum is outside [0, 1), or a field of `CifarResNet` is wrong.
    """

    momentum: float = 0.9

    def __post_init__(self):
        checks.rates(self, "momentum")
        super().__post_init__()

    def class_map(self, x, *, train, window=None):
        with nn.intercept_methods(functools.partial(keeping, self.momentum)):
            return super().class_map(x, train=train, window=window)


def keeping(momentum, call, args, kwargs, context):
    """Calls a method; a batch normalisation's averages move less, or more, by it."""
    module = context.module
    if not isinstance(module, BatchNorm) or module.use_running_average:
        return call(*args, **kwargs)
    names = ("mean", "var")
    before = [module.get_variable("batch_stats", name) for name in names]
    y = call(*args, **kwargs)
    share = (1 - momentum) / (1 - module.momentum)
    for name, old in zip(names, before, strict=True):
        moved = module.get_variable("batch_stats", name) - old
        module.put_variable("batch_stats", name, old + share * moved)
    return y


THINNER = 4  # times fewer maps in ThinGoogLeNet


class ThinGoogLeNetBackbone(nn.Module):
    """One convolution, then GoogLeNet's Table 1 from inception_3a with thinner rows."""

    conv: object  # googlenet.conv_relu with its dtype bound

    @nn.compact
    def __call__(self, x, *, train):
        """[B, H, W, C] to a dict of the stages' outputs."""
        stages = {}
        x = self.conv(x, 192 // THINNER, 3, train=train, name="conv1")
        stages["conv1"] = x
        x = stages["pool2"] = self.pool("pool2")(x)
        for name, row in googlenet.TABLE_1.items():
            if row == "max pool":
                x = self.pool(name)(x)
            else:
                thin = tuple(maps // THINNER for maps in row)
                module = googlenet.Inception(thin, self.conv, False, name=name)
                x = module(x, train=train)
            stages[name] = x
        return stages

    def pool(self, name):
        return MaxPool(3, 2, ceil=True, name=name)


class ThinGoogLeNet(googlenet.GoogLeNet):
    """GoogLeNet for images of 32x32 pixels: modules on maps of 16, 8 and 4 pixels.

    The side heads are the paper's. There is no local response normalisation.

    Raises:
      ValueError: `naive` or an lrn_k, which it has not, or as for GoogLeNet.
    """

    lrn_k: float | None = None

    def __post_init__(self):
        checks.choice(self, "naive", (False,))
        checks.choice(self, "lrn_k", (None,))
        super().__post_init__()

    def setup(self):
        conv = functools.partial(googlenet.conv_relu, dtype=self.dtype)
        self.backbone = ThinGoogLeNetBackbone(conv)
        self.head = PooledLinear(
            self.num_classes, self.dtype, self.dropout, googlenet.xavier
        )
        side_head = self.num_classes, conv, self.auxiliary_dropout, self.dtype
        self.side_heads = {
            name: googlenet.AuxiliaryHead(*side_head) for name in googlenet.AUXILIARY
        }
