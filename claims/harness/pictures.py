"""What the figures of claims share: curves with bands over seeds, intervals, bars."""

import statistics

from analysis.curves import COLOURS
from claims.harness import intervals


def curves(results, name):
    """The curves of all arms: {label: {"epochs": [...], "runs": [[...], ...]}}."""
    found = {}
    for label in results:
        runs = [run.curve(name) for run in results[label] if not run.diverged]
        if runs:
            length = min(len(epochs) for epochs, _ in runs)
            found[label] = {
                "epochs": [round(epoch, 4) for epoch in runs[0][0][:length]],
                "runs": [[round(v, 4) for v in values[:length]] for _, values in runs],
            }
    return found


def curve_axes(figure, found, label):
    """Draws `curves`: the mean of each arm, a band from its lowest to its highest run.

    Each arm is labelled at the end of its line. Returns the axes.
    """
    axes = plain(figure.subplots())
    ends = []
    for number, (name, curve) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        columns = list(zip(*curve["runs"], strict=True))
        means = [statistics.fmean(column) for column in columns]
        axes.plot(curve["epochs"], means, color=colour)
        axes.fill_between(
            curve["epochs"],
            [min(column) for column in columns],
            [max(column) for column in columns],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        ends.append((means[-1], curve["epochs"][-1], name, colour))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    _label_ends(axes, ends)
    return axes


def _label_ends(axes, ends):
    """Writes names at the ends of lines, apart from each other."""
    low, high = axes.get_ylim()
    space, last = (high - low) * 0.055, float("-inf")
    for value, epoch, name, colour in sorted(ends):
        last = max(value, last + space)
        axes.annotate(
            name,
            (epoch, last),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


def interval_axes(figure, values, label):
    """Draws {arm: [value by seed]}: single runs, the mean and its 95 % interval.

    Returns the axes.
    """
    axes = plain(figure.subplots())
    for number, (_, runs) in enumerate(values.items()):
        colour, found = COLOURS[number % len(COLOURS)], intervals.mean(runs)
        axes.plot([number] * len(runs), runs, "o", color=colour, alpha=0.4)
        half = found.high - found.mean
        axes.errorbar(number + 0.12, found.mean, half, fmt="D", color=colour, capsize=5)
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylabel(label)
    return axes


def bar_axes(figure, values, label):
    """Draws {name: number} as bars with their numbers. Returns the axes."""
    axes = plain(figure.subplots())
    bars = axes.bar(list(values), list(values.values()), color=COLOURS[0], width=0.6)
    whole = all(isinstance(value, int) for value in values.values())
    axes.bar_label(bars, [f"{v:,}" if whole else f"{v:.4g}" for v in values.values()])
    if whole:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(label)
    return axes


def plain(axes):
    """Leaves out the frame's upper and right sides, and adds a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes
