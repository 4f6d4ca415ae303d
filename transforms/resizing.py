"""Rescales and crops an image for a network, always antialiased.

Images are uint8 [H, W, C]; the two random crops also take a decode.LazyJpeg. Sizes are
in pixels; `rng` is the example's own numpy Generator. Interpolations are nearest,
bilinear, bicubic, lanczos and box; training also knows "random", which draws bilinear,
bicubic, nearest or box.

PIL resizes test images, as torchvision does. cykooz_resizer resizes training images; it
has PIL's filters, and its results differ from PIL's by a level here and there. From a
500x375 image it makes an Inception crop of 224 pixels in 0.11 ms; PIL takes 0.52 ms,
and OpenCV, which does not antialias, 0.10 ms. Results may be read-only.
"""

import math

import cykooz_resizer
import numpy as np
from cykooz_resizer import FilterType, PixelType, ResizeAlg
from PIL import Image

# Each entry ends with the reach of its filter, in pixels of the smaller image.
INTERPOLATIONS = {
    "nearest": (ResizeAlg.nearest(), 0.5),
    "bilinear": (ResizeAlg.convolution(FilterType.bilinear), 1.0),
    "bicubic": (ResizeAlg.convolution(FilterType.catmull_rom), 2.0),
    "lanczos": (ResizeAlg.convolution(FilterType.lanczos3), 3.0),
    "box": (ResizeAlg.convolution(FilterType.box), 0.5),
}
# GoogLeNet, Section 6: "bilinear, area, nearest neighbor and cubic".
RANDOM = ("bilinear", "box", "nearest", "bicubic")
PIXEL_TYPES = {1: PixelType.U8, 3: PixelType.U8x3}
LONGEST = 16  # shorter sides; a longer image is not rescaled whole to cut a part of it
LARGEST = 2**27  # pixels of a part, 400 MB in RGB


def resize(image, height, width, interpolation="bilinear", box=None):
    """Resizes `image`, or its part box (top, left, height, width; floats).

    A filter may reach beyond the edge of the box, but not of the image.
    """
    if box is not None:
        image, (top, left, rows, columns) = _part(
            image, height, width, interpolation, box
        )
        box = (left, top, left + columns, top + rows)
    squeezed = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    method = Image.Resampling[interpolation.upper()]
    resized = squeezed.resize((width, height), method, box=box)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def resize_fast(image, height, width, interpolation="bilinear", box=None):
    """Works as `resize`; results may differ from PIL's by a level here and there."""
    box = box or (0, 0, *image.shape[:2])
    part, (top, left, rows, columns) = _part(image, height, width, interpolation, box)
    kind = PIXEL_TYPES[image.shape[-1]]
    source = cykooz_resizer.ImageData(*part.shape[1::-1], kind, part.tobytes())
    resized = cykooz_resizer.ImageData(width, height, kind)
    options = cykooz_resizer.ResizeOptions(
        INTERPOLATIONS[interpolation][0],
        crop_box=cykooz_resizer.CropBox(left, top, columns, rows),
    )
    cykooz_resizer.Resizer().resize(source, resized, options)
    resized = np.frombuffer(resized.get_buffer(), np.uint8)
    return resized.reshape(height, width, image.shape[-1])


def _part(image, height, width, interpolation, box):
    """Returns only what the filter reaches of an image, and the box within that part.

    So the resizer copies no more, and PIL's float32 box is exact enough in any place.
    """
    top, left, rows, columns = box
    reach = INTERPOLATIONS[interpolation][1]
    above, below = _reached(top, rows, height, reach, image.shape[0])
    ahead, behind = _reached(left, columns, width, reach, image.shape[1])
    top, left = top - above, left - ahead
    # Rounding must not carry the box over the edge.
    rows, columns = min(rows, below - above - top), min(columns, behind - ahead - left)
    return image[above:below, ahead:behind], (top, left, rows, columns)


def _reached(start, length, target, reach, limit):
    """Returns the first pixel that an axis' filter needs, and the one past the last."""
    margin = reach * max(1, length / target) + 1
    first, stop = math.floor(start - margin), math.ceil(start + length + margin)
    return max(0, first), min(limit, stop)


def rescaled_size(height, width, short_side):
    """Returns (height, width) with short side `short_side`, the longer rounded down."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def rescale(image, short_side, interpolation="bilinear"):
    """Rescales the whole image to a shorter side of `short_side` pixels."""
    size = rescaled_size(*image.shape[:2], short_side)
    return resize(image, *size, interpolation)


class Rescaled:
    """The image rescaled to a shorter side of `short_side`; [rows, columns] is a part.

    The slices have no step. The whole image is rescaled once, and parts equal
    torchvision's to the bit, unless it is longer than `LONGEST` of its shorter sides:
    1x20000 pixels would become 256x5120000. Then each part is computed alone. It lies
    within a level of the whole image's (two for bicubic and lanczos), and of two
    equally near pixels "nearest" and "box" may take the other one.
    """

    def __init__(self, image, short_side, interpolation="bilinear"):
        self._image, self._interpolation = image, interpolation
        height, width = rescaled_size(*image.shape[:2], short_side)
        self.shape = height, width, image.shape[-1]
        self._whole = None
        if max(height, width) <= LONGEST * short_side:
            self._whole = resize(image, height, width, interpolation)

    def __getitem__(self, key):
        """Returns uint8 [rows, columns, C] for two slices.

        Raises:
          ValueError: the part has more than `LARGEST` pixels.
        """
        if self._whole is not None:
            return self._whole[key]
        (height, width), source = self.shape[:2], self._image.shape[:2]
        rows, columns = (range(n)[s] for s, n in zip(key, (height, width), strict=True))
        if len(rows) * len(columns) > LARGEST:
            raise ValueError(
                f"an image of {source[0]}x{source[1]} pixels would be rescaled to "
                f"{height}x{width}: cut it into parts"
            )
        down, across = source[0] / height, source[1] / width
        box = rows[0] * down, columns[0] * across
        box += len(rows) * down, len(columns) * across
        return resize(self._image, len(rows), len(columns), self._interpolation, box)


def center_crop(image, size, short_side, interpolation="bilinear"):
    """Returns the middle [size, size, C] of the rescaled image, as `Rescaled` gives it.

    Raises:
      ValueError: the crop is larger than the rescaled image.
    """
    _check_crop(size, short_side)
    # PIL would round the box of resize(box=); a part of the whole equals torchvision's.
    image = Rescaled(image, short_side, interpolation)
    top = round((image.shape[0] - size) / 2)
    left = round((image.shape[1] - size) / 2)
    return image[top : top + size, left : left + size]


def rescale_crop(image, rng, size, short_side, interpolation="bilinear"):
    """Rescales to a short side drawn from [low, high]; crops [size, size, C] at random.

    This is the scale jitter of VGG (2014, Section 3.1) with [256, 512] and of ResNet
    (2015, Section 3.4) with [256, 480]; (256, 256) is that of AlexNet's recipe,
    but from the whole image, where the paper has only its central 256x256.

    Raises:
      ValueError: the crop is larger than the rescaled image.
    """
    low, high = short_side
    _check_crop(size, low)
    short_side = int(rng.integers(low, high + 1))
    height, width = rescaled_size(*image.shape[:2], short_side)
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    method = _drawn(rng, interpolation)
    if (height, width) == image.shape[:2]:  # as in a cache; every filter copies pixels
        return image[top : top + size, left : left + size]
    down, across = image.shape[0] / height, image.shape[1] / width
    box = top * down, left * across, size * down, size * across
    return resize_fast(image, size, size, method, box)


def inception_crop(
    image, rng, size, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), interpolation="bilinear"
):
    """Resizes a random part to [size, size, C] (GoogLeNet, Section 6).

    `inception_box` draws the part's area and aspect ratio.
    """
    top, left, height, width = inception_box(*image.shape[:2], rng, area, aspect)
    part = image[top : top + height, left : left + width]
    return resize_fast(part, size, size, _drawn(rng, interpolation))


def inception_box(height, width, rng, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
    """Draws a random part (top, left, height, width) as torchvision does.

    The area is uniform as a share of the image's, the aspect ratio (width / height) is
    uniform in its logarithm, and the place is uniform. At most ten parts are drawn
    until one fits; if none does, the result is the largest centred part whose ratio
    lies within `aspect`.
    """
    logarithms = np.log(aspect).tolist()
    for _ in range(10):
        share, ratio = rng.uniform(*area), math.exp(rng.uniform(*logarithms))
        rows = round(math.sqrt(height * width * share / ratio))
        columns = round(math.sqrt(height * width * share * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            return top, left, rows, columns
    ratio = min(max(width / height, aspect[0]), aspect[1])
    rows = min(height, max(1, round(width / ratio)))
    columns = min(width, max(1, round(height * ratio)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _check_crop(size, short_side):
    if size > short_side:
        raise ValueError(
            f"no crop of {size} pixels fits in an image rescaled to a short side of "
            f"{short_side}: raise short_side"
        )


def _drawn(rng, interpolation):
    if interpolation == "random":
        return RANDOM[rng.integers(len(RANDOM))]
    return interpolation
