"""The pictures show the numbers that they are made of."""

import demo_runs
import numpy as np

from demo import sheets

RNG = np.random.default_rng(0)


def test_a_picture_keeps_its_pixels():
    for channels in (1, 3):
        pixels = RNG.integers(0, 256, (5, 7, channels), np.uint8)
        np.testing.assert_array_equal(demo_runs.pixels(sheets.url(pixels)), pixels)


def test_images_lie_in_rows_with_lines_between():
    images = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 3, 4, 1)
    sheet = sheets.square(images)
    assert sheet.shape == (11, 9, 1)  # three rows of two
    assert (sheet[3] == 255).all() and (sheet[:, 4] == 255).all()
    assert [sheet[0, 0, 0], sheet[0, 5, 0], sheet[4, 0, 0], sheet[8, 0, 0]] == [
        0,
        1,
        2,
        4,
    ]
    assert (sheet[8:, 5:] == 255).all()


def test_each_map_goes_from_its_lowest_to_its_highest_value():
    maps = RNG.normal(size=(96, 96, 4)) * np.array([1, 10, 100, 1000])
    sheet, shown = sheets.maps(maps)
    assert sheet.shape == (193, 193, 3) and shown == 4
    darkest, brightest = sheets.coloured(np.array([0.0, 1.0]))
    for top in (0, 97):
        for left in (0, 97):
            part = sheet[top : top + 96, left : left + 96]
            assert (part == darkest).all(-1).sum() >= 1
            assert (part == brightest).all(-1).sum() >= 1


def test_of_many_maps_those_that_vary_most_are_shown():
    number = sheets.MOST_MAPS + 40
    maps = np.zeros((2, 2, number), np.float32)
    maps[0, 0, 40:] = 1  # the first 40 do not vary
    _, shown = sheets.maps(maps)
    assert shown == sheets.MOST_MAPS
    units, shown = sheets.maps(np.ones((1, 1, number)))
    assert shown == number and units.size


def test_filters_are_scaled_by_their_largest_weight():
    kernel = np.zeros((3, 3, 1, 2), np.float32)
    kernel[0, 0, 0] = [0.5, -2]
    sheet = sheets.filters(kernel)
    side = (sheet.shape[1] - 1) // 2
    assert sheet[0, 0, 0] == 255 and sheet[0, side + 1, 0] == 0
    assert sheet[side - 1, side - 1, 0] == 128  # 0 is mid-grey


def test_heat_over_an_image_is_where_the_map_is():
    heat = np.zeros((4, 4))
    heat[0, 3] = 1
    picture = sheets.over(np.full((32, 32, 1), 100, np.uint8), heat)
    assert picture.shape == (256, 256, 3)
    light = picture.sum(-1)
    assert light[:64, 192:].min() > light[128:, :128].max()
