"""The layer table of a network: shapes only, nothing is downloaded or computed."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

import data_source
import evaluate

HEADER = (
    "layer",
    "kind",
    "kernel/stride",
    "output",
    "parameters",
    "multiply-adds",
    "connections",
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the table; the counts are for one image.

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


def summarize(config):
    """The table of the network that `config` trains, as text."""
    dataset = config.dataset
    image_shape, num_classes = data_source.describe(
        dataset.name, data_dir=dataset.data_dir or None
    )
    preprocessing = evaluate.make_preprocessing(config, image_shape)
    shape = evaluate.input_shape(preprocessing, image_shape)
    model = evaluate.make_model(config, num_classes)
    evaluate.abstract_variables(model, shape)
    title = f"{config.model.name}, input {_times(shape)}, {num_classes} classes"
    return f"{title}\n{table(layers(model, shape))}"


def layers(model, shape):
    """The layers of `model` for images of `shape` [H, W, C], in calling order."""
    rows, open_calls = [], []

    def record(next_call, args, kwargs, context):
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        open_calls.append(len(rows))
        output = next_call(*args, **kwargs)
        is_leaf = open_calls.pop() == len(rows)
        if is_leaf:
            rows.append(_layer(context.module, output.shape))
        return output

    def init(key):
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros((1, *shape)), train=False)

    jax.eval_shape(init, jax.random.key(0))
    return rows


def _layer(module, output_shape):
    params = module.variables.get("params", {})
    positions = math.prod(output_shape[1:-1])
    kernel, bias, text = 0, 0, ""
    if isinstance(module, nn.Conv | nn.Dense):
        kernel = params["kernel"].size
        bias = params["bias"].size if module.use_bias else 0
    if isinstance(module, nn.Conv):
        strides = module.strides or 1
        strides = strides if isinstance(strides, int) else strides[0]
        text = f"{_times(module.kernel_size)}/{strides}"
    multiply_adds, connections = positions * kernel, positions * (kernel + bias)
    if hasattr(module, "connections"):
        multiply_adds = module.multiply_adds(output_shape)
        connections = module.connections(output_shape)
        text = getattr(module, "KERNEL", "")
    return Layer(
        module.name or type(module).__name__,
        type(module).__name__,
        text,
        tuple(output_shape[1:]),
        sum(p.size for p in jax.tree.leaves(params)),
        multiply_adds,
        connections,
    )


def table(rows):
    """Rows as aligned text, with a line of totals."""
    text = [HEADER]
    for row in rows:
        counts = (row.parameters, row.multiply_adds, row.connections)
        text.append(
            (row.name, row.kind, row.kernel, _times(row.output))
            + tuple(f"{n:,}" for n in counts)
        )
    totals = (
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        sum(row.connections for row in rows),
    )
    text.append(("total", "", "", "", *(f"{n:,}" for n in totals)))
    widths = [max(len(line[i]) for line in text) for i in range(len(HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if i >= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in text
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _times(shape):
    return "x".join(map(str, shape))
