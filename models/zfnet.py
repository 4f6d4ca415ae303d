"""ZFNet: Visualizing and understanding convolutional networks.

Zeiler, Fergus, 2013, https://arxiv.org/abs/1311.2901.

AlexNet without groups and with a smaller kernel and stride in conv1, which the authors
chose after visualising its features.

Differs from the paper, or is open in it: the paper prints no padding; conv1 has the one
that gives Figure 3's 110x110 maps, and pools count a last window that sticks out, which
gives 55, 13 and 6. The contrast normalisation across maps has the parameters of
AlexNet's local response normalisation. During training, Section 3.1 scales each filter
whose root mean square exceeds 0.1 back to 0.1; the optimizer does that
(config.optimizer). Dropout doubles what it keeps in training instead of halving in
tests (`alexnet`).

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.alexnet import FullyConnectedHead, Layer, convolution, split
from models.layers import Classifier, LocalResponseNorm, MaxPool

# Figure 3. The normalisation comes after the pool here.
ZFNET = (
    Layer("conv1", 96, kernel=7, stride=2, padding=1, pool=3, lrn=True),
    Layer("conv2", 256, kernel=5, stride=2, padding=0, pool=3, lrn=True),
    Layer("conv3", 384, kernel=3, padding=1),
    Layer("conv4", 384, kernel=3, padding=1),
    Layer("conv5", 256, kernel=3, padding=1, pool=3),
    Layer("fc6", 4096, drop="outputs"),
    Layer("fc7", 4096, drop="outputs"),
    Layer("fc8", 1000),
)
# Table 2, model (b): more maps in conv3 to conv5.
WIDER = {"conv3": 512, "conv4": 1024, "conv5": 512}
VARIANTS = {
    "zfnet": ZFNET,
    "zfnet_b": tuple(row._replace(maps=WIDER.get(row.name, row.maps)) for row in ZFNET),
}


class ZFNetBackbone(nn.Module):
    """conv1 to pool5: [B, H, W, C] to a dict of the stages' outputs."""

    rows: tuple
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for row in self.rows:
            number = row.name.removeprefix("conv")
            conv = convolution(row, x.shape[1:3], self.dtype)
            x = stages[row.name] = ops.relu(conv(x))
            if row.pool:
                x = MaxPool(row.pool, 2, ceil=True, name=f"pool{number}")(x)
                stages[f"pool{number}"] = x
            if row.lrn:
                x = LocalResponseNorm(name=f"norm{number}")(x)
        return stages


class ZFNet(Classifier):
    """The networks of `VARIANTS`: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: an unknown variant, or a dropout outside [0, 1).
    """

    num_classes: int
    variant: str = "zfnet"
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "variant", VARIANTS)
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        convolutions, fully_connected = split(VARIANTS[self.variant])
        self.backbone = ZFNetBackbone(convolutions, self.dtype)
        self.head = FullyConnectedHead(
            self.num_classes, fully_connected, self.dropout, dtype=self.dtype
        )


MODELS = {name: functools.partial(ZFNet, variant=name) for name in VARIANTS}
