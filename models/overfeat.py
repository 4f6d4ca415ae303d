"""OverFeat: Integrated recognition, localization and detection using convolutional
networks.

Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun, 2013, https://arxiv.org/abs/1312.6229.

The fast and the accurate network that classify. Slid over a larger image they give a
map of class scores, with `models.class_map` at the stride of all their layers, 32 or 36
pixels, and with `OverFeat.fine_class_map` at half or a third of it.

Differs from the paper: dropout is on the outputs of all hidden fully connected layers;
the paper's "6th and 7th" are these in the fast network, and 7th and 8th in the accurate
one. It doubles what it keeps in training instead of halving in tests (`alexnet`).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from models.alexnet import FullyConnectedHead, check_dropout, gaussian
from models.layers import Classifier, Conv, MaxPool, max_pool

# Tables 1 and 3: maps, kernel, stride and padding of a convolution; window and stride
# of the max pooling after it, 0 where there is none.
CONVOLUTIONS = {
    "overfeat_fast": (
        ((96, 11, 4, 0), 2),
        ((256, 5, 1, 0), 2),
        ((512, 3, 1, 1), 0),
        ((1024, 3, 1, 1), 0),
        ((1024, 3, 1, 1), 2),
    ),
    "overfeat_accurate": (
        ((96, 7, 2, 0), 3),
        ((256, 7, 1, 0), 2),
        ((512, 3, 1, 1), 0),
        ((512, 3, 1, 1), 0),
        ((1024, 3, 1, 1), 0),
        ((1024, 3, 1, 1), 3),
    ),
}
# Units of the two fully connected layers ahead of the output.
UNITS = {"overfeat_fast": (3072, 4096), "overfeat_accurate": (4096, 4096)}


class OverFeatBackbone(nn.Module):
    """The convolutional layers: [B, H, W, C] to a dict of the stages' outputs."""

    convolutions: tuple
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train):
        del train
        stages = {}
        for i, (shape, pool) in enumerate(self.convolutions, 1):
            conv = Conv(*shape, kernel_init=gaussian, dtype=self.dtype, name=f"conv{i}")
            x = stages[f"conv{i}"] = nn.relu(conv(x))
            if pool:
                x = stages[f"pool{i}"] = MaxPool(pool, pool, name=f"pool{i}")(x)
        return stages


class OverFeat(Classifier):
    """The networks of `CONVOLUTIONS`: images [B, H, W, C] to logits [B, K].

    Raises:
      ValueError: a dropout outside [0, 1).
    """

    num_classes: int
    variant: str = "overfeat_fast"
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        check_dropout(self.dropout)
        convolutions = CONVOLUTIONS[self.variant]
        self.backbone = OverFeatBackbone(convolutions, self.dtype)
        self.head = FullyConnectedHead(
            self.num_classes,
            UNITS[self.variant],
            self.dropout,
            self.dtype,
            first=len(convolutions) + 1,
        )

    def fine_class_map(self, x):
        """Images [B, H, W, C] to class scores [B, h, w, K] at the fine stride, in
        evaluation.

        Section 3.3 and Figure 3: the last pooling is done at each offset (dy, dx), the
        fully connected layers slide over each pooled map, and the maps of scores are
        interleaved: at (y, x) are those of offset (y mod s, x mod s), of the part of
        the unpooled map that starts at (y, x). Offsets are {0, 1, 2} for the accurate
        network, which pools 3x3 as in the paper's example, and {0, 1} for the fast one,
        s = 2: its offset 2 would be the next window of offset 0.

        Every s-th score is one of `class_map`. Where offsets do not all have equally
        many windows (the sizes of Table 5 are chosen so that they have), all are kept.
        """
        *_, unpooled, _ = self.backbone(x, train=False).values()
        _, step = CONVOLUTIONS[self.variant][-1]
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


MODELS = {name: functools.partial(OverFeat, variant=name) for name in CONVOLUTIONS}
