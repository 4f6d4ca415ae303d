"""A small VGG slid over an image, against its windows."""

import pytest
import tiny_networks

from claims import fully_convolutional


@pytest.mark.slow
def test_positions_are_windows_where_padding_does_not_reach():
    model = tiny_networks.SmallVGG(5)
    found = fully_convolutional.compare(model, size=32, larger=40, stride=4, edge=2)
    assert found["positions"] == "3x3"
    differences = found["differences"]
    assert differences["head on parts of the map"] < fully_convolutional.CLOSE
    assert differences["maps within"] < fully_convolutional.CLOSE
    assert differences["cut out"] > 1e-3
    assert set(found["seconds"]) == {"windows", "slid", "one window"}
    assert found["multiply_adds"]["windows"] == (
        9 * found["multiply_adds"]["one window"]
    )
    # One unit further out sees the zeros beyond a window's edge.
    found = fully_convolutional.compare(model, size=32, larger=40, stride=4, edge=1)
    assert found["differences"]["maps within"] > 1e-3
