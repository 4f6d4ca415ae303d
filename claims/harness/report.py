"""Results as JSON, figures, the list of claims, and docs/claims.md."""

import dataclasses
import datetime
import math
import pathlib
import statistics

from claims import harness
from claims.harness import catalogue, intervals
from errors import UserError
from evaluation import drawing
from experiment import workdir
from sweep.table import aligned

HEAD = """# The claims of the papers

Each row is something that a paper or an article asserts, and what came out when we
tried it. `python -m claims NAME` repeats a row. Each rule was committed before its
first run. The column "runs" counts the runs of all arms, not those that choose a
learning rate. Minutes are wall-clock, on two cores that had other work too; where
claims share runs, the first claim has their minutes. A run that diverged counts as a
network that guesses, if the reason says so. The verdicts mean:

{words}

Some claims have a rule of their own, which their text or their reason gives.

"""
WORDS = {
    intervals.REPRODUCED: "the 95 % interval is on the claimed side of the bound",
    intervals.DIRECTION: "it shows an effect as claimed, but is not beyond the bound",
    intervals.INVISIBLE: "the interval allows both answers",
    intervals.CONTRADICTED: "it shows an effect in the other direction",
    intervals.ARITHMETIC: "it follows from the tables",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a claim's runs gave.

    `choices` has the errors by which the arms' learning rates were chosen, in per cent:
    {arm: {rate as text: error, or None if it diverged}}. Earlier results lack them.
    """

    name: str
    scale: str
    numbers: dict
    verdict: intervals.Verdict
    runs: list
    minutes: float
    choices: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        lines = [f"{self.name}, {self.scale}: {self.verdict.word}"]
        lines.append(f"  {self.verdict.reason}")
        for name, value in self.numbers.items():
            if isinstance(value, int | float | str):
                shown = f"{value:,.4g}" if isinstance(value, float) else value
                lines.append(f"  {name}: {shown}")
        for name, arms in self.columns().items():
            shown = ", ".join(f"{text} {label}" for label, text in arms.items())
            lines.append(f"  {name}: {shown}")
        if self.choices:
            lines.append(f"  {self.rates()}")
        lines.append(f"  {len(self.runs)} runs, {self.minutes:.0f} minutes")
        return "\n".join(lines)

    def columns(self):
        """What was measured of each arm, {name: {arm: text}}, without its curves."""
        found = {}
        for name, arms in self.numbers.items():
            if isinstance(arms, dict) and name != "rates":
                cells = {label: _cell(value) for label, value in arms.items()}
                if cells and None not in cells.values():
                    found[name.replace("_", " ")] = cells
        return found

    def rates(self):
        """Says which learning rate each arm chose, and whether others might be better.

        At the end of the list a better one may lie beyond it.
        """
        chosen, said = {run["arm"]: run["learning_rate"] for run in self.runs}, []
        for label, errors in self.choices.items():
            tried, rate = sorted(map(float, errors)), chosen[label]
            ends = {
                tried[0]: " (the smallest tried)",
                tried[-1]: " (the largest tried)",
            }
            said.append(f"{rate:g}{ends.get(rate, '')} for {label}")
        return f"learning rates, chosen by short trainings: {'; '.join(said)}"

    def write(self, folder):
        """Writes folder/NAME-SCALE.json, which the report is made of."""
        stored = dataclasses.asdict(self) | {
            "date": datetime.date.today().isoformat(),
            "code": workdir.revision(),
        }
        directory = workdir.Workdir(folder)
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.write_json(f"{self.name}-{self.scale}.json", stored)


def read(folder, name, scale):
    """Reads what `Outcome.write` wrote: (Outcome, date); None if there is nothing."""
    directory, file = workdir.Workdir(folder), f"{name}-{scale}.json"
    if not directory.has(file):
        return None
    stored = directory.read_json(file)
    date = stored.pop("date")
    stored.pop("code")
    stored["verdict"] = intervals.Verdict(**stored["verdict"])
    return Outcome(**stored), date


def runs_of(results):
    """Lists the runs of a trainings.Results for the JSON."""
    return [
        {
            "arm": label,
            "seed": run.config.seed,
            "directory": run.workdir.path.name,
            "learning_rate": run.config.optimizer.learning_rate,
            "result": {k: v for k, v in run.result.items() if _is_plain(v)},
        }
        for label in results
        for run in results[label]
    ]


def choices_of(results):
    """The errors by which a trainings.Results chose its rates, for the JSON."""
    return {
        label: {
            f"{rate:g}": error if math.isfinite(error) else None
            for rate, error in errors.items()
        }
        for label, errors in results.choices.items()
    }


def _is_plain(value):
    return isinstance(value, int | float | str)


def _cell(value):
    """A number, or the mean and standard deviation of a list of them; else None.

    None in the list is a run that never got there.
    """
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, list) or not value:
        return None
    there = [x for x in value if x is not None]
    if not all(isinstance(x, int | float) for x in there):
        return None
    text = f"{statistics.fmean(there):.4g}" if there else ""
    if len(there) > 1:
        text += f" ± {statistics.stdev(there):.2g}"
    if len(there) < len(value):
        text = f"{text} ({len(value) - len(there)} of {len(value)} never)".strip()
    return text


def _table(columns):
    """The Markdown tables of `Outcome.columns`: one for the names with equal arms."""
    groups = {}
    for name, cells in columns.items():
        groups.setdefault(tuple(cells), {})[name] = cells
    tables = []
    for arms, group in groups.items():
        rows = [f"| | {' | '.join(group)} |", f"|---|{'---:|' * len(group)}"]
        rows += [
            f"| {arm} | {' | '.join(cells[arm] for cells in group.values())} |"
            for arm in arms
        ]
        tables.append("\n".join(rows))
    return tables


def listed(folder, scale):
    """Returns the list of all claims with their states and verdicts."""
    rows = [["claim", "minutes", "verdict", "what is claimed"]]
    for name in catalogue.names():
        claim = catalogue.load(name)
        found, minutes = read(folder, name, scale), claim.minutes(scale)
        cost = "" if minutes is None else f"{minutes:g}"
        rows.append([name, cost, found[0].verdict.word if found else "", claim.CLAIM])
    return "\n".join(aligned(rows))


def draw(claim, outcome, folder):
    """Draws folder/NAME-SCALE.png by the claim's `figure`, if it has one.

    A line below says what the source states, what came out, and the verdict.
    """
    if not hasattr(claim.module, "figure"):
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(8, 4.5), layout="constrained")
    claim.figure(figure, outcome.numbers)
    verdict = outcome.verdict
    compared = f"stated: {claim.STATED}   here: {verdict.here}   ({verdict.word})"
    figure.supxlabel(drawing.wrapped(compared, figure), fontsize=9, color="0.4")
    path = pathlib.Path(folder) / f"{outcome.name}-{outcome.scale}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_all(folder):
    """Draws the figures of all results anew, as after a change of a claim's figure."""
    for claim, outcome, _ in _results(folder):
        draw(claim, outcome, folder)


def _results(folder):
    """Yields the results of a folder: claim, `Outcome`, date."""
    for name in catalogue.names():
        for scale in harness.SCALES:
            if found := read(folder, name, scale):
                yield catalogue.load(name), *found


def write(folder):
    """Writes docs/claims.md beside `folder` from its results; returns its path.

    Raises:
      UserError: there are no results.
    """
    folder = pathlib.Path(folder)
    rows, parts = [], []
    for claim, outcome, date in _results(folder):
        rows.append(_row(claim, outcome, folder))
        parts.append(_part(claim, outcome, date, folder))
    if not rows:
        raise UserError(f"{folder} holds no results; python -m claims NAME makes them")
    words = "\n".join(f"- *{word}*: {text}" for word, text in WORDS.items())
    path = folder.parent / "claims.md"
    heads = "claim", "stated", "here", "verdict", "runs", "minutes", "figure"
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows]
    text = HEAD.format(words=words) + "\n".join(table)
    workdir.Workdir(path.parent).write_text(
        path.name, "\n\n".join([text, *parts]) + "\n"
    )
    return path


def _row(claim, outcome, folder):
    figure = _figure(outcome, folder)
    small = f'<img src="{figure}" width="120" alt="{claim.name}">' if figure else ""
    cells = (
        f"[{claim.CLAIM}](#{claim.name})",
        claim.STATED,
        outcome.verdict.here,
        outcome.verdict.word,
        len(outcome.runs),
        f"{outcome.minutes:.0f}",
        small,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _part(claim, outcome, date, folder):
    lines = [f"## {claim.name}", claim.text(), f"Source: {claim.SOURCE}."]
    lines.append(
        f"**{outcome.verdict.word}** ({outcome.scale}, {date}): "
        f"{outcome.verdict.reason}."
    )
    if tables := _table(outcome.columns()):
        spread = any("±" in table for table in tables)
        over = ", as mean ± standard deviation over seeds" if spread else ""
        lines.append(f"Measured{over}:")
        lines += tables
    if outcome.choices:
        rates = outcome.rates()
        lines.append(f"{rates[0].upper()}{rates[1:]}.")
    if figure := _figure(outcome, folder):
        lines.append(f"![{claim.CLAIM}]({figure})")
    return "\n\n".join(lines)


def _figure(outcome, folder):
    """The path of an outcome's figure from docs/, or None if it has none."""
    name = f"{outcome.name}-{outcome.scale}.png"
    return f"{folder.name}/{name}" if (folder / name).exists() else None
