"""Anchors against the listings and counts of py-faster-rcnn and Detectron2."""

import numpy as np
import pytest

from models import anchors, boxes

# Inclusive boxes, as generate_anchors.py makes them.
NINE = """
  -84 -40 99 55  -176 -88 191 103  -360 -184 375 199  -56 -56 71 71  -120 -120 135 135
  -248 -248 263 263  -36 -80 51 95  -80 -168 95 183  -168 -344 183 359
"""
SIZE_64 = "-38 -16 53 31  -24 -24 39 39  -14 -36 29 51"
SIZE_32 = "-15 -4 30 19  -8 -8 23 23  -3 -14 18 29"


def inclusive(text):
    return np.float32(text.split()).reshape(-1, 4) + [0, 0, 1, 1]


def test_caffe_s_nine():
    found = anchors.caffe()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, inclusive(NINE))


def test_caffe_s_twelve_and_fifteen():
    nine, large, small = map(inclusive, (NINE, SIZE_64, SIZE_32))
    for extra, sizes in (([large], (64,)), ([small, large], (32, 64))):
        rows = [
            np.concatenate([*(e[i : i + 1] for e in extra), nine[3 * i : 3 * i + 3]])
            for i in range(3)
        ]
        found = anchors.caffe((*sizes, 128, 256, 512))
        np.testing.assert_array_equal(found, np.concatenate(rows))


def test_centred_anchors_have_their_size_and_ratio():
    found = anchors.centred((32, 64), (0.5, 1, 2))
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    np.testing.assert_allclose(np.sqrt(width * height), [32] * 3 + [64] * 3, 1e-6)
    np.testing.assert_allclose(height / width, [0.5, 1, 2] * 2, 1e-6)
    np.testing.assert_array_equal(found[:, :2], -found[:, 2:])


def test_a_grid_goes_row_by_row_and_has_all_anchors_of_a_position_together():
    base = anchors.caffe()
    found = anchors.grid(base, (2, 3), 16)
    assert found.shape == (2 * 3 * 9, 4) and found.dtype == np.float32
    position = found.reshape(2, 3, 9, 4)
    np.testing.assert_array_equal(position[0, 0], base)
    np.testing.assert_array_equal(position[1, 2], base + [32, 16, 32, 16])
    wide = anchors.grid(base, (1, 2), 8).reshape(2, 9, 4)
    np.testing.assert_array_equal(wide[1], base + [8, 0, 8, 0])


@pytest.mark.parametrize(
    ("size", "sizes", "every", "whole"),
    [
        ((600, 1000), (128, 256, 512), 21_546, 8_151),
        ((600, 1000), (64, 128, 256, 512), 28_728, 14_072),
        ((600, 800), (128, 256, 512), 17_100, 5_944),
        ((800, 1333), (32, 64, 128, 256, 512), 63_000, 40_930),
        ((240, 320), (128, 256, 512), 2_700, 226),
    ],
)
def test_counts_of_anchors_and_of_those_inside(size, sizes, every, whole):
    shape = [-(-side // 16) for side in size]
    found = anchors.grid(anchors.caffe(sizes), shape, 16)
    assert len(found) == every
    assert boxes.inside(found, size).sum() == whole
