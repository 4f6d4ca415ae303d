"""GoogLeNet against ONNX's graph of BVLC's network, and against torchvision."""

import jax
import numpy as np
import pytest
from parity import onnx_graph

import models


def graph():
    """Caffe2 pools floor(...) windows; Caffe, whose network it is, and the paper more.

    Of even maps a pixel below and right makes them as many.
    """
    graph = onnx_graph.Graph("inception_v1")
    graph.set_attributes("MaxPool", {"strides": [2, 2]}, pads=[0, 0, 1, 1])
    return graph


def test_googlenet_is_bvlcs():
    model = models.create("googlenet", num_classes=1000)
    images = onnx_graph.random_images((96, 128))
    onnx_graph.check_logits(graph(), model, 100 * images)
