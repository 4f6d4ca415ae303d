"""The layer table of a network: shapes only, nothing is downloaded or computed."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

import data_source
import evaluate
from models.layers import AvgPool, FullyConnected, MaxPool

HEADER = (
    "layer",
    "kind",
    "kernel/stride/padding",
    "output",
    "parameters",
    "multiply-adds",
    "connections",
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the table; the counts are for one image.

    The name is the module's path without "backbone" and "head".

    Multiply-adds are those of convolutions, fully connected layers and RBF units.
    Connections also count biases and what sub-sampling units sum, as LeNet-5's paper
    does.
    """

    name: str
    kind: str
    kernel: str
    output: tuple
    parameters: int
    multiply_adds: int
    connections: int
    auxiliary: bool = False  # of an auxiliary head, which is not there in evaluation


def summarize(config):
    """The table of the network that `config` trains, as text."""
    dataset = config.dataset
    image_shape, num_classes = data_source.describe(
        dataset.name, data_dir=dataset.data_dir or None
    )
    # Images that differ in size are brought to the input's.
    image_shape = tuple(
        dataset.image_size or n if n is None else n for n in image_shape
    )
    preprocessing = evaluate.make_preprocessing(config, image_shape)
    shape = evaluate.input_shape(preprocessing, image_shape)
    model = evaluate.make_model(config, num_classes)
    evaluate.abstract_variables(model, shape)
    title = f"{config.model.name}, input {_times(shape)}, {num_classes} classes"
    return f"{title}\n{table(layers(model, shape))}"


def layers(model, shape):
    """The layers of `model` for images of `shape` [H, W, C], in calling order."""
    rows, open_calls, auxiliary = [], [], []

    def record(next_call, args, kwargs, context):
        if context.method_name == "auxiliary":
            auxiliary.append(True)
            output = next_call(*args, **kwargs)
            auxiliary.pop()
            return output
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        open_calls.append(len(rows))
        output = next_call(*args, **kwargs)
        is_leaf = open_calls.pop() == len(rows)
        if is_leaf and not isinstance(context.module, nn.Dropout):
            rows.append(_layer(context.module, output.shape, bool(auxiliary)))
        return output

    def init(key):
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros((1, *shape)), train=False)

    jax.eval_shape(init, jax.random.key(0))
    return rows


def _layer(module, output_shape, auxiliary):
    params = module.variables.get("params", {})
    positions = math.prod(output_shape[1:-1])
    kernel = params["kernel"].size if "kernel" in params else 0
    bias = params["bias"].size if kernel and "bias" in params else 0
    multiply_adds, connections = positions * kernel, positions * (kernel + bias)
    if hasattr(module, "connections"):
        multiply_adds = module.multiply_adds(output_shape)
        connections = module.connections(output_shape)
    return Layer(
        ".".join(n for n in module.path if n not in ("backbone", "head")),
        type(module).__name__,
        _kernel(module, params),
        tuple(output_shape[1:]),
        sum(p.size for p in jax.tree.leaves(params)),
        multiply_adds,
        connections,
        auxiliary,
    )


def _kernel(module, params):
    """Kernel, stride, padding, and groups where there are several: "5x5/1/2 g2"."""
    if hasattr(module, "KERNEL"):
        return module.KERNEL
    if isinstance(module, nn.Conv):
        window, groups = module.kernel_size, module.feature_group_count
    elif isinstance(module, MaxPool | AvgPool):
        window, groups = module.window, 1
    elif isinstance(module, FullyConnected):
        return f"{_times(params['kernel'].shape[:2])}/1/0"
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
    return f"{size}x{size}" if isinstance(size, int) else _times(size)


def _number(size):
    """One number where both axes have the same, else "0x3"."""
    if isinstance(size, int | str):
        return str(size)
    low = [_number(s) for s in size]
    return low[0] if len(set(low)) == 1 else "x".join(low)


def table(rows):
    """Rows as aligned text, with totals; those of auxiliary heads stand apart."""
    text = [HEADER]
    for row in rows:
        cells = (row.name, row.kind, row.kernel, _times(row.output))
        text.append(cells + _counts([row]))
    heads = [row for row in rows if row.auxiliary]
    body = [row for row in rows if not row.auxiliary]
    totals = [("total", "", "", "", *_counts(body))]
    if heads:
        totals.append(("auxiliary heads", "", "", "", *_counts(heads)))
    text += totals
    widths = [max(len(line[i]) for line in text) for i in range(len(HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if i >= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in text
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    end = len(lines) - len(totals)
    return "\n".join([lines[0], rule, *lines[1:end], rule, *lines[end:]])


def _counts(rows):
    sums = (
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        sum(row.connections for row in rows),
    )
    return tuple(f"{n:,}" for n in sums)


def _times(shape):
    return "x".join(map(str, shape))
