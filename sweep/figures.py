"""Draws the results of a sweep: the metric by field, curves, and all fields at once.

Lines and bars are means over the runs that differ in their seed alone.
"""

import dataclasses

from analysis import curves
from errors import UserError
from sweep import by_epoch, by_field, parallel
from sweep.axes import Results


@dataclasses.dataclass(frozen=True)
class Plot:
    """What was drawn of a sweep: {what: files}, and remarks on what was not."""

    title: str
    drawn: dict
    remarks: tuple = ()

    def __str__(self):
        lines = [
            f"{what}: {' and '.join(map(str, files))}"
            for what, files in self.drawn.items()
        ]
        return "\n".join([self.title, *lines, *self.remarks])


def plot(name, rows, read, output):
    """Draws the results of a sweep, each view as PNG and as SVG.

    `output` holds the metric by each field that varies; beside it are `output`-curves
    with the curves by epoch, and, if two fields or more vary besides the seed,
    `output`-parallel, where each line is a combination. A view without content is left
    out; runs that have not ended are missing in all but the curves.

    Args:
      name: of the sweep, for the titles.
      rows: the `table.Row`s.
      read: a function from a run's name to what `analysis.curves.read` returns. It is
        called once for each run that is not waiting, and may raise WorkdirError.
      output: a file, whose suffix, if any, is .png or .svg; both are written.

    Returns:
      The `Plot`.

    Raises:
      UserError: no run has a result or curves yet.
      WorkdirError: a file cannot be written, or `output` has another suffix.
    """
    results = Results(name, tuple(rows))
    fields, epochs, every = (
        curves.both(output, ending) for ending in ("", "-curves", "-parallel")
    )
    drawn, remarks = {}, []
    if results.ended and len(results.rows) > 1:
        by_field.draw(results, fields)
        drawn[f"{results.label} by {', '.join(results.names) or 'seed'}"] = fields
    found, without = by_epoch.read(results, read)
    if found:
        by_epoch.draw(results, found, epochs)
        drawn[f"curves by epoch (runs: {len(found):,})"] = epochs
    if without:
        remarks.append(f"runs that have begun but have no curves: {without:,}")
    if len(results.fields) > 1 and results.ended:
        parallel.draw(results, every)
        drawn["all fields at once"] = every
    if not drawn:
        raise UserError(f"{results.title}: no run has a result or a curve to draw yet")
    return Plot(results.title, drawn, tuple(remarks))
