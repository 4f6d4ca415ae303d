"""Draws the curves of a sweep, a line per combination with a band over seeds."""

import math
import statistics

from analysis import curves
from experiment import workdir

NAMED = 8  # combinations with a colour and a name
GREY = "0.8"


def read(results, read):
    """Reads {run: curves} of the runs that have begun; also counts those without."""
    found, without = {}, 0
    for row in results.rows:
        if row.state == "waiting":
            continue
        try:
            found[row.name] = read(row.name)
        except workdir.WorkdirError:
            without += row.state != "queued"  # which may have begun before, or not
    return found, without


def draw(results, found, files):
    """Draws the metric and the training loss by epoch, a line per combination.

    A line is the mean over the finished runs, or over all where none has finished, and
    the band around it goes from the lowest to the highest. The best NAMED combinations
    have colours and the others are grey.
    """
    groups = [g for g in results.groups if any(r.name in found for r in g.rows)]
    named, others = groups[:NAMED], groups[NAMED:]
    labels = results.labels(named)
    styles = [curves.style(number) for number in range(len(named))]
    if others:
        labels.append(f"{len(others):,} other combinations")
        styles.append({"color": GREY, "linewidth": 1})
    if any(len(group.rows) > 1 for group in named):
        labels.append("from the lowest to the highest seed")
        styles.append({"color": "0.4", "alpha": 0.3, "linewidth": 8})
    width = 11
    columns = curves.fitting(labels, width)
    height = 4.6 + 0.2 * math.ceil(len(labels) / columns)
    with curves.figure(1, 2, width, height, files) as (drawing, axes):
        panels = (_evaluated(results, found), "train/loss")
        for axis, panel in zip(axes.flat, panels, strict=True):
            _curves_panel(results, found, axis, panel, named, others)
        axes[0, 0].set_ylabel(
            results.label if panels[0] != "eval/loss" else "evaluation loss"
        )
        axes[0, 1].set_ylabel("training loss")
        results.entitle(drawing)
        curves.legend(drawing, zip(labels, styles, strict=True), columns)


def _evaluated(results, found):
    """The name of the curve of the metric that counts, or of another if it has none."""
    known = {name for curve in found.values() for name in curve}
    names = f"eval/{results.score}", "eval/error", "eval/loss"
    return next((name for name in names if name in known), names[0])


def _curves_panel(results, found, axis, panel, named, others):
    from matplotlib import ticker

    lines = [(None, group) for group in reversed(others)]
    lines += [(n, named[n]) for n in reversed(range(len(named)))]  # the best on top
    shown = []
    for number, group in lines:
        epochs, mean, low, high = averaged(group, found, panel)
        if number is None:
            axis.plot(epochs, mean, color=GREY, linewidth=0.8)
            continue
        style = curves.style(number)
        axis.plot(
            epochs, mean, linewidth=1.5, markevery=max(len(epochs) // 12, 1), **style
        )
        axis.fill_between(
            epochs, low, high, color=style["color"], alpha=0.15, linewidth=0
        )
        if group.spread or not results.values:
            shown += [x for x in (*low, *high) if math.isfinite(x)]
    axis.set_xlabel("epoch")
    if not axis.dataLim.width > 0 and not shown:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "nothing yet", transform=axis.transAxes, ha="center")
        return
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(
        ticker.MaxNLocator(integer=axis.dataLim.x1 > 3, steps=[1, 2, 5, 10])
    )
    if shown:
        _limit(axis, min(shown), max(shown))


def _limit(axis, low, high):
    """Limits an axis to the curves of finished runs; those of others may leave it."""
    if low > 0:
        curves.logarithmic(axis, high / low)
        room = max(high / low, 1.1) ** 0.05
        axis.set_ylim(low / room, high * room)
    else:
        room = 0.05 * (high - low) or 1.0
        axis.set_ylim(low - room, high + room)


def averaged(group, found, panel):
    """Averages one curve over the runs of a group: lists epochs, mean, low, high.

    Runs count where they have a point. If some have finished, only those count.
    """
    rows = [row for row in group.rows if row.value is not None] or group.rows
    points = {}
    for row in rows:
        for epoch, value in zip(
            *found.get(row.name, {}).get(panel, ((), ())), strict=True
        ):
            # The last digits of an epoch depend on the step it was computed from.
            points.setdefault(round(epoch, 6), []).append(value)
    epochs = sorted(points)
    columns = [points[epoch] for epoch in epochs]
    means = [statistics.fmean(column) for column in columns]
    return epochs, means, [*map(min, columns)], [*map(max, columns)]
