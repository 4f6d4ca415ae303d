"""What a network is shown of an image: rescaled, cropped, always antialiased.

Images are uint8 [H, W, C]; sizes are pixels; `rng` is a numpy Generator that belongs to
the example. Interpolations: nearest, bilinear, bicubic, lanczos, box, and for training
"random", one of bilinear, bicubic, lanczos and box.
"""

import numpy as np
from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")


def resize(image, height, width, interpolation="bilinear", box=None):
    """`image`, or its part box (top, left, height, width; floats), in another size."""
    squeezed = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    if box is not None:
        top, left, rows, columns = box
        box = (left, top, left + columns, top + rows)
    method = Image.Resampling[interpolation.upper()]
    resized = squeezed.resize((width, height), method, box=box)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def rescaled_size(height, width, short_side):
    """(height, width) with the shorter one `short_side`, the longer rounded down."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def rescale(image, short_side, interpolation="bilinear"):
    """The whole image, its shorter side `short_side` pixels."""
    size = rescaled_size(*image.shape[:2], short_side)
    return resize(image, *size, interpolation)


def center_crop(image, size, short_side, interpolation="bilinear"):
    """The middle [size, size, C] of the rescaled image."""
    image = rescale(image, short_side, interpolation)
    top = round((image.shape[0] - size) / 2)
    left = round((image.shape[1] - size) / 2)
    return image[top : top + size, left : left + size]


def rescale_crop(image, rng, size, short_side, interpolation="bilinear"):
    """A random [size, size, C] of the image rescaled to a short side in [low, high].

    Scale jitter of VGG (2014, Section 3.1), [256, 512], and ResNet (2015, Section 3.4),
    [256, 480]; AlexNet with (256, 256).
    """
    low, high = short_side
    image = rescale(image, int(rng.integers(low, high + 1)), interpolation)
    top = rng.integers(image.shape[0] - size + 1)
    left = rng.integers(image.shape[1] - size + 1)
    return image[top : top + size, left : left + size]


def inception_crop(
    image, rng, size, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), interpolation="bilinear"
):
    """A part of random area and aspect ratio as [size, size, C] (GoogLeNet, Section 6)."""
    raise NotImplementedError
