"""The results of a sweep: tables as text, statistics over seeds, and results.csv."""

import collections
import csv
import dataclasses
import io
import json
import math
import pathlib
import statistics

from evaluation import evaluator
from experiment import workdir

STATES = "done diverged running queued failed stopped waiting cut".split()
SEED = "seed"
ALL, BEST = 40, 20  # a text has up to ALL lines of runs; of more runs, the BEST best
NOT_METRICS = ("step", "split", "size", "score", "diverged", "text")


@dataclasses.dataclass(frozen=True)
class Row:
    """One run: its directory's name, its values by field, and how far it is.

    `state` is one of STATES, `result` the content of result.json or None, and `note`
    more in words: the line of a failure, or "at step 300". Rows may have different
    fields. Values are JSON: numbers, strings, booleans, None, lists and dicts.
    """

    name: str
    values: dict
    state: str
    result: dict | None = None
    note: str = ""

    @property
    def score(self):
        """The name of the metric that counts, lower is better."""
        return (self.result or {}).get("score", "error")

    @property
    def value(self):
        """The metric that counts, of a run that is done; None of any other."""
        if self.state != "done":
            return None
        value = (self.result or {}).get(self.score)
        return value if value is not None and math.isfinite(value) else None

    def outcome(self):
        """Says in words how the run ended, or how far it is."""
        result = self.result or {}
        step = result.get("step")
        if self.state == "diverged":
            return "diverged" if step is None else f"diverged at step {step}"
        if self.state != "done":
            between = ": " if self.state == "failed" else " "
            return self.state + (between + self.note if self.note else "")
        if "text" in result:  # an earlier version wrote it
            return result["text"]
        if not {"error", "errors", "count", "size"} <= result.keys():
            shown = number(self.score, result.get(self.score, math.nan))
            return f"{result.get('split')} {self.score} {shown} after step {step}"
        return evaluator.describe(result, result["split"], result["size"], step)


@dataclasses.dataclass(frozen=True)
class Spread:
    """The mean of some values, and how much they and it vary.

    `deviation` is the sample's standard deviation (with n - 1), and `half` is half the
    width of the 95 % interval of the mean by Student's t. Both are None for one value.
    """

    mean: float
    deviation: float | None
    half: float | None

    @classmethod
    def of(cls, values):
        """Measures one value or several."""
        mean, number = statistics.fmean(values), len(values)
        if number < 2:
            return cls(mean, None, None)
        from scipy import special

        deviation = statistics.stdev(values)
        quantile = float(special.stdtrit(number - 1, 0.975))
        return cls(mean, deviation, quantile * deviation / math.sqrt(number))

    @property
    def interval(self):
        """The lower and upper end of the interval, or None."""
        if self.half is None:
            return None
        return self.mean - self.half, self.mean + self.half


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one combination, which differ in their seed alone.

    `values` are those of the other fields, and `spread` is None without a result.
    """

    values: dict
    rows: list
    spread: Spread | None

    @property
    def by_seed(self):
        """The metric by seed, of the runs with one."""
        known = [row for row in self.rows if row.value is not None]
        return {row.values.get(SEED): row.value for row in known}

    def count(self, state):
        """Counts the runs in a state; "done" are those with a result."""
        if state == "done":
            return sum(row.value is not None for row in self.rows)
        return sum(row.state == state for row in self.rows)


def ranked(rows):
    """Sorts the rows: the lowest metric first, and those without one last, in order."""
    return sorted(rows, key=lambda r: math.inf if r.value is None else r.value)


def groups(rows):
    """Makes the `Group`s, the lowest mean first, and those without one last."""
    found = {}
    for row in rows:
        rest = {name: value for name, value in row.values.items() if name != SEED}
        key = json.dumps(rest, sort_keys=True)
        found.setdefault(key, (rest, []))[1].append(row)
    made = []
    for rest, members in found.values():
        values = [row.value for row in members if row.value is not None]
        made.append(Group(rest, members, Spread.of(values) if values else None))
    return sorted(made, key=lambda g: g.spread.mean if g.spread else math.inf)


def fields(rows):
    """Lists the fields that any row has, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def varied(rows):
    """Lists the fields that differ between rows; one that a row lacks differs."""
    return [
        name
        for name in fields(rows)
        if len({key_of(row.values, name) for row in rows}) > 1
    ]


def key_of(values, field):
    """Returns a field's value as JSON; "" if it is absent."""
    return json.dumps(values[field], sort_keys=True) if field in values else ""


def short_names(names):
    """Returns {field: its last part}; the whole name where that part is ambiguous."""
    ends = collections.Counter(name.rpartition(".")[2] for name in names)
    short = {name: name.rpartition(".")[2] for name in names}
    return {name: end if ends[end] == 1 else name for name, end in short.items()}


def texts(values):
    """Writes the values of one field as short texts, in which different ones differ."""
    floats = {value for value in values if isinstance(value, float)}
    brief = len({f"{value:g}" for value in floats}) == len(floats)
    return [_text(value, "{:g}".format if brief else repr) for value in values]


def _text(value, number):
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str) and value:
        return value
    return json.dumps(value)


def number(score, *values):
    """Writes values of a metric, as "1.23 %" or "1.23 to 1.45 %" for an error."""
    if score.endswith("error"):
        return " to ".join(f"{value:.2f}" for value in values) + " %"
    return " to ".join(f"{value:.4g}" for value in values)


def counts(rows):
    """Counts the runs by state: "24 runs: 20 done, 2 running, 1 failed, 1 waiting"."""
    number = collections.Counter(row.state for row in rows)
    parts = [f"{number[state]:,} {state}" for state in STATES if number[state]]
    what = f"{len(rows):,} run{'s' if len(rows) != 1 else ''}"
    return f"{what}: {', '.join(parts)}" if parts else what


def text(rows, *, every=False):
    """Gives a line to each run, the best first, and a table of the means over seeds.

    Of more than ALL runs, it has the BEST best and counts the others, unless `every`
    one is asked for. The second table has a line per combination, if any combination
    has several seeds.
    """
    rows = list(rows)
    lines = _runs(ranked(rows), every)
    several = groups(rows)
    if any(len(group.rows) > 1 for group in several):
        lines += ["", *_means(several, varied(rows), every)]
    return "\n".join(lines)


def _shown(rows, every):
    return rows if every or len(rows) <= ALL else rows[:BEST]


def _runs(rows, every):
    shown = _shown(rows, every)
    columns = varied(rows) or fields(rows)
    cells = [_column([row.values for row in shown], name) for name in columns]
    if not cells:
        columns, cells = ["run"], [[row.name for row in shown]]
    head = *short_names(columns).values(), "result"
    outcomes = [row.outcome() for row in shown]
    lines = aligned([head, *zip(*cells, outcomes, strict=True)])
    same = [name for name in fields(rows) if name not in columns]
    if same:
        values = [texts([rows[0].values[name]])[0] for name in same]
        pairs = zip(short_names(same).values(), values, strict=True)
        lines.append("all runs: " + ", ".join(f"{k}={v}" for k, v in pairs))
    if rest := rows[len(shown) :]:
        lines.append(f"and {counts(rest).replace(' run', ' more run', 1)}")
        lines.append("results.csv has all")
    return lines


def _column(dicts, field):
    """Writes one field of several dicts; one that lacks it has an empty cell."""
    known = iter(texts([values[field] for values in dicts if field in values]))
    return [next(known) if field in values else "" for values in dicts]


def _means(found, columns, every):
    """Makes the table of the groups, and says if the two best cannot be told apart."""
    columns = [name for name in columns if name != SEED]
    score = next(
        (r.score for g in found for r in g.rows if r.value is not None), "error"
    )
    shown = _shown(found, every)
    cells = [_column([group.values for group in shown], name) for name in columns]
    head = (
        f"{score}, mean +- deviation",
        "95 % interval",
        "seeds",
        "diverged",
        "missing",
    )
    ends = [_statistics(group, score) for group in shown]
    lines = aligned(
        [
            (*short_names(columns).values(), *head),
            *((*row, *rest) for *row, rest in zip(*cells, ends, strict=True)),
        ]
    )
    if more := len(found) - len(shown):
        lines.append(f"and {more:,} more combinations")
    best = [group for group in found[:2] if group.spread]
    if len(best) == 2 and (line := _compared(*best, score)):
        lines.append(line)
    return lines


def _compared(best, second, score):
    """Says what the seeds leave open about the two best groups; "" if nothing."""
    if not (best.spread.interval and second.spread.interval):
        return "One of the two best has a single seed, which tells nothing of chance."
    ours, theirs = best.by_seed, second.by_seed
    if ours.keys() == theirs.keys() and len(ours) > 1:
        low, high = Spread.of([theirs[seed] - ours[seed] for seed in ours]).interval
        if low > 0:
            return ""
        return (
            "These seeds do not tell the two best apart: seed by seed, the 95 % "
            f"interval of their difference is {number(score, low, high)}."
        )
    overlap = best.spread.interval[1] >= second.spread.interval[0]
    return "The intervals of the two best overlap." if overlap else ""


def _statistics(group, score):
    """Returns the cells mean and deviation, interval, and the numbers of runs."""
    spread, mean, interval = group.spread, "", ""
    if spread:
        mean = number(score, spread.mean)
    if spread and spread.interval:
        deviation = number(score, spread.deviation)
        mean = f"{mean.removesuffix(' %')} +- {deviation}"
        interval = number(score, *spread.interval)
    done, diverged = group.count("done"), group.count("diverged")
    numbers = done, diverged, len(group.rows) - done - diverged
    return mean, interval, *map(str, numbers)


def aligned(rows):
    """Formats `rows` of texts as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def write_csv(path, rows):
    """Writes all rows, in their order, as a CSV file that replaces an older one.

    The columns are run, state, every field by its full name, step, split, size, every
    metric that any result has, and note. Numbers and strings are plain; lists,
    booleans and None are JSON. What a row lacks is empty.

    Raises:
      WorkdirError: the file cannot be written.
    """
    rows, path = list(rows), pathlib.Path(path)
    names, results = fields(rows), [row.result or {} for row in rows]
    metrics = dict.fromkeys(name for result in results for name in result)
    metrics = [name for name in metrics if name not in NOT_METRICS]
    ends = ["step", "split", "size", *metrics]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "state", *names, *ends, "note"])
    for row, result in zip(rows, results, strict=True):
        known = [_cell(row.values, name) for name in names]
        found = [_cell(result, name) for name in ends]
        writer.writerow([row.name, row.state, *known, *found, row.note])
    content = file.getvalue().encode("utf-8", "backslashreplace")
    workdir.Workdir(path.parent).write_bytes(path.name, content)


def _cell(values, name):
    value = values.get(name, "")
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if plain else json.dumps(value)
