"""Formats the results of a sweep as text."""

import statistics


def table(varied, runs):
    """Gives a line to each run and, if seeds vary, to each combination of the rest."""
    columns = list(varied)
    rows = [
        [*(f"{run.values[name]:g}" for name in columns), run.outcome()] for run in runs
    ]
    lines = aligned([[*columns, "result"], *rows])
    others = [name for name in columns if name != "seed"]
    if len(varied.get("seed", ())) < 2:
        return "\n".join(lines)
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run.values[name] for name in others), []).append(run)
    rows = [
        [*(f"{value:g}" for value in key), summary(group)]
        for key, group in groups.items()
    ]
    lines += ["", *aligned([[*others, "mean +- standard deviation"], *rows])]
    return "\n".join(lines)


def summary(runs):
    """The mean and sample standard deviation of the error over runs."""
    errors = [run.result["error"] for run in runs if "error" in run.result]
    diverged = len(runs) - len(errors)
    text = f"{len(errors)} runs"
    if errors:
        spread = f" +- {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        text = f"{statistics.mean(errors):.2f}{spread} % over {text}"
    return text + (f", {diverged} diverged" if diverged else "")


def aligned(rows):
    """Formats `rows` as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
