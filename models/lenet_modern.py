"""What libraries call LeNet-5, which is not the paper's network (models/lenet.py).

Pooling has no parameters, C3 sees all maps of S2, and the output is linear, for softmax
cross-entropy: 61,706 parameters for 28x28x1 images and ten classes.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import flax.linen as nn
import jax.numpy as jnp

from models import checks
from models.layers import Classifier, Conv, FullyConnected, avg_pool, max_pool

ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}
POOLS = {"max": max_pool, "avg": avg_pool}


class LeNet5ModernBackbone(nn.Module):
    """C1 to F6 with pooling: [B, 28 or 32, 28 or 32, C] to outputs by layer name.

    C1 pads smaller images to 32x32; C5 slides over larger ones.
    """

    activation: str
    pool: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        del train  # Nothing here differs between training and evaluation.
        activation = ACTIVATIONS[self.activation]
        pool = POOLS[self.pool]
        padding = max(0, 32 - x.shape[1]) // 2
        out = {}
        x = Conv(6, (5, 5), padding=padding, dtype=self.dtype, name="C1")(x)
        x = out["C1"] = activation(x)
        x = out["S2"] = pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
        x = Conv(16, (5, 5), padding=0, dtype=self.dtype, name="C3")(x)
        x = out["C3"] = activation(x)
        x = out["S4"] = pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
        x = out["C5"] = activation(FullyConnected(120, self.dtype, name="C5")(x))
        out["F6"] = activation(nn.Dense(84, dtype=self.dtype, name="F6")(x))
        return out


class LeNet5Modern(Classifier):
    """LeNet-5 as libraries have it: images [B, 28 or 32, 28 or 32, C] to logits [B, K].

    C1 pads images of 28x28 by 2 and leaves those of 32x32 as they are.

    Raises:
      ValueError: an unknown activation or pool or, when called, another image size.
    """

    num_classes: int
    activation: str = "relu"
    pool: str = "max"
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "pool", POOLS)
        super().__post_init__()

    def setup(self):
        self.backbone = LeNet5ModernBackbone(self.activation, self.pool, self.dtype)
        self.output = nn.Dense(self.num_classes, dtype=self.dtype)

    def __call__(self, x, *, train):
        if x.shape[1:3] not in ((28, 28), (32, 32)):
            raise ValueError(
                f"lenet5_modern takes images of 28x28 or 32x32, not "
                f"{x.shape[1]}x{x.shape[2]}"
            )
        return super().__call__(x, train=train)

    def class_map(self, x, *, train, window=None):
        del window  # C5's is the size of its kernel.
        x = self.output(self.backbone(x, train=train)["F6"])
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


MODELS = {"lenet5_modern": LeNet5Modern}
