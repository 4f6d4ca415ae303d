"""What the page shows of a test split can be sent back to it."""

import base64
import types

import demo_runs
import numpy as np
import pytest
import tiny_datasets

from demo import samples, uploads


class Split:
    """One image of noise, which no PNG makes smaller."""

    def __init__(self, *shape):
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._image = tiny_datasets.png(noise)

    def __len__(self):
        return 1

    def examples(self, indices):
        return [types.SimpleNamespace(image=self._image)]


@pytest.mark.parametrize("shape", [(30, 20, 1), (30, 20, 3), (99, 70, 1), (60, 90, 3)])
def test_a_large_test_image_comes_back_as_an_upload(monkeypatch, shape):
    """The page once refused its own photographs of 12 million pixels."""
    monkeypatch.setattr(uploads, "MOST_BYTES", 6000)
    monkeypatch.setattr(samples, "LARGEST", 5400)
    shown = samples.Samples(lambda: Split(*shape), lambda *_: "a cat", shape[2])
    found = shown.get(0)
    data = base64.b64decode(found["picture"].partition(",")[2])
    assert len(data) <= uploads.MOST_BYTES
    pixels = demo_runs.pixels(found["picture"])
    large = np.prod(shape) > 5400
    height, width = pixels.shape[:2]
    words = f"; made smaller for the page, {height}x{width} of {shape[0]}x{shape[1]}"
    assert found["text"] == f"test image 0 of 1: a cat{words if large else ''}"
    assert large or pixels.shape == shape
    assert uploads.read(data, shape[2]).shape == pixels.shape
