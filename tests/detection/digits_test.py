"""Canvases of MNIST's digits: their boxes, and what they are a function of."""

import numpy as np
import pytest

from data_source import DataError
from detection import digits, sources


@pytest.fixture(scope="module")
def canvases():
    return [digits.canvas("test", index) for index in range(60)]


def test_a_canvas_has_one_to_five_digits_that_hardly_hide_each_other(canvases):
    counts = [len(objects) for _, objects in canvases]
    assert {*counts} == {1, 2, 3, 4, 5}
    for pixels, objects in canvases:
        assert pixels.shape == (128, 128, 1) and pixels.dtype == np.uint8
        assert objects.size == (128, 128) and not objects.crowd.any()
        low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
        area = np.prod(high - low, 1)
        shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        shared = np.maximum(shared, 0).prod(2) - np.diag(area)
        assert (shared <= 0.1 * np.minimum(area[:, None], area)).all()
    boxes = np.concatenate([objects.boxes for _, objects in canvases])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert longer.min() >= 18 and longer.max() <= 56 and np.ptp(longer) > 30
    assert boxes.min() >= 0 and boxes.max() <= 128


def test_boxes_are_tight_around_the_ink(canvases):
    single = [canvas for canvas in canvases if len(canvas[1]) == 1]
    assert len(single) > 5
    for pixels, objects in single:
        rows, columns = np.nonzero(pixels[..., 0] >= digits.INK)
        tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_array_equal(objects.boxes[0], tight)


def test_a_canvas_is_a_function_of_split_seed_and_index(canvases):
    pixels, objects = digits.canvas("test", 7)
    np.testing.assert_array_equal(pixels, canvases[7][0])
    np.testing.assert_array_equal(objects.boxes, canvases[7][1].boxes)
    np.testing.assert_array_equal(objects.labels, canvases[7][1].labels)
    for other in (("test", 8, 0), ("test", 7, 1), ("train", 7, 0)):
        assert not np.array_equal(digits.canvas(*other)[0], pixels)


def test_the_splits(monkeypatch):
    monkeypatch.setitem(digits.SIZES, "test", 20)
    split = sources.open_split("digits", "auto")
    assert len(split) == 20 and split.split == "test" and split.channels == 1
    assert split.label_names == tuple("0123456789")
    assert split.objects[3].image == 4  # COCO's ids start at 1
    (example,) = split.examples([3])
    np.testing.assert_array_equal(example.image, digits.canvas("test", 3)[0])
    assert example.name == "digits, test, canvas 3"
    some = sources.open_split("digits", "test[:25%]")
    assert len(some) == 5
    assert {one.image for one in some.objects} < {one.image for one in split.objects}
    with pytest.raises(DataError, match="'digits' has no split 'val': it has train, t"):
        sources.open_split("digits", "val")
