"""Draws the metric of a sweep by each field that varies."""

import dataclasses
import math

from analysis import curves
from sweep import table
from sweep.axes import Results, Scale
from sweep.table import key_of


def draw(results, files):
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
        results.entitle(drawing)
        curves.legend(drawing, drawn.items(), len(drawn) if width > 9 else 2)


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
