"""An encoded image (JPEG, PNG, WebP, ...) to pixels, upright, in grey or RGB."""

import io
import re

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, ImageOps

ORIENTATION = 0x0112  # EXIF's tag; 1: as stored


class DamagedImage(ValueError):
    """Bytes that are no image, or one that is cut or damaged."""


def decode(data, channels):
    """uint8 [H, W, channels] of encoded bytes or of an array [H, W, C].

    channels is 1 (grey) or 3 (RGB). Turned as EXIF says; transparency is dropped, and
    of 16 bits the upper eight are kept. Of a JPEG whose colours are stored as YCbCr,
    grey is Y. The result may be read-only.

    Raises:
      DamagedImage: the bytes cannot be decoded to the end.
    """
    image = decode_lazily(data, channels)
    return image if isinstance(image, np.ndarray) else image[:, :]


def decode_lazily(data, channels):
    """As `decode`, but the result may be a `LazyJpeg` instead of an array.

    The views of transforms/resizing.py take either, and a random crop needs three
    quarters of an image's rows or so.
    """
    if isinstance(data, np.ndarray) and data.shape[-1] == channels:
        return data
    try:
        if isinstance(data, np.ndarray):
            image = Image.fromarray(data.squeeze(-1) if data.shape[-1] == 1 else data)
        elif shape := _usual_jpeg(data):
            return LazyJpeg(data, (*shape, channels))
        else:
            image = _open(data)
        return _pixels(image, channels)
    except Exception as error:
        raise DamagedImage(f"{type(error).__name__}: {error}") from error


class LazyJpeg:
    """An upright JPEG in YCbCr or grey: image[rows, columns] decodes.

    simplejpeg takes 0.6 ms for 500x375 pixels where PIL takes 1.5, and reports what
    libjpeg only warns of and fills with grey: data that end too early, with or without
    a marker that says so. Rows below the last one asked for are not decoded, and so
    damage there is not seen, unless the file is cut. Bytes left over after the last
    pixel are no damage.
    """

    def __init__(self, data, shape):
        self._data, self.shape = data, shape

    def __getitem__(self, key):
        """uint8 [rows, columns, C] of two slices.

        Raises:
          DamagedImage: the bytes cannot be decoded as far as that.
        """
        rows, columns = key
        data, (height, width, channels) = self._data, self.shape
        # The colour of the last row, at half the resolution, leans on the next.
        needed = rows.indices(height)[1] + 1
        if needed < height:
            shorter = _declare_height(data, needed)
            if shorter:
                data, height = shorter, needed
        pixels = np.empty((height, width, channels), np.uint8)
        colours = "GRAY" if channels == 1 else "RGB"
        try:
            simplejpeg.decode_jpeg(data, colours, buffer=pixels)
        except ValueError as error:
            message = str(error)
            if re.search("Premature|Corrupt(?!.*extraneous)", message):
                raise DamagedImage(message) from error
            if "extraneous" not in message:  # unusual; PIL says whether it is whole
                try:
                    pixels = _pixels(_open(self._data), channels)
                except Exception as error:
                    raise DamagedImage(f"{type(error).__name__}: {error}") from error
        return pixels[key]


def _usual_jpeg(data):
    """(height, width) of what is a `LazyJpeg`; None for anything else."""
    if data[:2] != b"\xff\xd8" or _orientation(data) != 1:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:  # a cut header, or unusual subsampling
        return None
    return (height, width) if colours in ("YCbCr", "Gray") else None


def _declare_height(data, height):
    """A JPEG as if it ended after some of its rows; None if it is not sequential.

    libjpeg then stops there, and skips what is left as extraneous bytes.
    """
    at = 2
    # Segments ahead of the frame: tables (DHT, DQT, DRI) and APP0 to COM.
    while data[at + 1] in (0xC4, 0xDB, 0xDD) or 0xE0 <= data[at + 1] <= 0xFE:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if data[at] != 0xFF or data[at + 1] not in (0xC0, 0xC1):
        return None
    return data[: at + 5] + height.to_bytes(2) + data[at + 7 :]


def _orientation(data):
    """EXIF's orientation of a JPEG, 1 to 8."""
    # EXIF comes ahead of the first scan, and of the scan of its own thumbnail.
    at = data.find(b"Exif\0\0", 0, max(0, data.find(b"\xff\xda")))
    if at < 0:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data[at : at + 65536])
    except Exception:  # Metadata that cannot be read say nothing of the pixels.
        return 1
    return exif.get(ORIENTATION, 1)


def _open(data):
    """The PIL image of encoded bytes, upright and in eight bits."""
    opened = Image.open(io.BytesIO(data))
    image = ImageOps.exif_transpose(opened)
    if opened.mode.startswith("I;16"):  # PIL's convert would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif opened.mode == "P" and "transparency" in opened.info:
        image = image.convert("RGBA")  # or else PIL warns
    elif (opened.mode, opened.format) == ("CMYK", "JPEG") and (
        "adobe" not in opened.info
    ):
        # PIL inverts as if Adobe's marker, which says that ink is stored inverted,
        # were always there.
        image = ImageChops.invert(image)
    return image


def _pixels(image, channels):
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)
