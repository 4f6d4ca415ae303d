"""The benchmark of a detector's step and test runs whole, in miniature."""

import pytest

from benchmarks import detection_step

PARTS = ["trunk", "proposals", "pooling", "pooling and conv5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inference", "whole"), [(False, "step"), (True, "detections")]
)
def test_the_parts_are_timed(inference, whole):
    fields = {"features": 8, "rpn_channels": 8, "pool_size": 4, "min_size": 1.0}
    fields |= {"post_nms": (40, 20)}
    row = detection_step.Row(18, (2, 32, 48, 3), 4, fields)
    found = detection_step.measure(row, rounds=1, inference=inference)
    assert list(found) == [*PARTS, whole]
    for here, theirs, scratch in found.values():
        assert here > 0 and (theirs is None or theirs > 0) and scratch > 0
