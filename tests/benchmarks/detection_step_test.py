"""The benchmark of a detector's step runs whole, in miniature."""

import pytest

from benchmarks import detection_step


@pytest.mark.slow
def test_the_parts_of_a_step_are_timed():
    fields = {"features": 8, "rpn_channels": 8, "pool_size": 4, "min_size": 1.0}
    row = detection_step.Row(18, (2, 32, 48, 3), 4, fields)
    found = detection_step.measure(row, rounds=1)
    parts = {part for who, part in found if who == "ours"}
    assert parts == {"trunk", "proposals", "pooling", "pooling and conv5", "step"}
    assert all(milliseconds > 0 for milliseconds in found.values())
