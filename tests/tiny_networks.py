"""Networks that compile in no time, for tests to which any network will do.

Configs name them "tiny_networks:Tiny", which runs.py takes unless a test says
otherwise, and "tiny_networks:Pooled". Their convolutions are so small that they become
products of matrices: a program that calls other kernels stays out of the compilation
cache, and each test compiles it again. "tiny_networks:WithKernels" has such a call.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers, vgg


class Backbone(nn.Module):
    """A convolution and batch normalisation."""

    kernels: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        if self.kernels:
            x = layers.Conv(8, 5, 4, padding=1, name="conv1")(x)
        else:
            x = layers.Conv(8, 3, padding=1, name="conv1")(x[:, ::4, ::4])
        norm = nn.BatchNorm(not train, momentum=0.9, name="bn1")
        return {"conv1": nn.relu(norm(x))}


class Head(nn.Module):
    """Dropout and a fully connected layer, for maps of one size."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train, window=None):
        del window
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(len(x), 1, 1, -1))
        return nn.Dense(self.num_classes, name="fc")(x)


class Tiny(layers.Classifier):
    """Two layers with weights, and all kinds of state that a network may have."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = Backbone()
        self.head = Head(self.num_classes)


class WithKernels(Tiny):
    """Tiny with a convolution by a kernel of the processor at hand."""

    def setup(self):
        self.backbone = Backbone(kernels=True)
        self.head = Head(self.num_classes)


class Pooled(layers.Classifier):
    """Takes images of any size."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(layers.Conv(8, 3, padding=1)(x[:, ::4, ::4]))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class SmallVGG(layers.Classifier):
    """Two stages: a step on the last map is 4 pixels, which see 14 pixels each."""

    num_classes: int

    def setup(self):
        init = nn.initializers.glorot_uniform()
        table = ((3,), (3, 3)), (4, 8)
        self.backbone = vgg.VGGBackbone(*table, False, init, jnp.float32)
        self.head = vgg.ThreeLayers(self.num_classes, 12, 0.5, "glorot", jnp.float32)


class Block(nn.Module):
    """A convolution, batch normalisation and a convolution, as before activation."""

    features: int
    kernel: int

    @nn.compact
    def __call__(self, x, *, train):
        pad = self.kernel // 2
        y = layers.Conv(self.features, self.kernel, padding=pad, name="conv1")(x)
        y = nn.BatchNorm(not train, name="bn")(y)
        return layers.Conv(self.features, 1, padding=0, name="conv2")(y)


class StagedBackbone(nn.Module):
    """Three stages; no gradient reaches the first."""

    @nn.compact
    def __call__(self, x, *, train):
        x = jax.lax.stop_gradient(Block(2, 1, name="conv1_1")(x, train=train))
        x = Block(2, 3, name="conv2_1")(x, train=train)
        x = Block(4, 1, name="conv3_1")(x[:, ::2, ::2], train=train)
        return {"conv3": Block(4, 1, name="conv3_2")(x, train=train)}


class Staged(layers.Classifier):
    """Has stages to rematerialise, whose costs can be found by hand."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = StagedBackbone()
        self.head = layers.PooledLinear(self.num_classes, self.dtype)
