"""The layer table of a network, one row for each stage whose maps can be shown."""

import dataclasses

from comparison import counting


@dataclasses.dataclass(frozen=True)
class Row:
    """A stage, with the sums of the layers after the stage before it.

    Without a name it is what follows the last stage.
    """

    name: str
    output: str
    layers: int
    parameters: int
    multiply_adds: int


def rows(model, shape, stages):
    """Returns the rows of a network for inputs of `shape` [H, W, C].

    `stages` is {name: [h, w, D]} in order. A stage ends with the last layer that has
    its name or is in a module of its name, and the batch norm after it; if there is
    none, with the last layer of its shape.
    """
    layers = [x for x in counting.layers(model, shape) if not x.auxiliary]
    found, start = [], 0
    for name, output in stages.items():
        end = _end(layers, start, name, tuple(output))
        found.append(_row(name, counting.times(output), layers[start:end]))
        start = end
    rest = layers[start:]
    if rest:
        found.append(_row("", counting.times(rest[-1].output), rest))
    return found


def _end(layers, start, name, output):
    """The number of layers up to the end of a stage; `start` if none is its own."""
    inside = f"{name}.", f"{name.removesuffix('_x')}_"  # conv2_1.conv1 is in conv2_x
    rest = range(start, len(layers))
    own = [
        i + 1
        for i in rest
        if layers[i].name == name or layers[i].name.startswith(inside)
    ]
    alike = [i + 1 for i in rest if layers[i].output == output]
    end = max(own or alike, default=start)
    # A batch norm of the network's own, such as bn1, normalises what came before it.
    while own and end < len(layers) and _is_norm(layers[end]):
        end += 1
    return end


def _is_norm(layer):
    return layer.kind == "BatchNorm" and "." not in layer.name


def _row(name, output, layers):
    parameters = sum(layer.parameters for layer in layers)
    multiply_adds = sum(layer.multiply_adds for layer in layers)
    return Row(name, output, len(layers), parameters, multiply_adds)
