"""Reads the images that a browser sends; what is no image gets one line.

Nothing is written to disk.
"""

import io

from PIL import Image

from errors import UserError
from transforms import decode, resizing

MOST_BYTES = 16 * 2**20
MOST_PIXELS = 40_000_000
# PIL reads others, too; EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
NAMES = "PNG, JPEG, WebP, GIF or BMP"
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class Refused(UserError):
    """What was sent cannot be shown; the message is for the person at the browser."""


def read(data, channels):
    """Decodes an upload to uint8 [H, W, channels]; channels is 1 (grey) or 3 (RGB).

    Raises:
      Refused: it is no image of FORMATS, is damaged, or has too many bytes or pixels.
    """
    if len(data) > MOST_BYTES:
        raise Refused(f"the file is larger than {MOST_BYTES // 2**20} MiB")
    height, width = _size(data)
    if height * width > MOST_PIXELS:
        raise Refused(
            f"the image has {width}x{height} pixels; at most {MOST_PIXELS // 10**6} "
            "million are shown"
        )
    try:
        return decode.decode(data, channels)
    except decode.DamagedImage as error:
        raise Refused(f"the image is damaged: {error}") from error


def _size(data):
    """Returns (height, width) from an image's header; no pixel is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size[::-1]
    except BOMBS as error:
        raise Refused(
            f"the image has more than {MOST_PIXELS // 10**6} million pixels"
        ) from error
    except Exception as error:  # PIL raises many kinds for damaged headers
        raise Refused(f"this file is no readable {NAMES}") from error


def cut(image, height, width):
    """Cuts the largest centre of an image that has the shape height x width.

    Returns it resized to that shape.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    scale = min(rows / height, columns / width)
    part = scale * height, scale * width
    box = ((rows - part[0]) / 2, (columns - part[1]) / 2, *part)
    return resizing.resize(image, height, width, box=box)
