"""What the figures of a sweep share: its results, and where values lie on axes."""

import dataclasses
import functools
import math

import numpy as np

from analysis import curves, pictures
from sweep import table
from sweep.table import key_of

TICKED = 8  # most values of a field that are all written at its axis
MOST = 24  # most texts at an axis
SPAN = 20  # an axis is logarithmic if its values span a larger factor


@dataclasses.dataclass(frozen=True)
class Results:
    """The rows of a sweep and what all views need to know of them."""

    name: str
    rows: tuple

    @property
    def title(self):
        return f"{self.name}, {table.counts(self.rows)}"

    def entitle(self, figure):
        """Writes the title above a matplotlib Figure."""
        figure.suptitle(pictures.wrapped(self.title, figure), fontsize=11)

    @functools.cached_property
    def groups(self):
        return table.groups(self.rows)

    @functools.cached_property
    def fields(self):
        """The fields that vary, but the seed."""
        return [name for name in table.varied(self.rows) if name != table.SEED]

    @property
    def names(self):
        """The fields' short names, in their order."""
        return list(table.short_names(self.fields).values())

    @functools.cached_property
    def texts(self):
        """{field: {value as JSON: text}}; a row without the field has the value ""."""
        found = {}
        for field in self.fields:
            values = {
                key_of(row.values, field): row.values.get(field) for row in self.rows
            }
            values.pop("", None)
            found[field] = dict(
                zip(values, table.texts(list(values.values())), strict=True)
            )
            found[field][""] = "–"
        return found

    @functools.cached_property
    def ended(self):
        """The rows with a metric, and those that diverged."""
        return [r for r in self.rows if r.value is not None or r.state == "diverged"]

    @functools.cached_property
    def values(self):
        """The metrics of all rows that have one."""
        return [row.value for row in self.rows if row.value is not None]

    @property
    def score(self):
        known = (row.score for row in self.rows if row.value is not None)
        return next(known, "error")

    @property
    def label(self):
        """The metric with its split and unit, for an axis."""
        splits = {r.result.get("split") for r in self.rows if r.value is not None}
        split = f"{splits.pop()} " if len(splits) == 1 else ""
        unit = ", per cent" if self.score.endswith("error") else ""
        return f"{split}{self.score.replace('_', ' ')}{unit}"

    @property
    def logarithmic(self):
        return _spans(self.values)

    def labels(self, groups):
        """Names combinations by their values, of which long ones are cut."""
        short = {
            field: dict(zip(texts, curves.cut([*texts.values()], 24), strict=True))
            for field, texts in self.texts.items()
        }
        names = table.short_names(self.fields)
        return [
            ", ".join(
                f"{names[field]}={short[field][key_of(group.values, field)]}"
                for field in self.fields
                if field in group.values
            )
            or self.name
            for group in groups
        ]


def _spans(values):
    """Tells whether positive values span so much that their axis is logarithmic."""
    return bool(values) and min(values) > 0 and max(values) > SPAN * min(values)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where the values of a field lie on its axis.

    Numbers lie on a "linear" or "log" axis. Strings, lists and the like, and a few
    numbers that would lie too close, are "even": in order, at 0, 1, 2, ...
    """

    kind: str
    ordered: bool  # numbers, which lines may join
    texts: dict  # {value as JSON: text}, in order
    values: tuple

    @classmethod
    def of(cls, results, field):
        """Makes the scale of a field over all rows that have it."""
        known = {key_of(r.values, field): r.values.get(field) for r in results.rows}
        absent = "" in known
        known.pop("", None)
        numbers = all(
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            for value in known.values()
        )
        if numbers:
            known = dict(sorted(known.items(), key=lambda item: item[1]))
        elif all(isinstance(value, bool) for value in known.values()):
            known = dict(sorted(known.items()))
        values = tuple(known.values())
        texts = {key: results.texts[field][key] for key in known}
        kind = "even"
        if numbers and not absent and len(values) > 1:
            kind = "log" if _spans(values) else "linear"
            if len(values) <= TICKED and _crowded(kind, values):
                kind = "even"
        if absent:
            texts[""] = results.texts[field][""]
        return cls(kind, numbers and not absent, texts, values)

    def place(self, values, field):
        """Where a row's or group's values lie."""
        if self.kind == "even":
            return list(self.texts).index(key_of(values, field))
        return values[field]

    @property
    def ends(self):
        if self.kind == "even":
            return 0, max(len(self.texts) - 1, 1)
        return self.values[0], self.values[-1]

    def moved(self, place, shift):
        """Moves a place by `shift`: to the next value, or between the ends, is 1."""
        if self.kind == "even":
            return place + shift
        if len(self.values) > TICKED:
            return place
        low, high = self.ends
        if self.kind == "log":
            return place * (high / low) ** shift
        return place + shift * (high - low)

    def share(self, place):
        """Maps a place to 0 ... 1 between the ends."""
        if self.kind == "log":
            place, (low, high) = math.log(place), map(math.log, self.ends)
        else:
            low, high = self.ends
        if self.kind == "even" and len(self.texts) == 1:
            return 0.5
        return (place - low) / (high - low) if high > low else 0.5

    def ticks(self):
        """Returns {place: text}: all values, or round ones among many."""
        if self.kind == "even":
            step = math.ceil(len(self.texts) / MOST)
            return dict(list(enumerate(self.texts.values()))[::step])
        if len(self.values) <= TICKED:
            return dict(zip(self.values, self.texts.values(), strict=True))
        return round_ticks(*self.ends, self.kind == "log")


def round_ticks(low, high, log):
    """Returns {place: text} of a few round numbers from `low` to `high`."""
    from matplotlib import ticker

    if log:
        locator = ticker.LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    else:
        locator = ticker.MaxNLocator(5)
    places = locator.tick_values(low, high)
    return {float(x): f"{x:g}" for x in places if low <= x <= high}


def _crowded(kind, values):
    places = np.log(values) if kind == "log" else np.array(values, float)
    return np.diff(places).min() < 0.07 * np.ptp(places)
