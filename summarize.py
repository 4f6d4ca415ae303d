"""The layer table of a network: shapes only, nothing is downloaded or computed."""

import data_source
from experiment import build
from models.counting import Layer, layers, times

__all__ = ["Layer", "layers", "summarize", "table"]

HEADER = (
    "layer",
    "kind",
    "kernel/stride/padding",
    "output",
    "parameters",
    "multiply-adds",
    "connections",
)


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
    preprocessing = build.make_preprocessing(config, image_shape)
    shape = build.input_shape(preprocessing, image_shape)
    model = build.make_model(config, num_classes)
    build.abstract_variables(model, shape)
    title = f"{config.model.name}, input {times(shape)}, {num_classes} classes"
    return f"{title}\n{table(layers(model, shape))}"


def table(rows):
    """Rows as aligned text, with totals; those of auxiliary heads stand apart."""
    text = [HEADER]
    for row in rows:
        cells = (row.name, row.kind, row.kernel, times(row.output))
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
