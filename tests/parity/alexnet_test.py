"""AlexNet against Caffe's definition as ONNX ships it, and against torchvision."""

import pytest
from parity import onnx_graph, ours

import models

pytestmark = pytest.mark.slow
IN_TWO_GROUPS = ("conv2_w_0", "conv4_w_0", "conv5_w_0")


def check(graph, name):
    """Adapts Caffe's graph to the paper and compares.

    The normalisation's k is 2 instead of Caffe's default. The last pooling does not
    pad; the graph pads it to get 6x6 maps from 224x224 images without conv1's zeros.
    For 227x227 images its maps are then the paper's.
    """
    graph.set_attributes("LRN", bias=2.0)
    graph.set_attributes("MaxPool", pads=[0, 0, 0, 0])
    model = models.create(name, num_classes=1000)
    onnx_graph.check_logits(graph, model, ours.random_images(227))


def test_alexnet_is_caffes():
    check(onnx_graph.Graph("bvlc_alexnet"), "alexnet")


def test_alexnet_ungrouped_is_caffes_without_groups():
    def resize(name, shape):
        if name not in IN_TWO_GROUPS:
            return shape
        outputs, inputs, *window = shape
        return (outputs, 2 * inputs, *window)

    graph = onnx_graph.Graph("bvlc_alexnet", resize)
    graph.set_attributes("Conv", {"group": 2}, group=1)
    check(graph, "alexnet_ungrouped")


def test_alexnet_one_tower_is_torchvisions():
    from parity import port  # here, because the tests above need no torch

    model = models.create("alexnet_one_tower", num_classes=1000)
    net = port.torchvision().alexnet()
    port.check_logits(net, model, ours.random_images(224), "alexnet_one_tower")
