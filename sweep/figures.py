"""Draws the results of a sweep: the metric by field, curves, and all fields at once.

Lines and bars are means over the runs that differ in their seed alone.
"""

import dataclasses
import math
import statistics

from analysis import curves, pictures
from errors import UserError
from experiment import workdir
from sweep import table
from sweep.axes import TICKED, Results, Scale, key_of, round_ticks

NAMED = 8  # combinations with a colour and a name among the curves
THICK = 5  # combinations with thick lines through all fields
GREY = "0.8"


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
        called once for each run that has begun, and may raise WorkdirError.
      output: a file, whose suffix, if any, is .png or .svg; both are written.

    Returns:
      The `Plot`.

    Raises:
      UserError: no run has a result or curves yet.
      WorkdirError: a file cannot be written, or `output` has another suffix.
    """
    results = Results(name, tuple(rows))
    by_field, by_epoch, parallel = (
        curves.both(output, ending) for ending in ("", "-curves", "-parallel")
    )
    drawn, remarks = {}, []
    if results.ended and len(results.rows) > 1:
        draw_fields(results, by_field)
        drawn[f"{results.label} by {', '.join(results.names) or 'seed'}"] = by_field
    found, without = read_curves(results, read)
    if found:
        draw_curves(results, found, by_epoch)
        drawn[f"curves by epoch (runs: {len(found):,})"] = by_epoch
    if without:
        remarks.append(f"runs that have begun but have no curves: {without:,}")
    if len(results.fields) > 1 and results.ended:
        draw_parallel(results, parallel)
        drawn["all fields at once"] = parallel
    if not drawn:
        raise UserError(f"{results.title}: no run has a result or a curve to draw yet")
    return Plot(results.title, drawn, tuple(remarks))


# The metric by each field.


def draw_fields(results, files):
    """Draws a panel per field, with all runs, means and intervals over seeds."""
    fields = results.fields or [None]
    columns = 2 if len(fields) == 4 else min(len(fields), 3)
    count = math.ceil(len(fields) / columns)
    width, height = (7, 5) if len(fields) == 1 else (4.8 * columns, 4.4 * count + 0.7)
    with curves.figure(count, columns, width, height, files, sharey=True) as (
        drawing,
        axes,
    ):
        drawn = {}
        for axis, field in zip(axes.flat, fields, strict=False):
            Panel(results, field, axis, drawn).draw()
        for axis in axes.flat[len(fields) :]:
            axis.set_visible(False)
        _metric_axis(results, axes[0, 0])
        for axis in axes[:, 0]:
            axis.set_ylabel(results.label)
        _title(drawing, results)
        curves.legend(drawing, drawn.items(), len(drawn) if width > 9 else 2)


def _title(drawing, results):
    drawing.suptitle(pictures.wrapped(results.title, drawing), fontsize=11)


def _metric_axis(results, axis):
    """Sets the limits: all runs, intervals in part, and room for diverged runs above.

    A wide interval, as of two seeds, may leave the panel.
    """
    values = results.values
    if not values:
        axis.set_ylim(0, 1)
        axis.set_yticks([])
        return
    log = results.logarithmic
    low, high = min(values), max(values)
    if log:
        curves.logarithmic(axis, high / low)
    lowest, highest = (math.log(x) if log else x for x in (low, high))
    span = highest - lowest or 0.1 * abs(highest) or 1.0
    ends = [lowest, highest]
    spreads = [group.spread for group in results.groups if group.spread]
    for spread in spreads if len(results.fields) < 3 else ():  # as `Panel.alone`
        for end in spread.interval or ():
            if log:
                end = math.log(end) if end > 0 else -math.inf
            ends.append(min(max(end, lowest - span / 2), highest + span / 2))
    lowest, highest = min(ends), max(ends)
    span = highest - lowest or span
    lowest, highest = lowest - 0.05 * span, highest + 0.15 * span
    axis.set_ylim(*(math.exp(x) if log else x for x in (lowest, highest)))


@dataclasses.dataclass
class Panel:
    """The metric against one field; colours are the values of another field.

    `field` is None where the seed alone varies. `drawn` collects what the figure's
    legend explains: {label: style}.
    """

    results: Results
    field: str | None
    axis: object
    drawn: dict

    def __post_init__(self):
        results = self.results
        self.scale = Scale("even", False, {"": results.name}, ())
        if self.field:
            self.scale = Scale.of(results, self.field)
        self.colour = self._choose_colour()
        # If further fields vary, runs at one place differ in more than the seed.
        self.alone = not {*results.fields} - {self.field, self.colour}

    def _choose_colour(self):
        """The field besides this that has few values, best if they are no numbers."""
        found = []
        for number, field in enumerate(self.results.fields):
            scale = Scale.of(self.results, field)
            few = 1 < len(scale.texts) <= len(curves.COLOURS)
            if field != self.field and few:
                found.append((scale.ordered, len(scale.texts), number, field))
        return min(found)[-1] if found else None

    def draw(self):
        parts = {"": []}
        if self.colour:
            parts = {key: [] for key in Scale.of(self.results, self.colour).texts}
        for group in self.results.groups:
            if not self.field or key_of(group.values, self.field) in self.scale.texts:
                key = key_of(group.values, self.colour) if self.colour else ""
                parts[key].append(group)
        for number, groups in enumerate(parts.values()):
            shift = number - (len(parts) - 1) / 2  # so that bars do not overlap
            shift *= min(0.7 / len(parts), 0.2) if self.scale.kind == "even" else 0.015
            self._part(groups, curves.COLOURS[number], shift, number)
        self._name_axis()
        if self.colour:
            self._legend(parts)

    def _place(self, group, shift=0.0):
        place = self.scale.place(group.values, self.field) if self.field else 0
        return self.scale.moved(place, shift)

    def _part(self, groups, colour, shift, number):
        """Draws the runs of one colour."""
        known = sorted((g for g in groups if g.spread), key=self._place)
        self._runs(known, colour, shift)
        if self.alone and any(len(group.rows) > 1 for group in known):
            self._means(known, colour, shift)
        else:
            self._best(known, colour, shift)
        self._diverged(groups, colour, shift, 0.96 - 0.04 * number)

    def _diverged(self, groups, colour, shift, height):
        """Marks diverged runs below the panel's top, with their number if several."""
        places = {}
        for group in groups:
            place = self._place(group, shift)
            places[place] = places.get(place, 0) + group.count("diverged")
        style = {"marker": "x", "color": colour, "linestyle": "", "markersize": 7}
        style["markeredgewidth"] = 1.8
        across = self.axis.get_xaxis_transform()
        for place in filter(places.get, places):
            self.axis.plot([place], [height], transform=across, **style)
            self.drawn["diverged, without a metric"] = style | {"color": "0.3"}
            if places[place] > 1:
                self.axis.annotate(
                    f"{places[place]}",
                    (place, height),
                    xytext=(6, 0),
                    xycoords=across,
                    textcoords="offset points",
                    va="center",
                    color=colour,
                    fontsize=9,
                )

    def _runs(self, groups, colour, shift):
        pairs = [
            (self._place(group, shift), row.value)
            for group in groups
            for row in group.rows
            if row.value is not None
        ]
        if pairs:
            style = {"marker": "o", "linestyle": "", "markersize": 5, "alpha": 0.45}
            style |= {"color": colour, "markeredgewidth": 0}
            self.axis.plot(*zip(*pairs, strict=True), **style)
            self.drawn["a run"] = style | {"color": "0.3"}

    def _means(self, groups, colour, shift):
        """Draws means over seeds with their intervals, joined along numbers."""
        if not groups:
            return
        style = {"marker": "D", "markersize": 5, "color": colour, "linewidth": 1.4}
        style |= {} if self.scale.ordered else {"linestyle": ""}
        places = [self._place(group, shift) for group in groups]
        spreads = [group.spread for group in groups]
        self.axis.errorbar(
            places,
            [spread.mean for spread in spreads],
            [math.nan if spread.half is None else spread.half for spread in spreads],
            elinewidth=1.4,
            capsize=4,
            **style,
        )
        label = "mean over seeds with its 95 % interval"
        self.drawn[label] = style | {"color": "0.3", "linestyle": "-"}

    def _best(self, groups, colour, shift):
        """Marks the lowest metric at each place, unless nearly all places differ."""
        best = {}
        for group in groups:
            place = self._place(group, shift)
            best[place] = min(best.get(place, math.inf), group.spread.mean)
        if not best or (not self.alone and len(groups) < 2 * len(best)):
            return
        style = {"color": colour, "linewidth": 1.4}
        if not self.scale.ordered:
            style |= {"linestyle": "", "marker": "_", "markersize": 16}
            style["markeredgewidth"] = 1.8
        if self.scale.ordered or not self.alone:
            self.axis.plot([*best], [*best.values()], **style)
        if not self.alone:
            style |= {"color": "0.3", "linestyle": "-", "marker": ""}
            self.drawn["best mean over the values of other fields"] = style

    def _name_axis(self):
        axis, names = self.axis, table.short_names(self.results.fields)
        axis.set_xlabel(names.get(self.field, ""))
        if self.scale.kind == "log":
            axis.set_xscale("log")
        ticks = self.scale.ticks()
        texts = curves.cut(list(ticks.values()), 24)
        if not self.field:
            texts = [f"{len(self.results.rows):,} seeds"]
        axis.set_xticks(list(ticks), texts)
        axis.xaxis.minorticks_off()
        inches = axis.figure.get_figwidth() / axis.get_gridspec().ncols - 1
        if sum(0.08 * len(text) + 0.12 for text in texts) > inches:
            axis.set_xticks(list(ticks), texts, rotation=30, ha="right")
            axis.tick_params(axis="x", labelsize=9)
        if self.scale.kind == "even":
            axis.set_xlim(-0.6, max(len(self.scale.texts), 1) - 0.4)

    def _legend(self, parts):
        """Names the colours above the panel."""
        from matplotlib import lines

        texts = [self.results.texts[self.colour][key] for key in parts]
        texts = curves.cut(texts, 20)
        inches = self.axis.figure.get_figwidth() / self.axis.get_gridspec().ncols - 0.8
        self.axis.legend(
            handles=[
                lines.Line2D([], [], linestyle="", marker="o", color=colour, label=text)
                for colour, text in zip(curves.COLOURS, texts, strict=False)
            ],
            title=table.short_names(self.results.fields)[self.colour],
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(curves.fitting(texts, inches, 0.3), len(texts)),
            alignment="left",
            handlelength=0.8,
            handletextpad=0.4,
            columnspacing=1.2,
            frameon=False,
            fontsize=9,
            title_fontsize=9,
        )


# The curves.


def read_curves(results, read):
    """Reads {run: curves} of the runs that have begun; also counts those without."""
    found, without = {}, 0
    for row in results.rows:
        if row.state in ("waiting", "queued"):
            continue
        try:
            found[row.name] = read(row.name)
        except workdir.WorkdirError:
            without += 1
    return found, without


def draw_curves(results, found, files):
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
        _title(drawing, results)
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


# All fields at once.


def draw_parallel(results, files):
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
        _title(drawing, results)


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
