"""FractalNet (Larsson, Maire, Shakhnarovich, 2016), https://arxiv.org/abs/1605.07648.

The networks for CIFAR, wide (`fractalnet`) and of depth 5 to 160, and the one for
ImageNet (`fractalnet_34`). A block grows by the expansion rule of Section 3,

    f_1(z) = conv(z),  f_{C+1}(z) = f_C(f_C(z)) (+) conv(z),

where the join (+) is the mean of all paths that meet; adjacent joins merge into one. So
a block of C columns has 2^C - 1 convolutions, and 2^(C-1) on its longest path. As in
the authors' generator, the end of a block pools each column first and then joins them.

Drop-path (Section 3.1) draws once for a whole batch, and half of the batches follow
each rule. Local: every join drops its inputs with probability `drop_path` but keeps at
least one. Global: one column is chosen, and all joins of the network pass on only that
one. A `drop_path` of 0 turns both off.

Differs from the paper: all columns are computed whatever drop-path keeps, so a column's
batch statistics move with every batch, even when nothing depends on the column. In
global sampling, a join that the chosen column does not pass takes all its inputs. The
weight of old batch statistics is 0.99; Caffe's is 0.999 with a correction for the first
steps. `fractalnet_34` pools between its four blocks and not after the last, where
ResNet-34 has its average: our reading of "first and last layers of ResNet-34".

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import checks
from models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    Dropout,
    FullyConnected,
    MaxPool,
    PooledLinear,
)
from models.resnet import conv_and_norm

# Section 4: channels of the five blocks; then those of the comparison of depths.
CHANNELS = (64, 128, 256, 512, 512)
THIN_CHANNELS = (16, 32, 64, 128, 128)
IMAGENET_CHANNELS = (128, 256, 512, 1024)
# Section 4: the rate of dropout in each block.
DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.4)

# Caffe's "xavier": uniform with variance 1 / n, n the inputs of a unit.
xavier = nn.initializers.lecun_uniform()


class ConvUnit(nn.Module):
    """Convolution, dropout, batch normalisation without scale and shift, ReLU."""

    features: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        conv = functools.partial(Conv, padding=1, kernel_init=xavier, dtype=self.dtype)
        x = conv(self.features, 3, name="conv")(x)
        x = Dropout(self.dropout, deterministic=not train)(x)
        x = BatchNorm(
            use_running_average=not train,
            momentum=0.99,
            epsilon=1e-5,
            use_bias=False,
            use_scale=False,
            dtype=self.dtype,
            name="bn",
        )(x)
        return nn.relu(x)


class Join(nn.Module):
    """The mean of those inputs, listed by column, that drop-path keeps.

    `first` is the column of the first input. `chosen`, an integer that may be traced,
    is the column of global sampling, or 0 for local sampling; None keeps all inputs.
    """

    drop_path: float

    @nn.compact
    def __call__(self, inputs, *, first, chosen):
        if chosen is None:
            return sum(inputs[1:], inputs[0]) / len(inputs)
        key = self.make_rng("dropout")
        local = local_sample(key, len(inputs), self.drop_path)
        keep = jnp.where(chosen == 0, local, global_sample(chosen - first, len(inputs)))
        weights = (keep / keep.sum()).astype(inputs[0].dtype)
        return sum(w * x for w, x in zip(weights, inputs, strict=True))


def local_sample(key, number, rate):
    """Draws which of a join's inputs it keeps, boolean [number], at least one."""
    drop, survivor = jax.random.split(key)
    keep = jax.random.bernoulli(drop, 1 - rate, (number,))
    return keep | (~keep.any() & one_hot(_any(survivor, number), number))


def global_sample(chosen, number):
    """Keeps the chosen one of a join's inputs, or all if it is none of them."""
    keep = one_hot(chosen, number)
    return keep | ~keep.any()


def one_hot(index, number):
    return jnp.arange(number) == index


def _any(key, number):
    return jax.random.randint(key, (), 0, number)


def sample_column(key, columns):
    """Draws global sampling's column, from 1, or with probability 1/2 a 0: local."""
    mode, column = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(mode), 1 + _any(column, columns), 0)


class FractalBlock(nn.Module):
    """Figure 1: columns 1 (of one convolution) to C (of 2^(C-1)), pooled and joined.

    Convolution j of column c is `column{c}_{j}`. With `column`, the block is that
    column alone, a chain. `chosen` is that of `Join`.
    """

    columns: int
    features: int
    dropout: float
    drop_path: float
    pool: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, column=None, chosen=None):
        deepest = self.columns
        length = 2 ** (deepest - 1)
        columns = range(1, deepest + 1) if column is None else [column]
        at = dict.fromkeys(columns, x)
        for step in range(1, length + 1):
            # Column c has a convolution every 2^(C-c) steps.
            ending = [c for c in columns if step % 2 ** (deepest - c) == 0]
            for c in ending:
                unit = ConvUnit(
                    self.features,
                    self.dropout,
                    self.dtype,
                    name=f"column{c}_{step // 2 ** (deepest - c)}",
                )
                at[c] = unit(at[c], train=train)
            if step == length and self.pool:
                for c in ending:
                    at[c] = MaxPool(2, 2, name=f"pool{c}")(at[c])
            if len(ending) > 1:
                join = Join(self.drop_path, name=f"join{step}")
                inputs = [at[c] for c in ending]
                joined = join(inputs, first=ending[0], chosen=chosen)
                at.update(dict.fromkeys(ending, joined))
        return at[columns[-1]]


class FractalBackbone(nn.Module):
    """The blocks: [B, H, W, C] to a dict of their outputs.

    Each block ends in a pool. With `stem` the blocks follow ResNet's first layer, and
    the last one has no pool.
    """

    columns: int
    channels: tuple
    dropout: tuple
    drop_path: float
    stem: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, column=None):
        chosen = None
        if train and self.drop_path and self.columns > 1 and column is None:
            chosen = sample_column(self.make_rng("dropout"), self.columns)
        stages = {}
        if self.stem:
            conv, norm = conv_and_norm(self.dtype, train)
            x = conv(64, 7, 2, padding=3, name="conv1")(x)
            x = stages["conv1"] = nn.relu(norm(name="bn1")(x))
            x = stages["pool1"] = MaxPool(3, 2, 1, name="pool1")(x)
        for i, features in enumerate(self.channels, start=1):
            block = FractalBlock(
                self.columns,
                features,
                self.dropout[i - 1],
                self.drop_path,
                pool=not self.stem or i < len(self.channels),
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = block(x, train=train, column=column, chosen=chosen)
            stages[f"block{i}"] = x
        return stages


class Linear(nn.Module):
    """The head for CIFAR: "fc" on the whole map, a single pixel for 32x32 images."""

    num_classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del train, window
        return FullyConnected(self.num_classes, self.dtype, xavier, name="fc")(x)


class FractalNet(Classifier):
    """The networks for CIFAR: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: columns below 1, channels that are not a positive integer for each
        block, a dropout that is not a rate in [0, 1) for each block, or a drop_path
        outside [0, 1).
    """

    num_classes: int
    columns: int = 3
    channels: tuple = CHANNELS
    dropout: tuple = DROPOUT
    drop_path: float = 0.15
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.at_least(self, 1, "columns")
        check_blocks(self)
        checks.rates(self, "drop_path")
        super().__post_init__()

    def setup(self):
        self.backbone = FractalBackbone(
            *(self.columns, self.channels, self.dropout, self.drop_path),
            stem=False,
            dtype=self.dtype,
        )
        self.head = Linear(self.num_classes, self.dtype)

    def deepest_column(self, x):
        """Images [B, H, W, C] to the logits of the deepest column alone (Section 4).

        It uses the parameters of the whole network, in evaluation mode.
        """
        stages = self.backbone(x, train=False, column=self.columns)
        scores = self.head(list(stages.values())[-1], train=False)[:, 0, 0]
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


class ImageNetFractalNet(FractalNet):
    """FractalNet-34: ResNet-34's first and last layers around four blocks.

    Raises:
      ValueError: as `FractalNet`.
    """

    columns: int = 4
    channels: tuple = IMAGENET_CHANNELS
    dropout: tuple = (0.0, 0.0, 0.0, 0.0)

    def setup(self):
        self.backbone = FractalBackbone(
            *(self.columns, self.channels, self.dropout, self.drop_path),
            stem=True,
            dtype=self.dtype,
        )
        self.head = PooledLinear(self.num_classes, self.dtype)


def check_blocks(network):
    """Raises ValueError unless each block has its channels and its rate of dropout."""
    channels, rates = network.channels, network.dropout
    if not (
        isinstance(channels, tuple | list)
        and channels
        and all(isinstance(n, int) and n > 0 for n in channels)
    ):
        raise ValueError(f"channels {channels!r} are not positive numbers, one a block")
    if not (
        isinstance(rates, tuple | list)
        and len(rates) == len(channels)
        and all(map(checks.is_rate, rates))
    ):
        raise ValueError(
            f"dropout {rates!r} is not in [0, 1) for each of {len(channels)} blocks"
        )


MODELS = {
    "fractalnet": FractalNet,
    # Five blocks of 1 to 6 columns, named by their depth.
    **{
        f"fractalnet_{5 * 2 ** (c - 1)}": functools.partial(
            FractalNet, columns=c, channels=THIN_CHANNELS
        )
        for c in range(1, 7)
    },
    "fractalnet_34": functools.partial(
        ImageNetFractalNet, columns=4, channels=IMAGENET_CHANNELS
    ),
}
