"""Decodes images (JPEG, PNG, WebP, ...) to upright pixels in grey or RGB."""

import io
import re

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, ImageOps

ORIENTATION = 0x0112  # EXIF's tag; 1: as stored


class DamagedImage(ValueError):
    """The bytes are not an image, or the image is cut or damaged."""


def decode(data, channels):
    """Decodes bytes, or converts an array [H, W, C], to uint8 [H, W, channels].

    channels is 1 (grey) or 3 (RGB). The image is turned as EXIF says; transparency is
    dropped, and 16-bit values keep their upper eight bits. If a JPEG stores its colours
    as YCbCr, grey is Y. The result may be read-only.

    Raises:
      DamagedImage: the bytes cannot be decoded to the end.
    """
    image = decode_lazily(data, channels)
    return image if isinstance(image, np.ndarray) else image[:, :]


def decode_lazily(data, channels):
    """Works as `decode`, but may return a `LazyJpeg` instead of an array.

    The views of transforms/resizing.py take either, and a random crop needs only about
    three quarters of an image's rows.
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
    """An upright JPEG in YCbCr or grey, which image[rows, columns] decodes.

    simplejpeg takes 0.6 ms for 500x375 pixels where PIL takes 1.5 ms. It also reports
    data that end too early, with or without an end marker, which libjpeg only warns
    about and fills with grey. Rows below the last requested one are not decoded, so
    damage there is not seen unless the file is cut. Extra bytes after the last pixel do
    not count as damage.
    """

    def __init__(self, data, shape):
        self._data, self.shape = data, shape

    def __getitem__(self, key):
        """Returns uint8 [rows, columns, C] for two slices.

        Raises:
          DamagedImage: the bytes cannot be decoded that far.
        """
        rows, columns = key
        data, (height, width, channels) = self._data, self.shape
        # Colour has half the resolution, so the last row's depends on the next row.
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
    """Returns (height, width) if `LazyJpeg` takes these bytes, else None."""
    if data[:2] != b"\xff\xd8" or _orientation(data) != 1:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:  # a cut header, or unusual subsampling
        return None
    return (height, width) if colours in ("YCbCr", "Gray") else None


def _declare_height(data, height):
    """Makes a JPEG declare only `height` rows; returns None if it is not sequential.

    libjpeg then stops there and skips the rest as extraneous bytes.
    """
    at = 2
    # Tables (DHT, DQT, DRI) and APP0 to COM come before the frame.
    while data[at + 1] in (0xC4, 0xDB, 0xDD) or 0xE0 <= data[at + 1] <= 0xFE:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if data[at] != 0xFF or data[at + 1] not in (0xC0, 0xC1):
        return None
    return data[: at + 5] + height.to_bytes(2) + data[at + 7 :]


def _orientation(data):
    """Returns the EXIF orientation of a JPEG, 1 to 8."""
    # EXIF starts before the first scan, even if that is the scan of its own thumbnail.
    at = data.find(b"Exif\0\0", 0, max(0, data.find(b"\xff\xda")))
    if at < 0:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data[at : at + 65536])
    except Exception:  # Unreadable metadata say nothing about the pixels.
        return 1
    return exif.get(ORIENTATION, 1)


def _open(data):
    """Opens encoded bytes as a PIL image, upright and in eight bits."""
    opened = Image.open(io.BytesIO(data))
    image = ImageOps.exif_transpose(opened)
    if opened.mode.startswith("I;16"):  # PIL's convert would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif opened.mode == "P" and "transparency" in opened.info:
        image = image.convert("RGBA")  # otherwise PIL warns
    elif (opened.mode, opened.format) == ("CMYK", "JPEG") and (
        "adobe" not in opened.info
    ):
        # Adobe's marker says that ink is stored inverted, and PIL inverts even without
        # that marker.
        image = ImageChops.invert(image)
    return image


def _pixels(image, channels):
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)
