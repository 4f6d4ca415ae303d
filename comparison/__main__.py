"""python -m comparison: prints the networks side by side, with costs and errors."""

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

from comparison import counts
from comparison.published import PUBLISHED, Published

BATCH_SIZE = 32  # of the column "memory"

DESCRIPTION = """\
Compares what networks cost, counted from their shapes, and how well they did in their
papers. It trains and downloads nothing and uses no GPU.

  python -m comparison                          all networks, in order of publication
  python -m comparison 'resnet*' densenet121    some, by name or pattern
  python -m comparison 'vgg*' --sort=top1       the best first
  python -m comparison --format=markdown        for a README; csv for a program
  python -m comparison --plot=networks.png      error against cost, ImageNet
  python -m comparison --trace resnet50         counts it again and stores the counts"""

# The choices of --sort: the column's heading and its value in a row.
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
    """A network's published figures and its cost."""

    published: Published
    counts: counts.Counts

    @property
    def memory(self):
        return counts.activation_bytes(self.counts, BATCH_SIZE)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, without the usage."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")


def main(argv=None):
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        names = select(options.networks)
        if options.plot:
            check_plot(options.plot)
        rows = sort(trace(names) if options.trace else read(names), options.sort)
        print({"text": text, "markdown": markdown, "csv": as_csv}[options.format](rows))
        if options.plot:
            plot(rows, options.plot)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(1, f"error: {error}\n")


def _parser():
    parser = _Parser(
        prog="python -m comparison",
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
    parser.add_argument(
        "--trace",
        action="store_true",
        help="count the networks again, which takes a minute for all of them, and "
        f"write the counts that differ to {counts.FILE.name}",
    )
    return parser


def select(patterns):
    """Returns the names that match any pattern, each once, in order of publication.

    Raises:
      ValueError: a pattern matches no name; the message suggests the nearest ones.
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


def read(names):
    """Returns the networks' rows with the counts stored in counts.csv.

    Raises:
      ValueError: the file has no counts of a network; the message names the command
        that stores them.
    """
    stored = counts.stored()
    missing = [name for name in names if name not in stored]
    if missing:
        raise ValueError(
            f"{counts.FILE.name} has no counts of {', '.join(missing)}; to store them: "
            f"python -m comparison --trace {' '.join(missing)}"
        )
    return [Row(PUBLISHED[name], stored[name]) for name in names]


def trace(names):
    """Returns the networks' rows, counted again, and stores the counts that differ."""
    import jax

    import models
    from comparison import counting

    jax.config.update("jax_platforms", "cpu")  # leaves accelerators to other programs
    traced = {}
    for name in progress(names):
        row = PUBLISHED[name]
        model = models.create(name, num_classes=row.classes)
        shape = row.image, row.image, row.channels
        traced[name] = counting.count(model, shape)

    stored = counts.stored()
    changed = [name for name in names if traced[name] != stored.get(name)]
    if changed:
        merged = stored | traced
        counts.store({name: merged[name] for name in PUBLISHED if name in merged})
    print(f"{counts.FILE.name}: changed {', '.join(changed) or 0}", file=sys.stderr)
    return [Row(PUBLISHED[name], traced[name]) for name in names]


def progress(names):
    """Yields `names` and shows each on standard error, if that is a terminal."""
    show = sys.stderr.isatty()
    for i, name in enumerate(names, 1):
        if show:
            print(f"\r\033[K{i}/{len(names)} {name}", end="", file=sys.stderr)
        yield name
    if show:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def sort(rows, column):
    """Sorts by a column: smallest first, unknown last, equal ones as given."""
    key = COLUMNS[column][1]
    return sorted(rows, key=lambda row: (key(row) is None, key(row) or 0))


def cells(row):
    """Formats a row's cells in the order of HEADER."""
    published = row.published
    image = f"{published.image}x{published.image}x{published.channels}"
    mark = "" if published.verified else "?"
    return (
        published.name,
        str(published.year),
        str(published.layers),
        image,
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
    """Formats an aligned table with its notes below."""
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
    """Formats a table with its notes below for GitHub."""
    rules = ["---" if name in LEFT else "---:" for name in HEADER]
    lines = [HEADER, rules, *map(cells, rows)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    listed = [f"- **{name}**: {note}" for name, note in notes(rows)]
    return "\n".join([*table, "", *listed])


def as_csv(rows):
    """Formats every field of `Published` and `Counts`, and the memory in bytes."""
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
    """Returns (column, its meaning) pairs for a table of `rows`; none is any table."""
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
    """Formats notes with their names in a column."""
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
    """Checks that a picture can be drawn to `path`.

    Raises:
      ValueError: matplotlib is missing, or the suffix or the directory is wrong.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install matplotlib")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot={path}: the name must end in .png, .svg or .pdf")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot={path}: there is no directory {path.parent}")


def plot(rows, path):
    """Draws those of the networks that have a top-1 error on ImageNet.

    Raises:
      ValueError: no network has one.
    """
    from comparison import chart

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
