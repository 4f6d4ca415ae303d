"""BN-Inception against ONNX's graph of the Caffe network."""

import pytest
from parity import onnx_graph, ours

import models


@pytest.mark.slow
def test_bn_inception_is_the_graphs():
    model = models.create("bn_inception", num_classes=1000)
    graph = onnx_graph.Graph("inception_v2")
    onnx_graph.check_logits(graph, model, ours.random_images((32, 64)))


@pytest.mark.slow
def test_bn_inception_128_is_the_graph_with_128_channels():
    def resize(name, shape):
        cell = name.removeprefix("inception_")[:2]
        shape = list(shape)
        if cell in ("4c", "4d") and "pool_proj" in name:
            shape[0] = 128
        takes_all = name.endswith("_w_0") and "/bn" not in name and len(shape) == 4
        if cell in ("4d", "4e", "5a") and takes_all and shape[1] in (576, 1024):
            shape[1] += 32
        return shape

    model = models.create("bn_inception_128", num_classes=1000)
    graph = onnx_graph.Graph("inception_v2", resize)
    graph.set_attributes("AveragePool", count_include_pad=1)
    onnx_graph.check_logits(graph, model, ours.random_images((32, 64)))
