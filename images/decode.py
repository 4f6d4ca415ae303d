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
    if isinstance(data, np.ndarray) and data.shape[-1] == channels:
        return data
    try:
        if isinstance(data, np.ndarray):
            image = Image.fromarray(data.squeeze(-1) if data.shape[-1] == 1 else data)
        else:
            pixels = _decode_usual_jpeg(data, channels)
            if pixels is not None:
                return pixels
            image = _open(data)
        image = image.convert("L" if channels == 1 else "RGB")
    except DamagedImage:
        raise
    except Exception as error:
        raise DamagedImage(f"{type(error).__name__}: {error}") from error
    return np.asarray(image).reshape(image.height, image.width, channels)


def _decode_usual_jpeg(data, channels):
    """The pixels of an upright JPEG in YCbCr or grey; None for anything else.

    simplejpeg takes 0.6 ms for 500x375 pixels where PIL takes 1.5, and reports what
    libjpeg only warns of and fills with grey: data that end too early, with or without
    a marker that says so. Bytes left over after the last pixel are no damage.
    """
    if data[:2] != b"\xff\xd8" or _orientation(data) != 1:
        return None
    colours = simplejpeg.decode_jpeg_header(data)[2]
    if colours not in ("YCbCr", "Gray"):
        return None
    try:
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB")
    except ValueError as error:
        message = str(error)
        if re.search("Premature|Corrupt(?!.*extraneous)", message):
            raise DamagedImage(message) from error
        return None  # PIL takes what is merely unusual


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
