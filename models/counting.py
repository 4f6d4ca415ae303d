"""Parameters, multiply-adds and activations of a network, from shapes alone.

`jax.eval_shape` traces the network once; nothing is computed, and no memory is taken.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import AvgPool, FullyConnected, LocalResponseNorm, MaxPool


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the table of layers; the counts are for one image.

    The name is the module's path without "backbone" and "head".

    Multiply-adds are those of convolutions, fully connected layers and RBF units.
    Connections also count biases and what sub-sampling units sum, as LeNet-5's paper
    does. Activations are those of `activation_bytes`.
    """

    name: str
    kind: str
    kernel: str
    output: tuple
    parameters: int
    multiply_adds: int
    connections: int
    auxiliary: bool = False  # of an auxiliary head, which is not there in evaluation
    activations: int = 0


# Layers whose gradient needs their input although they may have no parameters.
KEEPS_INPUT = (nn.BatchNorm, MaxPool, LocalResponseNorm)


@dataclasses.dataclass(frozen=True)
class Counts:
    """A network's sums; multiply-adds and activations are for one image."""

    parameters: int  # with those of auxiliary heads
    auxiliary_parameters: int
    multiply_adds: int  # in evaluation: without auxiliary heads
    activations: int  # in training: with auxiliary heads


def count(model, shape):
    """The `Counts` of `model` for images of `shape` [H, W, C]."""
    rows = layers(model, shape)
    return Counts(
        sum(row.parameters for row in rows),
        sum(row.parameters for row in rows if row.auxiliary),
        sum(row.multiply_adds for row in rows if not row.auxiliary),
        sum(row.activations for row in rows),
    )


def activation_bytes(counts, batch_size, bytes_each=4):
    """What training keeps of the forward pass for the backward pass.

    That is, the arrays that the gradients of layers need: the inputs of convolutions
    and fully connected layers, of normalisations and of max pools. Each array counts
    once, whatever the number of layers that take it. Not counted are images,
    parameters, masks of dropout, and what can be had from these arrays number by
    number: outputs of ReLUs that no layer takes, say into a sum, and what
    squeeze-and-excitation multiplies.

    It is an estimate from shapes. XLA may keep less, because it can compute one array
    again from another, and it needs room for gradients and scratch besides. What XLA
    plans on a CPU beside the parameters and their gradients (jax 0.10.2, float32, batch
    32) is 1.6 times this for ResNet-20 and ResNet-50 and 1.8 times for ResNet-18.
    """
    return counts.activations * batch_size * bytes_each


def layers(model, shape):
    """The layers of `model` for images of `shape` [H, W, C], in calling order."""
    rows, open_calls, auxiliary = [], [], []
    traced = {}  # Layers by signature: a deep network has many that are equal.
    kept = {}  # Arrays that count already, by identity (and alive, so that it is one).

    def record(next_call, args, kwargs, context):
        module = context.module
        if context.method_name == "auxiliary":
            auxiliary.append(True)
            output = next_call(*args, **kwargs)
            auxiliary.pop()
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
        rows.append(
            dataclasses.replace(
                layer,
                name=_name(module),
                auxiliary=bool(auxiliary),
                activations=activations,
            )
        )
        return output

    def init(key, image):
        kept[id(image)] = image
        with nn.intercept_methods(record):
            return model.init(key, image, train=False)

    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(init, jax.random.key(0), image)
    return rows


def _signature(module, args, kwargs):
    """What decides a layer's counts and output; None if that cannot be compared."""
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
    """Kernel, stride, padding, and groups where there are several: "5x5/1/2 g2"."""
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
    sizes = window, module.strides or 1, module.padding
    kernel, stride, padding = (
        size if isinstance(size, int | str) else tuple(size) for size in sizes
    )
    text = f"{_pair_text(kernel)}/{_number(stride)}/{_number(padding)}"
    ceil = " ceil" if getattr(module, "ceil", False) else ""
    return text + (f" g{groups}" if groups > 1 else "") + ceil


def _pair_text(size):
    return f"{size}x{size}" if isinstance(size, int) else times(size)


def _number(size):
    """One number where both axes have the same, else "0x3"."""
    if isinstance(size, int | str):
        return str(size)
    low = [_number(s) for s in size]
    return low[0] if len(set(low)) == 1 else "x".join(low)


def times(shape):
    """(28, 28, 6) as "28x28x6"."""
    return "x".join(map(str, shape))
