"""python -m models: the networks beside each other, counted and as published."""

import argparse
import csv
import dataclasses
import difflib
import fnmatch
import importlib.util
import io
import pathlib
import sys
import textwrap

import jax

import models
from models import chart, counting
from models.published import PUBLISHED, Published

BATCH_SIZE = 32  # of the column "memory"

DESCRIPTION = """\
Compares networks: what they cost, counted from their shapes, and how well they did in
their papers. Nothing is computed, downloaded or read, no GPU is used.

  python -m models                          all networks, in order of publication
  python -m models 'resnet*' densenet121    some, by name or pattern
  python -m models 'vgg*' --sort=top1       the best first
  python -m models --format=markdown        for a README; csv for a program
  python -m models --plot=networks.png      error against cost, ImageNet"""

# Name of --sort, of the column, and what is sorted by.
COLUMNS = {
    "year": ("year", lambda row: row.published.year),
    "name": ("network", lambda row: row.published.name),
    "layers": ("layers", lambda row: row.published.layers),
    "parameters": ("parameters", lambda row: row.counts.parameters),
    "multiply_adds": ("multiply-adds", lambda row: row.counts.multiply_adds),
    "memory": ("memory", lambda row: row.memory),
    "top1": ("top-1", lambda row: row.published.top1),
    "top5": ("top-5", lambda row: row.published.top5),
}
HEADER = (
    *("network", "year", "layers", "image", "parameters", "multiply-adds", "memory"),
    *("top-1", "top-5", "protocol"),
)
LEFT = ("network", "protocol")  # The other columns are numbers.


@dataclasses.dataclass(frozen=True)
class Row:
    """A network with what is counted and what was published of it."""

    published: Published
    counts: counting.Counts

    @property
    def memory(self):
        return counting.activation_bytes(self.counts, BATCH_SIZE)


def main(argv=None):
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        names = select(options.networks)
        if options.plot:
            check_plot(options.plot)
    except ValueError as error:
        parser.error(str(error))
    jax.config.update("jax_platforms", "cpu")  # Leave the accelerators to others.
    rows = sort([count(name) for name in progress(names)], options.sort)
    print({"text": text, "markdown": markdown, "csv": as_csv}[options.format](rows))
    if options.plot:
        try:
            plot(rows, options.plot)
        except ValueError as error:
            parser.error(str(error))


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The columns:\n\n" + _wrap(notes([]), 80),
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help="a name, or a pattern with *, ? or [...] in quotes; none: all of them",
    )
    parser.add_argument(
        "--format", choices=("text", "markdown", "csv"), default="text", help="(text)"
    )
    parser.add_argument(
        "--sort",
        choices=COLUMNS,
        default="year",
        metavar="COLUMN",
        help=f"{', '.join(COLUMNS)}; smallest first, unknown last (year)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=pathlib.Path,
        help="also draw the networks for ImageNet: .png, .svg or .pdf",
    )
    return parser


def select(patterns):
    """The names that match any of the patterns, each once, in order of publication.

    Raises:
      ValueError: a pattern matches none; the message names the nearest ones.
    """
    chosen = set()
    for pattern in patterns or ["*"]:
        found = fnmatch.filter(PUBLISHED, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, PUBLISHED, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"there is no network {pattern!r}{hint}")
        chosen.update(found)
    return [name for name in PUBLISHED if name in chosen]


def count(name):
    """The `Row` of the network called `name`, at its image size and classes."""
    row = PUBLISHED[name]
    model = models.create(name, num_classes=row.classes)
    return Row(row, counting.count(model, (row.image, row.image, row.channels)))


def progress(names):
    """`names`, each shown on a terminal's standard error while it is in use."""
    show = sys.stderr.isatty()
    for i, name in enumerate(names, 1):
        if show:
            print(f"\r\033[K{i}/{len(names)} {name}", end="", file=sys.stderr)
        yield name
    if show:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def sort(rows, column):
    """Smallest first, those without a number last, equal ones in order as given."""
    key = COLUMNS[column][1]
    return sorted(rows, key=lambda row: (key(row) is None, key(row) or 0))


def cells(row):
    """A row's texts, in the order of HEADER."""
    published = row.published
    mark = "" if published.verified else "?"
    return (
        published.name,
        str(published.year),
        str(published.layers),
        counting.times((published.image, published.image, published.channels)),
        f"{row.counts.parameters:,}",
        f"{row.counts.multiply_adds / 1e6:,.1f} M",
        f"{row.memory / 2**20:,.1f} MiB",
        *(
            "" if error is None else f"{error:.2f}{mark}"
            for error in (published.top1, published.top5)
        ),
        published.protocol,
    )


def text(rows):
    """An aligned table with its notes below."""
    lines = [HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(HEADER, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([table[0], rule, *table[1:], "", _wrap(notes(rows), 100)])


def markdown(rows):
    """A table with its notes below, as GitHub renders it."""
    rules = ["---" if name in LEFT else "---:" for name in HEADER]
    lines = [HEADER, rules, *map(cells, rows)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    listed = [f"- **{name}**: {note}" for name, note in notes(rows)]
    return "\n".join([*table, "", *listed])


def as_csv(rows):
    """Plain numbers, the memory in bytes; all that `Published` has."""
    lines = [
        dataclasses.asdict(row.published)
        | dataclasses.asdict(row.counts)
        | {f"memory_batch_{BATCH_SIZE}": row.memory}
        for row in rows
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().rstrip("\n")


def notes(rows):
    """(column, what it says) for the table of `rows`, or for any if there are none."""
    heads = ", ".join(
        f"{row.published.name} {row.counts.auxiliary_parameters:,}"
        for row in rows
        if row.counts.auxiliary_parameters
    )
    result = [
        ("layers", "as the paper counts them."),
        (
            "parameters",
            "the trainable ones of the network as it is created, with its auxiliary "
            "heads for training" + (f" ({heads})." if heads else "."),
        ),
        (
            "multiply-adds",
            "of convolutions and fully connected layers, for one image in evaluation, "
            "without auxiliary heads.",
        ),
        (
            "memory",
            f"activations that the backward pass needs, for a batch of {BATCH_SIZE} in "
            "float32: the inputs of convolutions, fully connected layers, "
            "normalisations and max pools, each array once. Parameters and images do "
            "not count. An estimate: what XLA allots can be less or more.",
        ),
        (
            "top-1, top-5",
            "published errors in per cent, not measured here, and the test's protocol. "
            "For ImageNet's validation images: 1-crop, 10-crop, or dense, slid over "
            "the whole image; 10 crops are 1 to 2 points better than one. "
            "CIFAR-10+: trained with shifts and flips, ++: with more.",
        ),
    ]
    if not all(row.published.verified for row in rows):
        result.append(("?", "at second hand, not checked against its source."))
    return result


def _wrap(notes, width):
    """Notes as text, their names in a column."""
    indent = max(len(name) for name, _ in notes) + 2
    return "\n".join(
        textwrap.fill(
            name.ljust(indent) + note,
            width,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
        for name, note in notes
    )


def check_plot(path):
    """Raises ValueError if a picture cannot be drawn to `path`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install matplotlib")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot={path}: the name must end in .png, .svg or .pdf")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot={path}: there is no directory {path.parent}")


def plot(rows, path):
    """Draws the networks for ImageNet that have a top-1 error.

    Raises:
      ValueError: none of them is one.
    """
    bubbles = [
        chart.Bubble(
            row.published.name,
            row.published.family,
            row.counts.multiply_adds,
            row.published.top1,
            row.counts.parameters - row.counts.auxiliary_parameters,
            row.published.protocol.startswith("1-crop"),
        )
        for row in rows
        if row.published.classes == 1000 and row.published.top1 is not None
    ]
    if not bubbles:
        raise ValueError("--plot: no network chosen has a top-1 error on ImageNet")
    chart.draw(bubbles, path)


if __name__ == "__main__":
    main()
