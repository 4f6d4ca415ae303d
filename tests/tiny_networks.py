"""Networks that compile in no time, for tests to which any network will do.

The fixture `tiny_network` (conftest.py) gives them their names, "tiny" and "pooled".
"""

import flax.linen as nn
import jax.numpy as jnp

from models import layers


class Tiny(layers.Classifier):
    """A convolution, batch normalisation and dropout."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = layers.Conv(8, 5, 4, padding=1)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(x)


class Pooled(layers.Classifier):
    """Takes images of any size."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(layers.Conv(8, 5, 4, padding=1)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))
