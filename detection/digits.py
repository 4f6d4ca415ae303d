"""MNIST's digits on canvases: a set of objects that is made when it is opened.

A canvas, 128x128 grey pixels on black, has 1 to 5 digits. Each is cut to its ink,
resized so that its longer side has 20 to 56 pixels, and put at a random place where its
box and any box before share at most a tenth of the smaller one's area. So digits may
touch but hardly hide each other. A digit for which 50 places are refused is left out.
The ink of two digits is joined by its maximum.

A canvas is a function of (split, seed, index). Those of "train" show training digits,
and those of "test" show test digits.
"""

import functools

import numpy as np

import data_source
from data_source import DataError, tfds_directory
from detection import records
from detection.split import Split
from transforms import resizing

SIZES = {"train": 4_000, "test": 500}  # canvases
SIDE = 128
MOST, SIDES = 5, (20, 56)
INK = 64  # the lowest level that counts as ink
HIDDEN, TRIES = 0.1, 50
NAMES = tuple("0123456789")


def open_split(split):
    """Opens all canvases of "train" or "test"; 4,000 take a few seconds."""
    if split not in SIZES:
        raise DataError(f"'digits' has no split {split!r}: it has {', '.join(SIZES)}")
    found = [canvas(split, index) for index in range(SIZES[split])]
    images = tuple(functools.partial(np.asarray, pixels) for pixels, _ in found)
    objects = tuple(one for _, one in found)
    return Split("digits", split, NAMES, objects, images, channels=1)


def canvas(split, index, seed=0):
    """Returns a canvas, uint8 [128, 128, 1], and its `records.Objects`."""
    digits, labels = _mnist(split)
    rng = np.random.default_rng((seed, list(SIZES).index(split), index))
    pixels = np.zeros((SIDE, SIDE, 1), np.uint8)
    boxes, rows = np.zeros((0, 4), int), []
    for _ in range(rng.integers(1, MOST + 1)):
        number, side = rng.integers(len(digits)), rng.integers(SIDES[0], SIDES[1] + 1)
        digit = _resized(digits[number], side)
        box = _place(rng, digit.shape[:2], boxes)
        if box is None:
            continue
        x1, y1, x2, y2 = box.tolist()
        pixels[y1:y2, x1:x2] = np.maximum(pixels[y1:y2, x1:x2], digit)
        boxes = np.concatenate([boxes, box[None]])
        name = f"{split} canvas {index}, digit {len(boxes)}"
        box = x1, y1, x2, y2
        rows.append(records.Row(name, box, box, int(labels[number])))
    name = f"digits, {split}, canvas {index}"
    size = SIDE, SIDE
    return pixels, records.objects(name, index + 1, size, rows, records.Damage())


@functools.cache
def _mnist(split):
    place = tfds_directory.EMBEDDED
    return data_source.open_split("mnist", split, data_dir=place).arrays()


def _resized(digit, side):
    """Returns a digit's ink with the longer side of about `side` pixels."""
    digit = _cut(digit)
    scale = side / max(digit.shape)
    height, width = (max(1, round(scale * n)) for n in digit.shape[:2])
    return _cut(resizing.resize(digit, height, width))


def _cut(digit):
    """Returns the rows and columns from the first ink to the last."""
    rows, columns = (np.flatnonzero((digit >= INK).any((axis, 2))) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(rng, size, boxes):
    """Returns a box int [4] for a digit of `size` beside the boxes, or None."""
    height, width = size
    tries = rng.integers((SIDE - width + 1, SIDE - height + 1), size=(TRIES, 2))
    found = np.concatenate([tries, tries + [width, height]], 1)
    low, high = (
        np.maximum(found[:, None, :2], boxes[:, :2]),
        np.minimum(found[:, None, 2:], boxes[:, 2:]),
    )
    shared = np.maximum(high - low, 0).prod(2)
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(1), height * width)
    free = np.flatnonzero((shared <= HIDDEN * smaller).all(1))
    return found[free[0]] if len(free) else None
