"""A small VGG slid over an image, against its windows."""

import flax.linen as nn
import jax.numpy as jnp

from claims import fully_convolutional
from models import layers, vgg


class SmallVGG(layers.Classifier):
    """Two stages: a step on the last map is 4 pixels, which see 14 pixels each."""

    num_classes: int

    def setup(self):
        init = nn.initializers.glorot_uniform()
        table = ((3,), (3, 3)), (4, 8)
        self.backbone = vgg.VGGBackbone(*table, False, init, jnp.float32)
        self.head = vgg.ThreeLayers(self.num_classes, 12, 0.5, "glorot", jnp.float32)


def test_positions_are_windows_where_padding_does_not_reach():
    model = SmallVGG(5)
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
