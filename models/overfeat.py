"""OverFeat: Integrated recognition, localization and detection using convolutional
networks.

Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun, 2013, https://arxiv.org/abs/1312.6229.

The fast and the accurate classification network. Slid over a larger image they give a
map of class scores: `models.class_map` at the stride of all their layers together, 32
or 36 pixels, and `OverFeat.fine_class_map` at a half or a third of it.

Differs from the paper: dropout is on the outputs of both hidden fully connected layers.
The paper's "6th and 7th" are these in the fast network; in the accurate one they are
the 7th and 8th. Dropout doubles what it keeps in training instead of halving in tests
(`alexnet`).

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kernels import ops
from models import checks
from models.alexnet import FullyConnectedHead, Layer, convolution, split
from models.layers import Classifier, MaxPool, max_pool

# Table 1. A pool's windows are disjoint.
FAST = (
    Layer("conv1", 96, kernel=11, stride=4, padding=0, pool=2),
    Layer("conv2", 256, kernel=5, padding=0, pool=2),
    Layer("conv3", 512, kernel=3, padding=1),
    Layer("conv4", 1024, kernel=3, padding=1),
    Layer("conv5", 1024, kernel=3, padding=1, pool=2),
    Layer("fc6", 3072, drop="outputs"),
    Layer("fc7", 4096, drop="outputs"),
    Layer("fc8", 1000),
)
# Table 3.
ACCURATE = (
    Layer("conv1", 96, kernel=7, stride=2, padding=0, pool=3),
    Layer("conv2", 256, kernel=7, padding=0, pool=2),
    Layer("conv3", 512, kernel=3, padding=1),
    Layer("conv4", 512, kernel=3, padding=1),
    Layer("conv5", 1024, kernel=3, padding=1),
    Layer("conv6", 1024, kernel=3, padding=1, pool=3),
    Layer("fc7", 4096, drop="outputs"),
    Layer("fc8", 4096, drop="outputs"),
    Layer("fc9", 1000),
)
VARIANTS = {"overfeat_fast": FAST, "overfeat_accurate": ACCURATE}


class OverFeatBackbone(nn.Module):
    """The convolutional layers: [B, H, W, C] to a dict of the stages' outputs."""

    rows: tuple
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for row in self.rows:
            conv = convolution(row, x.shape[1:3], self.dtype)
            x = stages[row.name] = ops.relu(conv(x))
            if row.pool:
                name = row.name.replace("conv", "pool")
                x = stages[name] = MaxPool(row.pool, row.pool, name=name)(x)
        return stages


class OverFeat(Classifier):
    """The networks of `VARIANTS`: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: an unknown variant, or a dropout outside [0, 1).
    """

    num_classes: int
    variant: str = "overfeat_fast"
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        checks.choice(self, "variant", VARIANTS)
        checks.rates(self, "dropout")
        super().__post_init__()

    def setup(self):
        convolutions, fully_connected = split(VARIANTS[self.variant])
        self.backbone = OverFeatBackbone(convolutions, self.dtype)
        self.head = FullyConnectedHead(
            self.num_classes, fully_connected, self.dropout, dtype=self.dtype
        )

    def fine_class_map(self, x):
        """Images [B, H, W, C] to class scores [B, h, w, K] at the fine stride, in
        evaluation.

        Section 3.3 and Figure 3: the last pool runs once at each offset (dy, dx), the
        fully connected layers slide over each pooled map, and the maps of scores are
        interleaved. The score at (y, x) comes from offset (y mod s, x mod s), for the
        part of the unpooled map that starts at (y, x). The offsets are {0, 1, 2} for
        the accurate network, which pools 3x3 as in the paper's example, and {0, 1} for
        the fast one, s = 2: its offset 2 would be the next window of offset 0.

        Every s-th score is also in `class_map`. Some offsets may have more windows than
        others (the accurate network's do not at the sizes of Table 5, which were
        chosen to avoid it); all are kept.
        """
        *_, unpooled, _ = self.backbone(x, train=False).values()
        step = split(VARIANTS[self.variant])[0][-1].pool
        offsets = range(step)
        maps = [
            [
                self.head(max_pool(unpooled[:, dy:, dx:], step, step), train=False)
                for dx in offsets
            ]
            for dy in offsets
        ]
        first = maps[0][0]
        height = sum(maps[dy][0].shape[1] for dy in offsets)
        width = sum(maps[0][dx].shape[2] for dx in offsets)
        if 0 in (height, width):
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small: the fully "
                "connected layers fit nowhere"
            )
        scores = jnp.zeros((len(x), height, width, self.num_classes), first.dtype)
        for dy in offsets:
            for dx in offsets:
                scores = scores.at[:, dy::step, dx::step].set(maps[dy][dx])
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


MODELS = {name: functools.partial(OverFeat, variant=name) for name in VARIANTS}
