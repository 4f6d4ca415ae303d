"""A network slid over a large image gives many windows' scores for the price of few.

Articles (Stanford's notes on convolutional networks among them) turn fully connected
layers into convolutions: an image of 384x384 pixels then gives 6x6 positions of class
scores, which they call identical to the scores of 36 windows of 224x224 at steps of 32,
for the price of about one. VGG's Section 3.2 tests its networks in this way.

Here the network is VGG-16 with random weights. Two things are equal to rounding, and
the rule asks for 1e-4 of the largest number: each position's scores and those of the
head on its 7x7 part of the last map; and what is left of the last map of each window
where padding does not reach, which is the unit in its middle (its receptive field has
212 pixels, its neighbours' overlap the edge). But the scores of windows that were cut
out first are others, because convolutions pad each of them with zeros; `cut out` says
how far. The rule also asks that 36 windows cost ten times as much as the large image.
Multiply-adds decide; the times are medians in turn.
"""

from functools import partial

import jax
import jax.numpy as jnp

import models
from claims.harness import costs, intervals, pictures
from comparison import counting
from kernels import ops

CLAIM = "A map of 6x6 scores on 384x384 pixels costs a tenth of its 36 windows"
SOURCE = "VGG (2014), Section 3.2, and articles"
STATED = "identical scores, the price of one"
MINUTES = {"small": 4}
SIZE, LARGER, STRIDE = 224, 384, 32
CLOSE = 1e-4


def measure():
    model = models.create("vgg16", num_classes=1000)
    return compare(model, SIZE, LARGER, STRIDE, edge=3)


def compare(model, size, larger, stride, edge):
    """Slides a network over a large image, and over its windows one by one.

    Args:
      model: a network without batch normalisation, whose head begins with a layer that
        sees the whole map.
      size: the side of a window, at which the network is initialised.
      larger: the side of the image.
      stride: pixels between windows, as between units of the last map.
      edge: so many units on each side of a window's last map see padding.
    """
    key = jax.random.key(0)
    image = jax.random.normal(key, (1, larger, larger, 3))
    options = ops.compiler_options(jax.default_backend())
    jit = partial(jax.jit, compiler_options=options)
    init = jit(partial(model.init, train=False))
    variables = init(key, image[:, :size, :size])
    logits = jit(partial(model.apply, train=False))
    features = jit(partial(model.apply, method="features"))
    head = jit(partial(model.apply, method=_head))
    slide = jit(partial(models.class_map, model, image_size=size))

    scores = slide(variables, image)
    count = scores.shape[1]
    rows = _windows(image, size, stride, count)  # of pixels
    window = size // stride
    parts = _windows(features(variables, image), window, 1, count)  # of the last map
    scores = scores.reshape(count, count, -1)
    inner = slice(edge, window - edge)

    cut_out = jnp.stack([logits(variables, row) for row in rows])
    by_parts = jnp.stack([head(variables, row) for row in parts])
    maps = jnp.stack([features(variables, row) for row in rows])
    return {
        "positions": f"{count}x{count}",
        "differences": {
            "head on parts of the map": _difference(scores, by_parts),
            "maps within": _difference(
                jnp.stack(parts)[..., inner, inner, :], maps[..., inner, inner, :]
            ),
            "cut out": _difference(scores, cut_out),
        },
        "multiply_adds": multiply_adds(model, size, larger, count**2),
        "seconds": costs.seconds(
            {
                "windows": lambda: [logits(variables, row) for row in rows],
                "slid": lambda: slide(variables, image),
                "one window": lambda: logits(variables, rows[0][:1]),
            },
            rounds=3,
        ),
    }


def _head(model, part):
    return model.head(part, train=False)[:, 0, 0]


def _windows(x, size, stride, count):
    """The windows of an image [1, H, W, C]: for each row of them [count, h, w, C]."""
    starts = [stride * number for number in range(count)]
    return [
        jnp.concatenate([x[:, y : y + size, z : z + size] for z in starts])
        for y in starts
    ]


def _difference(a, b):
    """The largest difference, as a share of the largest number."""
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


def multiply_adds(model, size, larger, positions):
    """Multiply-adds of all windows, of the network slid once, and of one window."""
    rows = counting.layers(model, (size, size, 3))
    one = sum(row.multiply_adds for row in rows)
    head = sum(row.multiply_adds for row in rows if row.kind != "Conv")
    convolutions = sum(
        row.multiply_adds
        for row in counting.layers(model, (larger, larger, 3))
        if row.kind == "Conv"
    )
    return {
        "windows": positions * one,
        "slid": convolutions + positions * head,
        "one window": one,
    }


def verdict(numbers):
    differences, products = numbers["differences"], numbers["multiply_adds"]
    equal = max(differences["head on parts of the map"], differences["maps within"])
    gain = products["windows"] / products["slid"]
    price = products["slid"] / products["one window"]
    holds = numbers["positions"] == "6x6" and equal <= CLOSE and gain >= 10
    seconds = numbers["seconds"]
    return intervals.Verdict(
        intervals.ARITHMETIC if holds else intervals.CONTRADICTED,
        f"there are {numbers['positions']} positions, equal to {equal:.0e} where "
        f"padding does not reach, and windows that are cut out differ by "
        f"{differences['cut out']:.0e}; all windows cost {gain:.1f} times the large "
        f"image, which costs {price:.1f} windows; "
        f"{seconds['windows'] / seconds['slid']:.1f} and "
        f"{seconds['slid'] / seconds['one window']:.1f} times in seconds",
        f"{gain:.1f} times cheaper, {price:.1f} windows",
    )


def figure(figure, numbers):
    billions = {name: n / 1e9 for name, n in numbers["multiply_adds"].items()}
    axes = pictures.bar_axes(figure, billions, "10^9 multiply-adds")
    axes.set_title("All windows of 384x384 pixels, and the network slid over them")
