"""The picture: one colour a family, and labels that do not overlap."""

import numpy as np
import pytest

from comparison import chart
from comparison.published import PUBLISHED


def test_every_family_has_its_colour():
    families = {row.family for row in PUBLISHED.values()}
    assert families == set(chart.COLOURS)
    assert len(set(chart.COLOURS.values())) == len(families)


def test_labels_avoid_each_other_and_the_frame():
    discs = np.array([[50.0, 50.0, 5.0], [50.0, 50.0, 5.0], [95.0, 95.0, 5.0]])
    sizes = [(30, 8)] * 3
    frame = np.array([0, 0, 100, 100])
    boxes = chart.place(sizes, discs, np.array([[0, 0, 1, 1]]), frame, 1.0)
    for i, box in enumerate(boxes):
        assert chart.overlap(box[None], np.delete(boxes, i, 0)) == 0
        assert chart.overlap(box[None], frame[None]) == pytest.approx(30 * 8)
