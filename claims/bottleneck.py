"""A bottleneck has a seventeenth of the weights of two 3x3 layers of the same width.

ResNet's Section 3.3 and Figure 5 replace two 3x3 layers by 1x1, 3x3 and 1x1 layers, the
first of which narrows 256 maps to 64. Articles count 1,179,648 weights for two 3x3
layers of 256 maps, 69,632 for the bottleneck: 16.94 times.

This is arithmetic, which `comparison` counts from the layers themselves. The paper's
own comparison is another one: the bottleneck costs about as much as two 3x3 layers of
64 maps, 73,728 weights.
"""

import flax.linen as nn

from claims.harness import intervals, pictures
from comparison import counting
from models.layers import Conv

CLAIM = "A bottleneck of 256 maps has 16.94 times fewer weights than two 3x3 layers"
SOURCE = "ResNet (2015), Section 3.3 and Figure 5"
STATED = "1,179,648 and 69,632"
MINUTES = {"small": 0.1}
LAYERS = {
    "two 3x3 of 256": ((256, 3), (256, 3)),
    "bottleneck": ((64, 1), (64, 3), (256, 1)),
    "two 3x3 of 64": ((64, 3), (64, 3)),
}


class Layers(nn.Module):
    """Convolutions (maps, kernel) in turn."""

    shapes: tuple

    @nn.compact
    def __call__(self, x, *, train):
        del train
        for maps, kernel in self.shapes:
            x = Conv(maps, kernel, padding=kernel // 2, use_bias=False)(x)
        return x


def measure():
    weights, products = {}, {}
    for name, shapes in LAYERS.items():
        maps = 64 if name == "two 3x3 of 64" else 256
        found = counting.count(Layers(shapes), (56, 56, maps))
        weights[name], products[name] = found.parameters, found.multiply_adds
    ratio = weights["two 3x3 of 256"] / weights["bottleneck"]
    return {
        "weights": weights,
        "multiply_adds": products,
        "ratio": ratio,
    }


def verdict(numbers):
    wide, narrow = (numbers["weights"][n] for n in ("two 3x3 of 256", "bottleneck"))
    as_stated = (wide, narrow) == (1_179_648, 69_632)
    return intervals.Verdict(
        intervals.ARITHMETIC if as_stated else intervals.CONTRADICTED,
        f"the weights are {wide:,} and {narrow:,}, {numbers['ratio']:.2f} to 1",
        f"{wide:,} and {narrow:,}",
    )


def figure(figure, numbers):
    axes = pictures.bar_axes(figure, numbers["weights"], "weights")
    axes.set_title("A bottleneck costs about as much as two narrow layers")
