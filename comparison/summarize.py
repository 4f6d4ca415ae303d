"""Lists the layers of the network that a config trains, with their costs.

It works from shapes alone: nothing is downloaded, and the network is not run.
"""

import dataclasses

import data_source
import models
from comparison.counting import Layer, layers, times
from detection import sources
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

    def with_regions(self, region, number):
        """The sums of an image's layers and of `number` times those of a region."""
        return Totals(
            self.parameters + region.parameters,
            self.multiply_adds + number * region.multiply_adds,
            self.connections + number * region.connections,
        )


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
        totals = {"total": self.totals}
        if self.auxiliary_totals:
            totals["auxiliary heads"] = self.auxiliary_totals
        return _table(self.title, self.rows, totals)


@dataclasses.dataclass(frozen=True)
class DetectorSummary:
    """A detector's layers in calling order.

    Those of the second stage have the counts of one region, whose sums are `region`;
    the sums of the others are `image`. An image has `regions` of them in testing, of
    which context makes one more. Refinement lists the second stage twice, as it sees a
    region twice.
    """

    title: str
    rows: tuple[Layer, ...]
    image: Totals
    region: Totals
    regions: int

    @property
    def totals(self):
        return self.image.with_regions(self.region, self.regions)

    def __str__(self):
        totals = {
            "the image": self.image,
            "one region": self.region,
            f"total, {self.regions:,} regions": self.totals,
        }
        return _table(self.title, self.rows, totals)


def _table(title, rows, totals):
    """Formats a title and an aligned table of `rows` and {name: `Totals`}."""
    lines = [HEADER]
    for row in rows:
        kernel = row.kernel, times(row.output)
        lines.append((row.name, row.kind, *kernel, *_counts(row)))
    lines += [(name, "", "", "", *_counts(sums)) for name, sums in totals.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.rjust(width) if i >= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    end = 1 + len(rows)
    return "\n".join([title, table[0], rule, *table[1:end], rule, *table[end:]])


def summarize(config, known=None):
    """Returns the `Summary` of the network that `config` trains, or `DetectorSummary`.

    Args:
      known: what `trained.dataset` gives of a run; without it the data is asked.

    Raises:
      ConfigError: the network has no such field, or cannot take images of this size.
      DataError: the dataset is unknown.
    """
    if models.is_detector(config.model.name):
        return _detector(config, known)
    dataset = config.dataset
    if known:
        image_shape, num_classes = known[0], len(known[1])
    else:
        image_shape, num_classes = data_source.describe(
            dataset.name, data_dir=dataset.data_dir or None
        )
    # Where images differ in size, the input has the size that the config gives them.
    image_shape = tuple(
        dataset.image_size or n if n is None else n for n in image_shape
    )
    preprocessing = build.make_preprocessing(config, image_shape, training=True)
    shape = build.input_shape(preprocessing, image_shape)
    model = build.make_model(config, num_classes)
    with build.refusing(model, shape):
        rows = layers(model, shape)
    title = f"{config.model.name}, input {times(shape)}, {num_classes} classes"
    return summary(title, rows)


def _detector(config, known):
    """Returns the `DetectorSummary` for the largest wide image that a config allows."""
    dataset, detection = config.dataset, config.detection
    if known:
        channels, num_classes = known[0][-1], len(known[1])
    else:
        channels, num_classes = sources.dimensions(
            dataset.name, dataset.train_split, data_dir=dataset.data_dir or None
        )
    shape = detection.short_side, detection.long_side, channels
    model = build.make_model(config, num_classes)
    with build.refusing(model, shape):
        rows = layers(model, shape)
    title = f"{config.model.name}, input {times(shape)}, {num_classes} classes"
    if detection.test_scales:
        seen = ", ".join(map(str, detection.test_scales))
        title += f"\nfor one scale, {detection.short_side}; tests see regions at {seen}"
    return DetectorSummary(
        title,
        tuple(rows),
        _totals([row for row in rows if not row.regional]),
        _totals([row for row in rows if row.regional]),
        model.post_nms[1] + model.context,
    )


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
