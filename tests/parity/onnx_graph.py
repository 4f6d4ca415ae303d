"""The networks that the onnx package brings as "light" graphs, run by its own evaluator.

They have the layers of the published models and constants for weights. Here the weights
are random; `variables` has them in our form, paired as in `port`: in calling order.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers

onnx = pytest.importorskip("onnx", reason="requirements-dev.txt has the graphs")
from onnx import helper, numpy_helper, reference  # noqa: E402

FOLDER = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


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
        if pools and _attribute(pools[-1], "kernel_shape") == [7, 7]:
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
        """From where to where the values of each weight are drawn."""
        ranges = {}
        for name, shape in shapes.items():
            # He, a sum of squares that stays; small vectors, whatever they are.
            bound = (6 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
            ranges[name] = (-bound, bound)
        for node in self.nodes:
            if node.op_type == "BatchNormalization":
                ranges[node.input[1]] = (0.5, 1.0)
                ranges[node.input[4]] = (0.5, 1.5)
            elif node.op_type == "Mul":
                ranges[self.source(node.input[1])] = (0.5, 1.0)
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
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == kind and (where or {}).items() <= given.items():
                del node.attribute[:]
                node.attribute.extend(
                    helper.make_attribute(n, v) for n, v in (given | values).items()
                )
                found = True
        assert found, f"no {kind} with {where}"

    def __call__(self, images):
        """Logits [B, K] of images [B, H, W, C], computed in their type."""
        weights = {n: v.astype(images.dtype) for n, v in self.weights.items()}
        feeds = {self.input: images.transpose(0, 3, 1, 2), **weights, **self.constants}

        def declare(name):
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)

        graph = helper.make_graph(
            self.nodes, "graph", list(map(declare, feeds)), [declare(self.output)]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)])
        (logits,) = reference.ReferenceEvaluator(model).run(None, feeds)
        return logits.reshape(len(images), -1)

    def layers(self):
        """Arrays of the layers with weights, in calling order.

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
                result.append(dict(zip(("kernel", "bias"), values, strict=False)))
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

    def variables(self, model, images):
        """The collections of our `model`, float64, with the weights of the graph."""
        ours, shapes = _our_layers(model, images)
        theirs = self.layers()
        listing = "\n".join(f"{i}: {'.'.join(path)}" for i, path in enumerate(ours))
        assert len(theirs) == len(ours), (
            f"the graph has {len(theirs)} layers, we call:\n{listing}"
        )
        result = {"params": {}, "batch_stats": {}}
        for i, (values, path) in enumerate(zip(theirs, ours, strict=True)):
            wanted = functools.reduce(lambda tree, n: tree[n], path, shapes["params"])
            for name, value in values.items():
                collection = "batch_stats" if name in ("mean", "var") else "params"
                if name == "kernel":
                    value = _kernel(value, wanted["kernel"].shape)
                if collection == "params":
                    assert value.shape == wanted[name].shape, (
                        f"layer {i}, {'.'.join(path)}: {name} is {value.shape} in the "
                        f"graph, {wanted[name].shape} in ours"
                    )
                tree = result[collection]
                for parent in path:
                    tree = tree.setdefault(parent, {})
                tree[name] = value
        return result


def _attribute(node, name):
    (value,) = (a for a in node.attribute if a.name == name)
    return helper.get_attribute_value(value)


def _our_layers(model, images):
    """Paths of the layers with weights that `model` calls in evaluation, and shapes."""
    calls = []
    kinds = nn.Conv | nn.Dense | nn.BatchNorm | layers.FullyConnected

    def record(call, args, kwargs, context):
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            calls.append(context.module.path)
        return call(*args, **kwargs)

    def init(key):
        return model.init(key, images, train=False)

    def evaluate(variables):
        with nn.intercept_methods(record):
            return model.apply(variables, images, train=False)

    shapes = jax.eval_shape(init, jax.random.key(0))
    jax.eval_shape(evaluate, shapes)
    return calls, shapes


def _kernel(weight, shape):
    """A weight [out, in, ...] of the graph as a kernel of our `shape` [..., in, out]."""
    if weight.ndim == 2 and len(shape) == 4:  # on a map, whose pixels onnx lays flat
        height, width, channels, features = shape
        weight = weight.reshape(features, channels, height, width)
    elif len(shape) == 2:
        weight = weight.reshape(len(weight), -1)
    return np.moveaxis(weight, (0, 1), (-1, -2))


def random_images(size, channels=3, batch=2, seed=0):
    """Images [B, H, W, C], float32; `size` is a number or (height, width)."""
    size = (size, size) if isinstance(size, int) else size
    draw = np.random.default_rng(seed).normal(size=(batch, *size, channels))
    return draw.astype(np.float32)


def check_logits(graph, model, images):
    """Asserts that `graph` and our `model` agree on float32 images in evaluation mode.

    The graph computes in float64; ours differs by 1e-4 of the largest logit in float32,
    and by 1e-10 in float64. Returns the two differences.
    """
    variables = graph.variables(model, images)
    theirs = graph(images.astype(np.float64))
    assert theirs.dtype == np.float64
    scale = np.abs(theirs).max()
    # Logits that depend on the image, and on more than the last bias.
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * scale
    differences = []
    for name, bound in (("float32", 1e-4), ("float64", 1e-10)):
        with jax.enable_x64(name == "float64"):
            cast = jax.tree.map(lambda v, name=name: v.astype(name), variables)
            ours = model.clone(dtype=jnp.dtype(name))
            logits = jax.jit(functools.partial(ours.apply, train=False))(
                cast, images.astype(name)
            )
            assert logits.dtype == name
        differences.append(float(np.abs(np.asarray(logits) - theirs).max() / scale))
        assert differences[-1] < bound, f"{name}: {differences[-1]}"
    return differences
