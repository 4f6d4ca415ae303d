"""Draws curves of runs by epoch, loss and error or mAP, from their metrics.jsonl."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib

from analysis import pictures
from data_source import as_text
from evaluation.drawing import missing_letters_said
from experiment import workdir

# Okabe and Ito's colours, which colour-blind readers can tell apart. Their yellow is
# left out as too pale for lines; beyond seven runs the markers differ.
COLOURS = "#0072b2 #d55e00 #009e73 #cc79a7 #56b4e9 #e69f00 #000000".split()
MARKERS = "osD^vP*X"
LONGEST = 40  # letters of a run's name, unless more are needed to tell two apart
PANELS = {"loss": "loss", "error": "error, per cent", "mAP": "mAP, per cent"}
TRAINING = {"linewidth": 1, "linestyle": "--", "marker": ""}  # instead of `style`'s


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
    files = both(output or pathlib.Path(paths[0]) / "curves")
    draw(curves, files)
    return Plot(list(curves), files)


def both(output, ending=""):
    """Returns the PNG and the SVG that `output` names, with `ending` before the suffix.

    Raises:
      WorkdirError: `output` has another suffix.
    """
    output = pathlib.Path(output)
    if output.suffix not in ("", ".png", ".svg"):
        raise workdir.WorkdirError(f"--output={output}: the suffix is .png or .svg")
    return [output.with_name(output.stem + ending + kind) for kind in (".png", ".svg")]


def read(run):
    """Reads a run's curves: {"train/loss": ([epochs], [values]), ...}, also for eval/.

    It skips a line that a kill cut short. Evaluation lines have no epoch, so theirs
    comes from the step. "progress/images" counts the images that a report of training
    is about; runs of earlier versions lack it.
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
    names = [f"{kind}/{panel}" for kind in ("train", "eval") for panel in PANELS]
    for name in [*names, "progress/images"]:
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

    Long names are cut.
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
    return cut(names)


def cut(names, longest=LONGEST):
    """Cuts names to `longest` letters, or to more if they need it to stay different.

    They are cut in the middle, or elsewhere if they differ there.
    """
    for length in range(longest, max(map(len, names), default=0)):
        for tail in sorted(range(length), key=lambda tail: abs(tail - length // 2)):
            short = [pictures.short(name, length, tail) for name in names]
            if len(set(short)) == len(set(names)):
                return short
    return names


def draw(curves, files):
    """Draws {run: curves from `read`}: one panel for losses, one for errors or mAP.

    Raises:
      WorkdirError: a file cannot be written.
    """
    labels = [*curves, "training", "evaluation"]
    width = 10
    columns = fitting(labels, width)
    rows = math.ceil(len(labels) / columns)
    with figure(1, 2, width, 4 + 0.2 * rows, files) as (drawing, axes):
        for axis, panel in zip(axes.flat, ("loss", _score(curves)), strict=True):
            values = []
            for number, curve in enumerate(curves.values()):
                if (name := f"train/{panel}") in curve:
                    axis.plot(*curve[name], **(style(number) | TRAINING))
                    values += curve[name][1]
                if (name := f"eval/{panel}") in curve:
                    axis.plot(*curve[name], **style(number), linewidth=1.6)
                    values += curve[name][1]
            axis.set_xlabel("epoch")
            axis.set_ylabel(PANELS[panel])
            axis.set_xlim(left=0)
            if panel == "mAP":
                axis.set_ylim(bottom=0)
            elif values and min(values) > 0:
                finite = list(filter(math.isfinite, values))
                logarithmic(axis, max(finite) / min(finite))
        styles = [style(number) for number in range(len(curves))]
        styles += [TRAINING | {"color": "0.4"}, style(0) | {"color": "0.4"}]
        legend(drawing, zip(labels, styles, strict=True), columns)


def _score(curves):
    """Returns "mAP" if all runs that were evaluated are of detectors, else "error"."""
    tested = [curve for curve in curves.values() if "eval/error" in curve]
    detectors = tested and all("eval/mAP" in curve for curve in tested)
    return "mAP" if detectors else "error"


def style(number):
    """The colour and marker of line `number`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number // len(COLOURS) % len(MARKERS)],
        "markersize": 4,
    }


@contextlib.contextmanager
def figure(rows, columns, width, height, files, **options):
    """Gives a figure of `width` x `height` inches and its axes [rows, columns].

    At the end it is saved as `files`; the same content gives the same SVG.

    Raises:
      WorkdirError: a file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Without random names in the SVG, the same curves give the same file.
    settings = {"svg.hashsalt": "convnets", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        drawing, axes = pyplot.subplots(
            rows,
            columns,
            figsize=(width, height),
            layout="constrained",
            squeeze=False,
            **options,
        )
        for axis in axes.flat:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="0.92", linewidth=0.7)
        try:
            yield drawing, axes
            with missing_letters_said():
                _save(drawing, files)
        finally:
            pyplot.close(drawing)


def _save(drawing, files):
    for file in files:
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        try:
            drawing.savefig(file, dpi=120, metadata=metadata)
        except OSError as error:
            raise workdir.WorkdirError(f"--output={file}: {error.strerror}") from error


def logarithmic(axis, span):
    """Makes the vertical axis logarithmic, with plain numbers at 1, 2, 5, 10, ...

    If its ends differ by a larger factor `span`, it has powers of ten alone.
    """
    from matplotlib import ticker

    axis.set_yscale("log")
    subs = (1, 2, 5) if span < 3000 else (1,)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def fitting(labels, width, room=0.5):
    """Counts the columns of a legend with these labels that fit `width` inches.

    `room` are the inches of a label's line and its margin.
    """
    from matplotlib import rc_context, textpath

    with rc_context({"text.parse_math": False}):
        longest = max(
            textpath.TextPath((0, 0), label, size=9).get_extents().width / 72
            for label in labels
        )
    return max(int(width / (longest + room)), 1)


def legend(drawing, styles, columns):
    """Puts a legend of pairs (label, style of its line) below the panels."""
    from matplotlib import lines

    drawing.legend(
        handles=[lines.Line2D([], [], label=label, **style) for label, style in styles],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
