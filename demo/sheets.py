"""Pictures for the page: many maps on one sheet, and maps over images, as PNGs."""

import base64
import io
import math

import numpy as np
from PIL import Image

from analysis import tiles

MOST_MAPS = 256  # on a sheet
ENOUGH, WHOLE = 96, 480  # pixels along a map and along a sheet that need no more


def url(pixels):
    """Returns uint8 [H, W, C] as the URL of a PNG that holds its own bytes."""
    file = io.BytesIO()
    image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def coloured(values, name="viridis"):
    """Colours an array of 0..1 by a colour map: uint8 [..., 3]."""
    from matplotlib import colormaps

    return colormaps[name](values, bytes=True)[..., :3]


def square(images):
    """Lays images uint8 [N, h, w, C] out in a square, with white lines between."""
    number, height, width, _ = images.shape
    return tiles.tiled(images, math.ceil(math.sqrt(number * height / width)))


def maps(values):
    """Draws maps [h, w, D] on a sheet, each from its lowest to its highest value.

    Of more than MOST_MAPS those are drawn that vary most, in the network's order. Units
    without an extent, [1, 1, D], are cells of one scale.

    Returns:
      The sheet, uint8 [H, W, 3], and how many maps it shows.
    """
    values = np.asarray(values, np.float32)
    axes = (0, 1, 2) if values.shape[:2] == (1, 1) else (0, 1)
    varied = np.argsort(-values.std((0, 1)), kind="stable")[:MOST_MAPS]
    if values.shape[:2] == (1, 1):
        varied = np.arange(values.shape[2])
    chosen = scaled(values[..., np.sort(varied)], axes)
    sheet = square(enlarged(coloured(chosen.transpose(2, 0, 1))))
    return sheet, len(varied)


def scaled(values, axes):
    """Maps values to 0..1 by their lowest and highest along `axes`."""
    low, high = (f(values, axis=axes, keepdims=True) for f in (np.min, np.max))
    return (values - low) / np.maximum(high - low, 1e-12)


def enlarged(images):
    """Repeats the pixels of small images [N, h, w, C], those of a few more often."""
    number, height, width, _ = images.shape
    side = max(height, width)
    times = max(1, min(ENOUGH // side, int(WHOLE / (side * math.sqrt(number)))))
    return images.repeat(times, 1).repeat(times, 2)


def filters(kernel):
    """Draws filters [h, w, C, K] on a sheet; C is 1 or 3."""
    return square(enlarged(tiles.filters(kernel)))


def over(image, heat):
    """Lays a map [h, w] of 0..1 over uint8 [H, W, C]; bright is much: [H', W', 3]."""
    height, width = image.shape[:2]
    times = max(1, 256 // max(height, width))
    size = width * times, height * times
    below = Image.fromarray(np.broadcast_to(image, (height, width, 3)).copy())
    above = Image.fromarray(np.float32(heat)).resize(size, Image.Resampling.BILINEAR)
    colours = coloured(np.clip(np.asarray(above), 0, 1), "inferno")
    below = np.asarray(below.resize(size, Image.Resampling.NEAREST), np.float32)
    return np.round(0.4 * below + 0.6 * colours).astype(np.uint8)
