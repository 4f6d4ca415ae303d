"""Examples of a run's test split, for the page."""

import functools
import math

from demo import sheets
from demo.uploads import MOST_BYTES, Refused
from transforms import decode, resizing

LARGEST = MOST_BYTES * 9 // 10  # bytes of pixels whose PNG may come back, even of noise


class Samples:
    """A split's images with the words that say what they show.

    Args:
      open_split: returns the split; it is called when the first sample is asked for.
      describe: says the true classes of an example in words.
      channels: 1 (grey) or 3 (RGB).
    """

    def __init__(self, open_split, describe, channels):
        self._open, self._describe, self._channels = open_split, describe, channels

    @functools.cached_property
    def _split(self):
        return self._open()

    def get(self, index):
        """Returns example `index`, counted round the split, as a PNG with its truth.

        The browser sends the PNG back to be answered, so a large image is made smaller.
        """
        split = self._split
        index %= len(split)
        (example,) = split.examples([index])
        try:
            pixels = decode.decode(example.image, self._channels)
        except decode.DamagedImage as error:
            raise Refused(f"test image {index} is damaged: {error}") from error
        text = f"test image {index:,} of {len(split):,}: {self._describe(example)}"
        if pixels.size > LARGEST:
            scale, (rows, columns) = math.sqrt(LARGEST / pixels.size), pixels.shape[:2]
            height, width = (max(1, int(scale * side)) for side in (rows, columns))
            text += f"; made smaller for the page, {height}x{width} of {rows}x{columns}"
            pixels = resizing.resize(pixels, height, width)
        return {"picture": sheets.url(pixels), "text": text}
