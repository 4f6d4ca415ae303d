"""An encoded image (JPEG, PNG, WebP, ...) to pixels, upright, in grey or RGB."""

import io

import numpy as np
from PIL import Image, ImageOps


class DamagedImage(ValueError):
    """Bytes that are no image, or one that is cut or damaged."""


def decode(data, channels):
    """uint8 [H, W, channels] of encoded bytes or of an array [H, W, C].

    channels is 1 (grey) or 3 (RGB).

    Raises:
      DamagedImage: the bytes cannot be decoded to the end.
    """
    try:
        if isinstance(data, np.ndarray):
            image = Image.fromarray(data.squeeze() if data.shape[-1] == 1 else data)
        else:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        image = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise DamagedImage(f"{type(error).__name__}: {error}") from error
    return np.asarray(image).reshape(image.height, image.width, channels)
