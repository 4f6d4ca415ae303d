"""Draws training curves of runs: loss and error by epoch, from their metrics.jsonl."""

import dataclasses
import json
import math
import os
import pathlib

from analysis import pictures
from data_source import as_text
from experiment import workdir

# Okabe and Ito's colours, which colour-blind readers can tell apart. Their yellow is
# left out as too pale for lines; beyond seven runs the markers differ.
COLOURS = "#0072b2 #d55e00 #009e73 #cc79a7 #56b4e9 #e69f00 #000000".split()
MARKERS = "osD^vP*X"
LONGEST = 40  # letters of a run's name, unless more are needed to tell two apart
PANELS = {"loss": "loss", "error": "error, per cent"}


@dataclasses.dataclass(frozen=True)
class Plot:
    """The files that show the curves of these runs."""

    runs: list
    files: list

    def __str__(self):
        return f"curves of {', '.join(self.runs)}: {' and '.join(map(str, self.files))}"


def plot_runs(paths, output=None):
    """Draws the curves of several runs in one figure, as PNG and as SVG.

    Args:
      paths: run directories.
      output: the file, whose suffix, if any, is .png or .svg; both are written. The
        default is `curves` in the first run's directory.

    Returns:
      The `Plot`.

    Raises:
      WorkdirError: a directory holds no run or no metrics, or the output cannot be
        written.
    """
    curves = {
        name: read(workdir.Workdir(path))
        for name, path in zip(_names(paths), paths, strict=True)
    }
    output = pathlib.Path(output or pathlib.Path(paths[0]) / "curves").expanduser()
    if output.suffix not in ("", ".png", ".svg"):
        raise workdir.WorkdirError(f"--output={output}: the suffix is .png or .svg")
    files = [output.with_suffix(suffix) for suffix in (".png", ".svg")]
    try:
        draw(curves, files)
    except OSError as error:
        raise workdir.WorkdirError(f"--output={output}: {error.strerror}") from error
    return Plot(list(curves), files)


def read(run):
    """Reads a run's curves: {"train/loss": ([epochs], [values]), ...}, also for eval/.

    It skips a line that a kill cut short. Evaluation lines have no epoch, so theirs
    comes from the step.
    """
    run.config()  # raises where there is no run
    try:
        text = run.metrics.read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise workdir.WorkdirError(f"{run.metrics}: {error.strerror}") from error
    lines = list(filter(None, map(_parse, text.splitlines())))
    epochs = [
        line["progress/epoch"] / line["step"]
        for line in lines
        if line.get("progress/epoch") and line["step"]
    ]
    if not epochs:
        raise workdir.WorkdirError(
            f"{run.metrics} holds no report of training yet; the first comes after "
            "config.log.every_steps steps"
        )
    curves = {}
    for kind in ("train", "eval"):
        for panel in PANELS:
            name = f"{kind}/{panel}"
            known = [line for line in lines if name in line]
            if known:
                curves[name] = (
                    [line["step"] * epochs[-1] for line in known],
                    [line[name] for line in known],
                )
    return curves


def _parse(line):
    try:
        values = json.loads(line)
        return values if "step" in values else None
    except (ValueError, TypeError):
        return None


def _names(paths):
    """Names the directories by the shortest tails of their paths that differ.

    Long names are cut in the middle, or elsewhere if they differ there.
    """
    runs = [
        pathlib.Path(os.path.abspath(pathlib.Path(path).expanduser())).parts
        for path in paths
    ]
    names = []
    for run in runs:
        for number in range(1, len(run) + 1):
            tail = run[-number:]
            if sum(other[-number:] == tail for other in set(runs)) == 1:
                break
        names.append(as_text(pathlib.Path(*tail)))
    for length in range(LONGEST, max(map(len, names))):
        for tail in sorted(range(length), key=lambda tail: abs(tail - length // 2)):
            short = [pictures.short(name, length, tail) for name in names]
            if len(set(short)) == len(set(names)):
                return short
    return names


def draw(curves, files):
    """Draws {run: curves from `read`}: one panel for losses, one for errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import lines, pyplot, textpath, ticker

    # Without random names in the SVG, the same curves give the same file.
    settings = {"svg.hashsalt": "convnets", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        width = 10
        labels = [*curves, "training", "evaluation"]
        # A width in inches; half an inch more goes to a label's line and its margin.
        longest = max(
            textpath.TextPath((0, 0), label, size=9).get_extents().width / 72
            for label in labels
        )
        columns = max(int(width / (longest + 0.5)), 1)
        rows = math.ceil(len(labels) / columns)
        figure, axes = pyplot.subplots(
            1, 2, figsize=(width, 4 + 0.2 * rows), layout="constrained"
        )
        for axis, (panel, label) in zip(axes, PANELS.items(), strict=True):
            values = []
            for number, curve in enumerate(curves.values()):
                colour = COLOURS[number % len(COLOURS)]
                marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
                if (name := f"train/{panel}") in curve:
                    axis.plot(*curve[name], color=colour, linewidth=1, linestyle="--")
                    values += curve[name][1]
                if (name := f"eval/{panel}") in curve:
                    style = {"marker": marker, "markersize": 4, "linewidth": 1.6}
                    axis.plot(*curve[name], color=colour, **style)
                    values += curve[name][1]
            axis.set_xlabel("epoch")
            axis.set_ylabel(label)
            axis.set_xlim(left=0)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="0.92", linewidth=0.7)
            if values and min(values) > 0:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_locator(ticker.NullLocator())
        handles = [
            lines.Line2D(
                [],
                [],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
                markersize=4,
                label=name,
            )
            for number, name in enumerate(curves)
        ]
        handles += [
            lines.Line2D(
                [], [], color="0.4", linewidth=1, linestyle="--", label="training"
            ),
            lines.Line2D(
                [], [], color="0.4", marker="o", markersize=4, label="evaluation"
            ),
        ]
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )
        for file in files:
            figure.savefig(
                file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else {}
            )
        pyplot.close(figure)
