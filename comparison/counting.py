"""Counts a network's parameters, multiply-adds and activations from shapes alone.

`jax.eval_shape` traces the network once; it computes nothing and allocates no arrays.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from comparison.counts import Counts
from models.layers import (
    KEEPS_INPUT,
    AvgPool,
    FullyConnected,
    MaxPool,
    shapes_only,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the layer table; the counts are for one image, or for one region of it.

    The name is the module's path without "backbone" and "head". A layer that is called
    again has its parameters in its first row.

    Multiply-adds are those of convolutions, fully connected layers and RBF units.
    Connections also include biases and the inputs that sub-sampling units sum, as in
    LeNet-5's paper. `counts.activation_bytes` says which activations count.
    """

    name: str
    kind: str
    kernel: str
    output: tuple
    parameters: int
    multiply_adds: int
    connections: int
    auxiliary: bool = False  # part of an auxiliary head, which evaluation leaves out
    regional: bool = False  # seen by each region that a detector proposes
    activations: int = 0


# Methods of networks whose layers have a column of `Layer`, by its name.
PARTS = {"auxiliary": "auxiliary", "second_stage": "regional"}


def count(model, shape):
    """Traces `model` for images of `shape` [H, W, C] and returns its `Counts`."""
    return total(layers(model, shape))


def total(rows):
    """Sums the layers `rows` of a network up to its `Counts`."""
    return Counts(
        sum(row.parameters for row in rows),
        sum(row.parameters for row in rows if row.auxiliary),
        sum(row.multiply_adds for row in rows if not row.auxiliary),
        sum(row.activations for row in rows),
    )


def layers(model, shape):
    """Returns each `Layer` of `model` for images of `shape` [H, W, C], as called."""
    rows, open_calls, parts = [], [], []
    traced = {}  # layers by signature, because a deep network has many equal ones
    kept = {}  # arrays already counted, by id; held here so that no id is used again
    called = set()  # paths of layers whose parameters are counted

    def record(next_call, args, kwargs, context):
        module = context.module
        if context.method_name in PARTS:
            parts.append(PARTS[context.method_name])
            output = next_call(*args, **kwargs)
            parts.pop()
            return output
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        signature = _signature(module, args, kwargs)
        if signature in traced:
            layer, shape, dtype = traced[signature]
            output = jnp.zeros(shape, dtype)
        else:
            open_calls.append(len(rows))
            output = next_call(*args, **kwargs)
            is_leaf = open_calls.pop() == len(rows)
            if not is_leaf or isinstance(module, nn.Dropout):
                return output
            layer = _layer(module, output.shape)
            if signature:
                traced[signature] = layer, output.shape, output.dtype
        activations = 0
        if layer.parameters or isinstance(module, KEEPS_INPUT):
            new = {id(x): x for x in jax.tree.leaves(args) if id(x) not in kept}
            activations = sum(x.size for x in new.values())
            kept.update(new)
        again = module.path in called
        called.add(module.path)
        rows.append(
            dataclasses.replace(
                layer,
                name=_name(module),
                parameters=0 if again else layer.parameters,
                activations=activations,
                **dict.fromkeys(parts, True),
            )
        )
        return output

    def init(key, image):
        kept[id(image)] = image
        with nn.intercept_methods(record):
            return model.init(key, image, train=False)

    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with shapes_only():
        jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), image)
    return rows


def _signature(module, args, kwargs):
    """Returns what decides a layer's counts and output; None if not comparable."""
    if len(args) != 1 or kwargs:
        return None
    fields = tuple(
        getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name") and not field.name.endswith("_init")
    )
    try:
        signature = type(module), fields, jax.typeof(args[0])
        hash(signature)
    except TypeError:
        return None
    return signature


def _layer(module, output_shape):
    params = module.variables.get("params", {})
    positions = math.prod(output_shape[1:-1])
    kernel = params["kernel"].size if "kernel" in params else 0
    bias = params["bias"].size if kernel and "bias" in params else 0
    multiply_adds, connections = positions * kernel, positions * (kernel + bias)
    if hasattr(module, "connections"):
        multiply_adds = module.multiply_adds(output_shape)
        connections = module.connections(output_shape)
    return Layer(
        _name(module),
        type(module).__name__,
        _kernel(module, params),
        tuple(output_shape[1:]),
        sum(p.size for p in jax.tree.leaves(params)),
        multiply_adds,
        connections,
    )


def _name(module):
    return ".".join(name for name in module.path if name not in ("backbone", "head"))


def _kernel(module, params):
    """Returns kernel, stride, padding and any groups of a layer, as "5x5/1/2 g2"."""
    if hasattr(module, "KERNEL"):
        return module.KERNEL
    if isinstance(module, nn.Conv):
        window, groups = module.kernel_size, module.feature_group_count
    elif isinstance(module, MaxPool | AvgPool):
        window, groups = module.window, 1
    elif isinstance(module, FullyConnected):
        return f"{times(params['kernel'].shape[:2])}/1/0"
    else:
        return ""
    stride, padding = map(_number, (module.strides or 1, module.padding))
    text = f"{_pair_text(window)}/{stride}/{padding}"
    ceil = " ceil" if getattr(module, "ceil", False) else ""
    return text + (f" g{groups}" if groups > 1 else "") + ceil


def _pair_text(size):
    return f"{size}x{size}" if isinstance(size, int) else times(size)


def _number(size):
    """Formats equal numbers for both axes as one, others as "0x3"."""
    if isinstance(size, int | str):
        return str(size)
    low = [_number(s) for s in size]
    return low[0] if len(set(low)) == 1 else "x".join(low)


def times(shape):
    """Formats (28, 28, 6) as "28x28x6"."""
    return "x".join(map(str, shape))
