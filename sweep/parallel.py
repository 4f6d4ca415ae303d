"""Draws all fields of a sweep at once, a line per combination of their values."""

import math

from analysis import curves, pictures
from sweep.axes import TICKED, Scale, round_ticks

THICK = 5  # combinations with thick lines


def draw(results, files):
    """Draws each combination as a line through its values and its metric.

    Every field has a vertical axis, and the metric the last. Colours go with the
    metric, and the best lie on top; a combination without a metric that diverged is a
    dashed line to the top.
    """
    scales = [Scale.of(results, field) for field in results.fields]
    several = any(len(group.rows) > 1 for group in results.groups)
    seeds = " (mean over seeds)" if several else ""
    width = max(1.9 * (len(scales) + 1) + 0.8, 6.5)
    with curves.figure(1, 1, width, 5, files) as (drawing, axes):
        axis = axes[0, 0]
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        _parallel_lines(results, scales, axis)
        for number, scale in enumerate(scales):
            ticks = {scale.share(place): text for place, text in scale.ticks().items()}
            _parallel_axis(axis, number, ticks)
        ticks = _metric_ticks(results)
        if any(g.count("diverged") and not g.spread for g in results.groups):
            ticks[1.1] = "diverged"
        _parallel_axis(axis, len(scales), ticks)
        names = [pictures.short(name, 24, 12) for name in results.names]
        axis.set_xticks(
            range(len(scales) + 1), [*names, results.label.replace(", ", ",\n")]
        )
        axis.xaxis.tick_bottom()
        axis.tick_params(axis="x", length=0, labelsize=10)
        axis.set_yticks([])
        axis.set_xlim(-0.55, len(scales) + 0.45)
        axis.set_ylim(-0.06, max([*ticks, 1.0]) + 0.05)
        drawing.supxlabel(
            f"each line is a combination{seeds}, the darker the better; "
            f"the {THICK} best are thick",
            fontsize=9,
        )
        results.entitle(drawing)


def _metric_share(results, value):
    """Maps a metric to 0 ... 1 from the lowest to the highest mean."""
    means = [group.spread.mean for group in results.groups if group.spread]
    low, high = min(means), max(means)
    if results.logarithmic:
        value, low, high = map(math.log, (value, low, high))
    return (value - low) / (high - low) if high > low else 0.5


def _metric_ticks(results):
    means = [group.spread.mean for group in results.groups if group.spread]
    if not means:
        return {}
    low, high = min(means), max(means)
    ticks = round_ticks(low, high, results.logarithmic) if low < high else {}
    ticks = ticks or {low: f"{low:.4g}", high: f"{high:.4g}"}
    return {_metric_share(results, x): text for x, text in ticks.items()}


def _parallel_lines(results, scales, axis):
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    number = len(results.groups)
    for rank, group in reversed(list(enumerate(results.groups))):
        places = []
        for field, scale in zip(results.fields, scales, strict=True):
            share = scale.share(scale.place(group.values, field))
            if len(scale.texts) <= TICKED:  # lines through one place are told apart
                share += 0.05 * (rank / max(number - 1, 1) - 0.5)
            places.append(share)
        if group.spread:
            metric = _metric_share(results, group.spread.mean)
            style = {"color": colours(metric), "linewidth": 2.2}
            if rank >= THICK:
                style |= {"linewidth": 1.1, "alpha": max(min(1.0, 50 / number), 0.1)}
        elif group.count("diverged"):
            metric = 1.1
            style = {"color": "0.55", "linewidth": 1, "linestyle": "--"}
        else:
            continue
        axis.plot(range(len(places) + 1), [*places, metric], zorder=2, **style)


def _parallel_axis(axis, number, ticks):
    """Draws vertical axis `number` with its ticks, the texts on white."""
    axis.plot([number] * 2, [0, 1], color="0.2", linewidth=1.2, zorder=3)
    texts = curves.cut(list(ticks.values()), 18)
    for place, text in zip(ticks, texts, strict=True):
        axis.plot(
            [number, number + 0.03], [place] * 2, color="0.2", linewidth=1.2, zorder=3
        )
        axis.text(
            number + 0.05,
            place,
            text,
            fontsize=9,
            va="center",
            zorder=4,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
        )
