"""What is no image, or too large a one, is refused in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from demo import uploads

RNG = np.random.default_rng(0)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def declared(width, height):
    """A PNG of a few bytes whose header declares any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = b""
    for chunk in (header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"):
        length, crc = len(chunk) - 4, zlib.crc32(chunk)
        chunks += struct.pack(">I", length) + chunk + struct.pack(">I", crc)
    return b"\x89PNG\r\n\x1a\n" + chunks


PIXELS = RNG.integers(0, 256, (30, 40, 3), np.uint8)
PHOTO = encoded(PIXELS, "JPEG")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no readable PNG"),
        (b"no image", "no readable PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable PNG"),
        (encoded(PIXELS, "TIFF"), "no readable PNG"),
        (encoded(PIXELS)[:200], "is damaged"),
        (PHOTO[: len(PHOTO) // 2], "is damaged"),
        (declared(7000, 7000), "7000x7000 pixels"),
        (declared(10_000, 10_000), "more than 40 million pixels"),
        (declared(2**30, 2**30), "more than 40 million pixels"),
        (bytes(uploads.MOST_BYTES + 1), "larger than 16 MiB"),
    ],
)
def test_what_is_refused(data, words):
    with pytest.raises(uploads.Refused, match=words) as caught:
        uploads.read(data, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", uploads.FORMATS)
def test_what_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = uploads.read(encoded(PIXELS, kind, **options), 3)
    assert found.shape == PIXELS.shape
    if kind in ("PNG", "WEBP", "BMP"):
        np.testing.assert_array_equal(found, PIXELS)
    assert uploads.read(encoded(PIXELS, kind, **options), 1).shape == (30, 40, 1)


def test_the_centre_is_cut():
    image = np.zeros((10, 30, 1), np.uint8)
    image[:, 8:22] = 255  # a filter reaches beyond the part that is cut
    assert (uploads.cut(image, 5, 5) == 255).all()
    tall = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(uploads.cut(tall, 20, 20)[..., 0], 255)
    assert uploads.cut(image, 10, 30) is image
