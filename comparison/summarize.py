"""Lists the layers of the network that a config trains, with their costs.

It works from shapes alone: nothing is downloaded, and the network is not run.
"""

import dataclasses

import data_source
from comparison.counting import Layer, layers, times
from experiment import build

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
class Totals:
    """The sums of some layers; the counts are for one image, as in `Layer`."""

    parameters: int
    multiply_adds: int
    connections: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network's layers in calling order.

    `totals` leave out auxiliary heads, which have totals of their own if there are any.
    """

    title: str
    rows: tuple[Layer, ...]
    totals: Totals
    auxiliary_totals: Totals | None

    def __str__(self):
        """Formats the title and an aligned table that ends with the totals."""
        lines = [
            HEADER,
            *(
                (row.name, row.kind, row.kernel, times(row.output), *_counts(row))
                for row in self.rows
            ),
            ("total", "", "", "", *_counts(self.totals)),
        ]
        if self.auxiliary_totals:
            lines.append(
                ("auxiliary heads", "", "", "", *_counts(self.auxiliary_totals))
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.rjust(width) if i >= 4 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        end = 1 + len(self.rows)
        return "\n".join(
            [self.title, table[0], rule, *table[1:end], rule, *table[end:]]
        )


def summarize(config):
    """Returns the `Summary` of the network that `config` trains.

    Raises:
      ConfigError: the network has no such field, or cannot take images of this size.
      DataError: the dataset is unknown.
    """
    dataset = config.dataset
    image_shape, num_classes = data_source.describe(
        dataset.name, data_dir=dataset.data_dir or None
    )
    # Where images differ in size, the input has the size that the config gives them.
    image_shape = tuple(
        dataset.image_size or n if n is None else n for n in image_shape
    )
    preprocessing = build.make_preprocessing(config, image_shape)
    shape = build.input_shape(preprocessing, image_shape)
    model = build.make_model(config, num_classes)
    build.abstract_variables(model, shape)  # says in one line what does not fit
    title = f"{config.model.name}, input {times(shape)}, {num_classes} classes"
    return summary(title, layers(model, shape))


def summary(title, rows):
    """Returns the `Summary` of a network with the layers `rows`."""
    heads = [row for row in rows if row.auxiliary]
    network = [row for row in rows if not row.auxiliary]
    return Summary(
        title, tuple(rows), _totals(network), _totals(heads) if heads else None
    )


def _totals(rows):
    return Totals(
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        sum(row.connections for row in rows),
    )


def _counts(row):
    counts = row.parameters, row.multiply_adds, row.connections
    return tuple(f"{n:,}" for n in counts)
