"""AlexNet against torchvision, and against Caffe's definition as ONNX ships it."""

import os

import pytest
from parity import ours, port

import models

onnx = pytest.importorskip("onnx", reason="make parity installs the references")
torch = port.torch


def caffes(groups=True):
    """The graph of light_bvlc_alexnet.onnx as a torch module that ends with the logits.

    Adapted to the paper: k of the normalisation is 2, and not the default of Caffe; the
    last pooling does not pad, which the graph does to have 6x6 maps from 224x224 images
    without conv1's zeros. For 227x227 its maps are the paper's then.
    """
    folder = os.path.dirname(onnx.__file__)
    path = f"{folder}/backend/test/data/light/light_bvlc_alexnet.onnx"
    graph = onnx.load(path).graph
    shapes = {
        tensor.name.removesuffix("__SHAPE"): onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
    }
    net = torch.nn.Sequential()
    for node in graph.node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kind = node.op_type
        if kind == "Conv":
            group = values.get("group", 1)
            features, inputs = shapes[node.input[1]][:2]
            layer = torch.nn.Conv2d(
                int(inputs) * group,
                int(features),
                values["kernel_shape"],
                values["strides"],
                values["pads"][:2],
                groups=group if groups else 1,
            )
        elif kind == "LRN":
            alpha = round(values["alpha"], 9)  # as it was ahead of float32
            layer = torch.nn.LocalResponseNorm(values["size"], alpha, values["beta"], 2)
        elif kind == "MaxPool":
            layer = torch.nn.MaxPool2d(values["kernel_shape"], values["strides"])
        elif kind == "Gemm":
            units, inputs = map(int, shapes[node.input[1]])
            layer = torch.nn.Linear(inputs, units)
        else:
            others = {"Relu": torch.nn.ReLU, "Reshape": torch.nn.Flatten}
            if kind not in others:
                assert kind in ("ConstantOfShape", "Dropout", "Softmax")
                continue
            layer = others[kind]()
        net.append(layer)
    return net


@pytest.mark.slow
def test_alexnet_is_caffes():
    model = models.create("alexnet", num_classes=1000)
    port.check_logits(caffes(), model, ours.random_images(227))


@pytest.mark.slow
def test_alexnet_ungrouped_is_caffes_without_groups():
    model = models.create("alexnet_ungrouped", num_classes=1000)
    port.check_logits(caffes(groups=False), model, ours.random_images(227))


@pytest.mark.slow
def test_alexnet_one_tower_is_torchvisions():
    model = models.create("alexnet_one_tower", num_classes=1000)
    net = port.torchvision().alexnet()
    port.check_logits(net, model, ours.random_images(224))
