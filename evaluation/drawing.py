"""The confusion matrix, and what drawings share: figures, files, names that fit.

Images are uint8 [H, W, C], where C is 1 (grey) or 3 (RGB).
"""

import contextlib
import re
import textwrap
import warnings

import numpy as np
from absl import logging

from data_source import as_text
from evaluation import scoring

BLUE, RED = "#4477aa", "#cc3311"  # colour-blind readers can tell them apart
DPI = 110


def figure(rows, columns, width, height, **grid):
    """A figure of hidden axes [rows, columns], each `width` x `height` inches."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names may contain dollars
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        layout="constrained",
        squeeze=False,
        gridspec_kw=grid,
    )
    for axis in axes.flat:
        axis.axis("off")
    return drawing, axes


def save(drawing, path):
    from matplotlib import pyplot

    path.parent.mkdir(exist_ok=True)
    # "tight": the layout reserves no room for titles above images of fixed aspect.
    with missing_letters_said():
        drawing.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(drawing)


@contextlib.contextmanager
def missing_letters_said():
    """Says in one line which letters a picture that is saved cannot show."""
    missing = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph")  # one for each letter
        yield
    for warning in caught:
        text = str(warning.message)
        if number := re.match(r"Glyph (\d+) .* missing from", text):
            missing[chr(int(number[1]))] = None
        else:
            warnings.warn_explicit(text, warning.category, warning.filename, 0)
    if missing:
        letters = "".join(missing)
        logging.warning("a picture has boxes for letters not in its font: %s", letters)


def show(axis, image, title="", **options):
    """Shows an image without a frame, with its title above."""
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, **options)
    axis.set_title(title, fontsize=9)


def short(name, length=18, tail=0):
    """Cuts a name to `length` and keeps its last `tail` letters, which tell more."""
    name = as_text(name)  # of any file
    if len(name) <= length:
        return name
    return name[: length - 1 - tail] + "…" + name[len(name) - tail :]


def wrapped(text, drawing):
    """Wraps a title or caption to the figure's width, at a font size of 9."""
    return textwrap.fill(text, int(drawing.get_figwidth() / 0.075))


def draw_confusion(predictions, file):
    """Draws the confusion matrix as a PNG, coloured by the root of a class's share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = scoring.confusion(predictions)
    shade = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))[:, :-1]
    counts = counts[:, :-1]
    names, classes = predictions.label_names, len(counts)
    side = 2.5 + 0.22 * classes if classes > 20 else 2.5 + 0.4 * classes
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold dollars
        figure, axis = pyplot.subplots(figsize=(side, side), layout="constrained")
        axis.imshow(shade, cmap="Blues", vmin=0, vmax=1)
        if classes <= 20:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "white" if shade[i, j] > 0.5 else "black"
                place = {"ha": "center", "va": "center", "fontsize": 7}
                axis.text(j, i, counts[i, j], color=colour, **place)
        axis.set_xticks(range(classes), names, rotation=90, fontsize=7)
        axis.set_yticks(range(classes), names, fontsize=7)
        axis.set_xlabel("answer")
        axis.set_ylabel("class")
        with missing_letters_said():
            figure.savefig(file, format="png", dpi=100)
        pyplot.close(figure)
