"""What drawings share: figures of hidden axes, files, and names that fit.

Images are uint8 [H, W, C], where C is 1 (grey) or 3 (RGB).
"""

import textwrap

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
    with scoring.missing_letters_said():
        drawing.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.05)
    pyplot.close(drawing)


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
