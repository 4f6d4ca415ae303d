"""A drawing is placed as the data set's images are."""

import numpy as np
import pytest

import data_source
from demo import drawing
from transforms import resizing


def test_mnists_own_digits_come_back():
    """Test digits, drawn in a corner of a larger field, are placed as they were."""
    split = data_source.open_split("mnist", "test[:40]")
    for image in split.read(np.arange(40))[0]:
        field = np.zeros((300, 280, 1), np.uint8)
        field[20:244, 50:274] = resizing.resize(image, 224, 224, "nearest")
        placed = drawing.by_mass(field)
        np.testing.assert_array_equal(placed, image)


def test_the_centre_of_mass_is_in_the_middle_and_the_longer_side_has_20_pixels():
    field = np.zeros((280, 280, 1), np.uint8)
    field[10:110, 10:20] = 255  # a tall L with its foot to the right
    field[100:110, 10:60] = 255
    placed = drawing.by_mass(field)[..., 0]
    rows, columns = np.flatnonzero(placed.any(1)), np.flatnonzero(placed.any(0))
    assert (len(rows), len(columns)) == (20, 10)
    weights = placed / placed.sum()
    for axis in (0, 1):
        centre = (weights.sum(1 - axis) * np.arange(28)).sum()
        assert abs(centre - 14) <= 0.5


def test_ink_stays_in_the_field():
    field = np.zeros((280, 280, 1), np.uint8)
    field[0:200, 0:200] = 1  # pale, and heavy at one corner
    field[150:200, 150:200] = 255
    placed = drawing.by_mass(field)
    assert placed.shape == (28, 28, 1)
    assert (placed > 0).sum() == 400
    assert (placed[8:, 8:] > 0).sum() == 400 or (placed[:20, :20] > 0).sum() == 400


def test_fashion_mnists_longer_side_fills_the_field():
    field = np.zeros((280, 280, 1), np.uint8)
    field[5:145, 100:170] = 200
    placed = drawing.by_box(field)
    assert (placed[:, 7:21] == 200).all() and not placed[:, :7].any()
    assert not placed[:, 21:].any()


@pytest.mark.parametrize("place", drawing.RULES.values())
def test_an_empty_field_stays_empty(place):
    assert not place(np.zeros((280, 280, 1), np.uint8)).any()


def test_rules_by_the_name_of_the_data():
    assert drawing.rule("mnist:3.0.1") is drawing.by_mass
    assert drawing.rule("fashion_mnist") is drawing.by_box
    assert drawing.rule("folder:/photos/mnist") is None
