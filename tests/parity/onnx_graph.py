"""Runs the "light" graphs of networks in the onnx package with numpy.

They have the layers of the published models and constants for weights. Here the weights
are random.

The evaluator in onnx itself (1.23) takes batch statistics for this version of
BatchNormalization and normalises as many channels as there are images in LRN.
"""

import pathlib

import numpy as np
import pytest
from parity import ours

onnx = pytest.importorskip("onnx", reason="requirements-dev.txt has the graphs")
from onnx import helper, numpy_helper  # noqa: E402

FOLDER = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


def windows(x, kernel_shape, strides=(1, 1), pads=(0, 0, 0, 0), fill=0):
    """Cuts maps [B, C, H, W], padded with `fill`, to [B, C, h, w, height, width]."""
    top, left, bottom, right = pads
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    x = np.pad(x, around, constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, kernel_shape, (2, 3))
    return views[:, :, :: strides[0], :: strides[1]]


def conv(x, weight, bias=None, group=1, **geometry):
    maps = []
    for part, kernel in zip(
        np.split(x, group, 1), np.split(weight, group), strict=True
    ):
        views = windows(part, **geometry)
        maps.append(np.tensordot(views, kernel, ((1, 4, 5), (1, 2, 3))))
    y = np.concatenate(maps, -1)
    return np.moveaxis(y if bias is None else y + bias, -1, 1)


def average_pool(x, count_include_pad=0, **geometry):
    views = windows(x, **geometry)
    if count_include_pad:
        return views.mean((-2, -1))
    inside = windows(np.ones_like(x[:1, :1]), **geometry)
    return views.sum((-2, -1)) / inside.sum((-2, -1))


def batch_normalization(x, scale, bias, mean, var, epsilon=1e-5):
    scale, bias, mean, var = (v[:, None, None] for v in (scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def lrn(x, size, alpha, beta, bias):
    low = (size - 1) // 2
    squares = np.pad(x**2, ((0, 0), (low, size - 1 - low), (0, 0), (0, 0)))
    sums = np.lib.stride_tricks.sliding_window_view(squares, size, 1).sum(-1)
    return x / (bias + alpha / size * sums) ** beta


def gemm(x, weight, bias, transB=0):  # noqa: N803
    return x @ (weight.T if transB else weight) + bias


OPERATORS = {
    "Add": np.add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Concat": lambda *maps, axis: np.concatenate(maps, axis),
    "Conv": conv,
    "Dropout": lambda x, ratio: x,
    "Flatten": lambda x: x.reshape(len(x), -1),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
    "LRN": lrn,
    "MaxPool": lambda x, **g: windows(x, **g, fill=-np.inf).max((-2, -1)),
    "Mul": np.multiply,
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": lambda x, shape: x.reshape(shape),
    "Sum": lambda *maps: sum(maps),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, axes),
}


class Graph:
    """A graph up to its logits, for images of any number and size.

    Weights keep activations alive. The last average pool is taken over the whole map,
    as it is at 224x224; fully connected layers on a map need the size of the graph.

    Args:
      name: light_{name}.onnx.
      resize: gives a weight, by its name and shape, another shape.

    Attributes:
      nodes: onnx nodes in calling order, to be edited with `set_attributes`.
      weights: float64 arrays by name.
    """

    def __init__(self, name, resize=lambda name, shape: shape, seed=0):
        graph = onnx.load(FOLDER / f"light_{name}.onnx").graph
        constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        # Large weights are nodes that fill a shape, small ones are stored.
        shapes = {
            node.output[0]: tuple(constants[node.input[0]])
            for node in graph.node
            if node.op_type == "ConstantOfShape"
        } | {n: v.shape for n, v in constants.items() if v.dtype == np.float32}
        names = {i.name for i in graph.input} - constants.keys() - shapes.keys()
        (self.input,) = names
        self.output = graph.output[0].name
        self.nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
        if self.nodes[-1].op_type == "Softmax":
            self.output = self.nodes.pop().input[0]
        self.makers = {node.output[0]: node for node in self.nodes}
        for node in self.nodes:
            if node.op_type == "Reshape" and node.input[0] not in shapes:
                node.op_type = "Flatten"
                del node.input[1:]
        pools = [node for node in self.nodes if node.op_type == "AveragePool"]
        if pools and _attributes(pools[-1])["kernel_shape"] == [7, 7]:
            pools[-1].op_type = "GlobalAveragePool"
            del pools[-1].attribute[:]
        rng = np.random.default_rng(seed)
        ranges = self._ranges(shapes)
        self.weights = {
            name: rng.uniform(*ranges[name], resize(name, shape))
            for name, shape in shapes.items()
        }
        used = {name for node in self.nodes for name in node.input}
        self.constants = {
            n: v for n, v in constants.items() if n in used - shapes.keys()
        }

    def _ranges(self, shapes):
        """The range from which the values of each weight are drawn."""
        ranges = {}
        for name, shape in shapes.items():
            # He, a sum of squares that stays; small vectors, whatever they are.
            bound = (6 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
            ranges[name] = (-bound, bound)
        for node in self.nodes:
            if node.op_type == "BatchNormalization":
                ranges[node.input[1]] = (0.75, 1.25)
                ranges[node.input[4]] = (0.5, 1.5)
            elif node.op_type == "Mul":
                ranges[self.source(node.input[1])] = (0.75, 1.25)
            elif node.op_type == "Gemm":
                name = self.source(node.input[1])
                bound = (6 / shapes[name][-1]) ** 0.5
                ranges[name] = (-bound, bound)
        return ranges

    def source(self, name):
        """The weight that is called `name` after changes of its shape."""
        while name in self.makers:
            name = self.makers[name].input[0]
        return name

    def set_attributes(self, kind, where=None, **values):
        """Sets attributes of the nodes of a `kind`, those with all of `where`."""
        found = False
        for node in self.nodes:
            given = _attributes(node)
            if node.op_type == kind and (where or {}).items() <= given.items():
                del node.attribute[:]
                node.attribute.extend(
                    helper.make_attribute(n, v) for n, v in (given | values).items()
                )
                found = True
        assert found, f"no {kind} with {where}"

    def __call__(self, images):
        """Logits [B, K] of images [B, H, W, C], computed in their type."""
        values = {n: v.astype(images.dtype) for n, v in self.weights.items()}
        values |= self.constants | {self.input: images.transpose(0, 3, 1, 2)}
        for node in self.nodes:
            operands = [values[name] for name in node.input]
            function = OPERATORS[node.op_type]
            values[node.output[0]] = function(*operands, **_attributes(node))
        return values[self.output].reshape(len(images), -1)

    def layers(self):
        """Arrays of the layers with weights, in calling order, as `ours` names them.

        Scales and offsets that follow a batch normalisation are part of it.
        """
        result, users = [], {}
        for node in self.nodes:
            users.update(dict.fromkeys(node.input, node))
        for node in self.nodes:
            if node.op_type in ("Conv", "Gemm"):
                values = [self.weights[self.source(name)] for name in node.input[1:]]
                if node.op_type == "Gemm":  # [out, in], with axes of 1 before
                    values[0] = values[0].reshape(-1, values[0].shape[-1])
                result.append(dict(zip(("weight", "bias"), values, strict=False)))
            elif node.op_type == "BatchNormalization":
                keys = ("scale", "bias", "mean", "var")
                values = [self.weights[name] for name in node.input[1:]]
                norm = dict(zip(keys, values, strict=True))
                user = users[node.output[0]]
                if user.op_type == "Mul":
                    factor = self.weights[self.source(user.input[1])]
                    user = users[user.output[0]]
                    offset = self.weights[self.source(user.input[1])]
                    norm["scale"] = norm["scale"] * factor
                    norm["bias"] = norm["bias"] * factor + offset
                result.append(norm)
        return result


def _attributes(node):
    """Attributes by name; a float32 becomes the decimal number that it stands for."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: float(str(np.float32(value))) if isinstance(value, float) else value
        for name, value in values.items()
    }


def check_logits(graph, model, images):
    """Asserts that `graph`, in float64, and our `model` agree in evaluation mode."""
    expected = graph(images.astype(np.float64))
    assert expected.dtype == np.float64
    variables = ours.variables(model, images, graph.layers())
    ours.check_logits(model, variables, images, lambda _: expected)
