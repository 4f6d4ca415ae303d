"""ZFNet: Visualizing and understanding convolutional networks.

Zeiler, Fergus, 2013, https://arxiv.org/abs/1311.2901.

AlexNet with a smaller kernel and stride in conv1, which its visualisation suggested,
and without groups.

Differs from the paper, or is open in it: pads are not printed; conv1 has the one that
gives Figure 3's 110x110 maps, and pools count a last window that sticks out, which
gives 55, 13 and 6. The contrast normalisation across maps has AlexNet's local response
normalisation's parameters. That each filter with a root mean square over 0.1 is scaled
back to 0.1 during training (Section 3.1) is the optimizer's (config.optimizer).
Dropout doubles what it keeps in training instead of halving in tests (`alexnet`).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from models.alexnet import FullyConnectedHead, check_dropout, gaussian
from models.layers import Classifier, Conv, LocalResponseNorm, MaxPool

# Figure 3: kernel, stride and padding of conv1 to conv5.
CONVOLUTIONS = ((7, 2, 1), (5, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1))
# Their maps: Figure 3, and model (b) of Table 2.
MAPS = {
    "zfnet": (96, 256, 384, 384, 256),
    "zfnet_b": (96, 256, 512, 1024, 512),
}


class ZFNetBackbone(nn.Module):
    """conv1 to pool5: [B, H, W, C] to a dict of the stages' outputs."""

    maps: tuple
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for i, (maps, shape) in enumerate(zip(self.maps, CONVOLUTIONS, strict=True), 1):
            conv = Conv(
                maps, *shape, kernel_init=gaussian, dtype=self.dtype, name=f"conv{i}"
            )
            x = stages[f"conv{i}"] = nn.relu(conv(x))
            if i in (1, 2, 5):
                x = MaxPool(3, 2, ceil=True, name=f"pool{i}")(x)
                stages[f"pool{i}"] = x
            if i in (1, 2):
                x = LocalResponseNorm(name=f"norm{i}")(x)
        return stages


class ZFNet(Classifier):
    """The networks of `MAPS`: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a dropout outside [0, 1).
    """

    num_classes: int
    variant: str = "zfnet"
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        check_dropout(self.dropout)
        self.backbone = ZFNetBackbone(MAPS[self.variant], self.dtype)
        self.head = FullyConnectedHead(
            self.num_classes, (4096, 4096), self.dropout, self.dtype
        )


MODELS = {name: functools.partial(ZFNet, variant=name) for name in MAPS}
