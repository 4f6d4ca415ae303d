"""What is known of all networks and of the papers' claims, for the page."""

import functools
import inspect
import pathlib
import re
import sys

import models
from claims.harness import catalogue, report
from comparison import __main__ as comparison
from comparison import chart

CLAIMS = pathlib.Path(__file__).parents[1] / "docs" / "claims"
SCALES = ("paper", "small")  # the first of which there is a result is shown


@functools.cache
def networks():
    """Returns the columns, the rows and the notes of the table of all networks.

    A row has the values to sort by and the texts to show. With a top-1 error on
    ImageNet it also has a place in the chart.
    """
    rows = comparison.read(comparison.select([]))
    return {
        "columns": comparison.HEADER,
        "rows": [_row(row) for row in rows],
        "notes": comparison.notes(rows),
        "colours": chart.COLOURS,
    }


def _row(row):
    published, counts = row.published, row.counts
    values = {heading: value(row) for heading, value in comparison.COLUMNS.values()}
    values |= {"image": published.image, "protocol": published.protocol}
    imagenet = published.classes == 1000 and published.top1 is not None
    return {
        "texts": comparison.cells(row),
        "values": [values[heading] for heading in comparison.HEADER],
        "family": published.family,
        "paper": paper(published.name),
        "chart": imagenet,
        "parameters": counts.parameters - counts.auxiliary_parameters,
        "single_crop": published.protocol.startswith("1-crop"),
    }


def paper(name):
    """The paper of a network: the first paragraph of its module, without the URL."""
    make = models.constructor(name)
    while isinstance(make, functools.partial):
        make = make.func
    text = inspect.getdoc(sys.modules[make.__module__]).partition("\n\n")[0]
    text = re.sub(r",?\s*https?://\S+", "", text)
    return " ".join(text.split()).rstrip(".")


@functools.cache
def claims():
    """Lists the papers' claims, with the results that docs/claims has."""
    found = []
    for name in catalogue.names():
        claim, outcome, figure = catalogue.load(name), None, ""
        for scale in SCALES:
            outcome = outcome or report.read(CLAIMS, name, scale)
        if outcome:
            figure = f"{name}-{outcome[0].scale}.png"
        row = {"name": name, "claim": claim.CLAIM, "source": claim.SOURCE}
        row |= {"stated": claim.STATED, "text": claim.text(), "verdict": ""}
        if outcome:
            verdict = outcome[0].verdict
            row |= {"verdict": verdict.word, "reason": verdict.reason}
            row["scale"] = outcome[0].scale
        row["figure"] = figure if figure in figures() else ""
        found.append(row)
    return sorted(found, key=lambda row: not row["verdict"])


@functools.cache
def figures():
    """The pictures in docs/claims: {name: path}."""
    return {path.name: path for path in sorted(CLAIMS.glob("*.png"))}
