"""Draws networks as bubbles: top-1 error on ImageNet against multiply-adds."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bubble:
    """A network as the picture shows it."""

    name: str
    family: str
    multiply_adds: int
    error: float
    parameters: int  # gives the bubble's area
    single_crop: bool  # filled; the others are hollow


COLOURS = {
    "LeNet": "#000000",
    "AlexNet": "#7f7f7f",
    "ZFNet": "#bcbd22",
    "NIN": "#8c564b",
    "OverFeat": "#c49c94",
    "VGG": "#1f77b4",
    "Inception": "#2ca02c",
    "ResNet": "#d62728",
    "Pre-activation ResNet": "#ff9896",
    "Wide ResNet": "#ff7f0e",
    "FractalNet": "#17becf",
    "DenseNet": "#9467bd",
    "ResNeXt": "#e377c2",
    "DPN": "#637939",
    "SENet": "#393b79",
}
AREA = 6.5  # square points per million parameters
LEGEND = (10, 50, 100)  # millions of parameters


def draw(bubbles, path):
    """Draws the bubbles to the file `path`, whose suffix gives the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "convnets"}):
        figure, axes = pyplot.subplots(figsize=(11, 8), dpi=130, layout="constrained")
        _axes(axes)
        # Large bubbles come first, so that they cover no small one.
        bubbles = sorted(bubbles, key=lambda bubble: -bubble.parameters)
        for bubble in bubbles:
            axes.scatter(
                bubble.multiply_adds / 1e9,
                bubble.error,
                s=_area(bubble) * 4 / math.pi,  # matplotlib takes the enclosing square
                facecolor=(COLOURS[bubble.family], 0.4 if bubble.single_crop else 0.08),
                edgecolor=COLOURS[bubble.family],
                linewidth=0.8,
                linestyle="-" if bubble.single_crop else "--",
            )
        legends = _legends(axes, {bubble.family for bubble in bubbles})
        figure.canvas.draw()
        figure.set_layout_engine("none")
        _labels(axes, bubbles, legends)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)


def _area(bubble):
    return AREA * bubble.parameters / 1e6


def _axes(axes):
    from matplotlib import ticker

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.05)
    axes.set_xlabel("multiply-adds for one image, billions")
    axes.set_ylabel("published top-1 error on ImageNet's validation images, per cent")
    for axis, ticks in (
        (axes.xaxis, (0.5, 1, 2, 5, 10, 20, 50)),
        (axes.yaxis, (*range(16, 24), 25, 27, 30, 35, 40, 45)),
    ):
        axis.set_major_locator(ticker.FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(ticker.NullLocator())
    axes.grid(color="0.93", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legends(axes, families):
    """Draws the legend of colours and the one of sizes; returns both."""
    from matplotlib.lines import Line2D

    def disc(label, area, face, edge):
        size = 2 * math.sqrt(area / math.pi)
        style = {"marker": "o", "markersize": size, "linestyle": ""}
        return Line2D([], [], mfc=face, mec=edge, mew=0.8, label=label, **style)

    colours = [
        disc(family, 60, (colour, 0.4), colour)
        for family, colour in COLOURS.items()
        if family in families
    ]
    colours.append(disc("hollow: not a single crop", 60, "none", "0.4"))
    sizes = [disc(f"{n} M", AREA * n, "0.9", "0.5") for n in LEGEND]
    options = {"frameon": False, "fontsize": 9}
    first = axes.legend(handles=colours, loc="upper right", **options)
    axes.add_artist(first)
    second = axes.legend(
        handles=sizes,
        title="parameters",
        loc="lower left",
        labelspacing=1.3,
        borderpad=1.2,
        handletextpad=1.3,
        **options,
    )
    return [first, second]


def _labels(axes, bubbles, legends):
    """Writes each bubble's name near it, where the name covers least."""
    from matplotlib import colors, patheffects

    point = axes.figure.dpi / 72
    to_data = axes.transData.inverted().transform
    halo = [patheffects.withStroke(linewidth=1.5, foreground="white")]
    texts, sizes, discs = [], [], []
    for bubble in bubbles:
        xy = bubble.multiply_adds / 1e9, bubble.error
        radius = math.sqrt(_area(bubble) / math.pi) * point
        discs.append((*axes.transData.transform(xy), radius))
        style = {"fontsize": 7.5, "ha": "center", "va": "center", "gid": bubble.name}
        dark = [0.55 * part for part in colors.to_rgb(COLOURS[bubble.family])]
        text = axes.text(*xy, bubble.name, color=dark, path_effects=halo, **style)
        extent = text.get_window_extent()
        texts.append(text)
        sizes.append((extent.width + point, extent.height + point))
    taken = [legend.get_window_extent().extents for legend in legends]
    frame = axes.get_window_extent().extents
    boxes = place(sizes, np.array(discs), np.array(taken), frame, point)
    for text, (x, y, radius), box in zip(texts, discs, boxes, strict=True):
        text.set_position(to_data(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)))
        near = np.clip((x, y), box[:2], box[2:])
        gap = math.dist(near, (x, y))
        if gap > radius + 4 * point:
            edge = np.array((x, y)) + (near - (x, y)) * radius / gap
            line = to_data([edge, near])
            axes.plot(*line.T, color="0.5", linewidth=0.5, zorder=1)


def place(sizes, discs, taken, frame, point):
    """Places labels beside their discs.

    Each label in turn, in several rounds, takes the cheapest of the places around its
    disc. A place costs more the more it covers and the further away it is.

    Args:
      sizes: (width, height) of each label.
      discs: (x, y, radius) of each label's disc, [n, 3].
      taken: boxes to keep clear of, [m, 4].
      frame: the box to stay in.
      point: the length of a printer's point.

    Returns:
      the labels' boxes (left, bottom, right, top), [n, 4].
    """
    squares, centres = (
        np.concatenate([discs[:, :2] - r, discs[:, :2] + r], 1)
        for r in (0.85 * discs[:, 2:], np.minimum(discs[:, 2:], 2.5 * point))
    )
    turns, steps = np.meshgrid(2 * np.pi * np.arange(32) / 32, np.arange(10))
    directions = np.stack([np.cos(turns), np.sin(turns)], -1).reshape(-1, 2)
    distances = 4 * point * steps.reshape(-1, 1)
    candidates, fixed = [], []
    for i, size in enumerate(np.array(sizes)):
        x, y, radius = discs[i]
        away = radius + point + distances
        middle = (x, y) + directions * (away + size / 2)
        boxes = np.concatenate([middle - size / 2, middle + size / 2], 1)
        near = np.clip(discs[None, :, :2], boxes[:, None, :2], boxes[:, None, 2:])
        gaps = np.linalg.norm(near - discs[:, :2], axis=-1) - discs[:, 2]
        others = np.arange(len(discs)) != i
        # A name misleads if it is nearer to another disc than to its own.
        misleading = (gaps < gaps[:, i, None] + 2 * point)[:, others].sum(1)
        cost = (
            0.2 * distances[:, 0] / point
            + 12 * misleading
            + 0.2 * overlap(boxes, squares[others]) / point**2
            + 0.5 * overlap(boxes, centres) / point**2
            + 0.5 * overlap(boxes, taken) / point**2
            + 0.5 * (size.prod() - overlap(boxes, frame[None])) / point**2
        )
        candidates.append(boxes)
        fixed.append(cost)
    chosen = np.stack([boxes[0] for boxes in candidates])
    for _ in range(8):
        for i, boxes in enumerate(candidates):
            others = np.delete(chosen, i, 0)
            cost = fixed[i] + 0.6 * overlap(boxes, others) / point**2
            chosen[i] = boxes[cost.argmin()]
    return chosen


def overlap(boxes, others):
    """Sums the areas that each of `boxes` [n, 4] shares with `others` [m, 4]: [n]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.maximum(high - low, 0).prod(-1).sum(1)
