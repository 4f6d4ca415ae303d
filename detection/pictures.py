"""Draws images with boxes, and curves of precision; each function writes one PNG.

Images are uint8 [H, W, C]; boxes are [N, 4] in their pixels.
"""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from data_source import DataError
from detection import evaluator, results
from evaluation.drawing import BLUE, RED, figure, save, short, wrapped
from transforms import decode

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = "#d55e00 #0072b2 #009e73 #cc79a7 #e69f00 #56b4e9".split()
INCH = 100  # pixels of an image that an inch shows


class Layer(NamedTuple):
    """Boxes of one look: [N, 4], a colour or one for each, and a text for each."""

    boxes: np.ndarray
    colours: str | list
    texts: tuple = ()
    width: float = 1.2
    style: str = "-"
    below: bool = False  # where the texts are: below the boxes, else above


def show_boxes(axis, image, layers, title=""):
    """Shows an image with layers of boxes; the pixel (0, 0) is the box (0, 0, 1, 1)."""
    height, width = image.shape[:2]
    axis.imshow(
        image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0)
    )
    axis.set_title(title, fontsize=9)
    for layer in layers:
        _add(axis, layer, height)
    axis.set(xlim=(0, width), ylim=(height, 0))


def _add(axis, layer, height):
    from matplotlib import patches

    boxes = np.asarray(layer.boxes, np.float64).reshape(-1, 4).tolist()
    single = isinstance(layer.colours, str)
    colours = [layer.colours] * len(boxes) if single else layer.colours
    texts = layer.texts or [""] * len(boxes)
    look = {"fill": False, "linewidth": layer.width, "linestyle": layer.style}
    for (x1, y1, x2, y2), colour, text in zip(boxes, colours, texts, strict=True):
        size = x2 - x1, y2 - y1
        axis.add_patch(patches.Rectangle((x1, y1), *size, edgecolor=colour, **look))
        if text:
            inside = y2 > 0.95 * height if layer.below else y1 < 0.05 * height
            axis.text(
                *(x1, y2 if layer.below else y1, text),
                va="top" if layer.below != inside else "bottom",
                color="white",
                fontsize=6,
                bbox={"facecolor": colour, "alpha": 0.8, "pad": 0.5, "linewidth": 0},
            )


def found_layer(found, names, colour=None):
    """Returns the layer of a `metrics.Detections`, with names and scores.

    Without a colour, classes have one each.
    """
    colours = [COLOURS[label % len(COLOURS)] for label in found.labels]
    texts = [
        f"{short(names[label])} {score:.2f}"
        for label, score in zip(found.labels, found.scores, strict=True)
    ]
    return Layer(found.boxes, colour or colours, tuple(texts))


def objects_layer(objects, names):
    """Returns the layer of a `records.Objects`, with names below the boxes.

    A difficult object and a crowd say so.
    """
    kinds = np.where(objects.difficult, " (difficult)", "")
    kinds = np.where(objects.crowd, " (crowd)", kinds)
    labels = zip(objects.labels, kinds, strict=True)
    texts = tuple(f"{short(names[label])}{kind}" for label, kind in labels)
    return Layer(objects.boxes, BLUE, texts, below=True)


def draw_found(path, image, found, names):
    """Draws an image with the detections of `results.shown`."""
    height, width = image.shape[:2]
    scale = max(1, 4 / (width / INCH))
    drawing, axes = figure(1, 1, scale * width / INCH, scale * height / INCH)
    layer = found_layer(results.shown(found), names)
    show_boxes(axes[0, 0], image, [layer])
    save(drawing, path)


def draw_layers(path, panels, caption=""):
    """Draws panels (title, image, [Layer, ...]) beside each other, four in a row."""
    columns = max(1, min(len(panels), 4))
    rows = max(1, math.ceil(len(panels) / columns))
    drawing, axes = figure(rows, columns, 3.4, 3.0)
    for axis, (title, image, layers) in zip(axes.flat, panels, strict=False):
        show_boxes(axis, image, layers, title)
    drawing.supxlabel(wrapped(caption, drawing), fontsize=9)
    save(drawing, path)


def draw_worst(path, split, detections, number=8):
    """Draws the images with the most mistakes, with their objects and detections.

    An image that cannot be read is left out. results.mistakes counts them.
    """
    counts, panels = results.mistakes(split, detections), []
    for index in np.argsort(-counts, kind="stable"):
        if len(panels) == number or (image := _image(split, index)) is None:
            continue
        layers = [
            objects_layer(split.objects[index], split.label_names),
            found_layer(results.shown(detections[index]), split.label_names, RED),
        ]
        name = pathlib.Path(split.objects[index].name).name
        title = f"{short(name, 26, 20)}: {counts[index]} wrong"
        panels.append((title, image, layers))
    caption = (
        "blue: objects, with names below; red: detections with a score of at least "
        f"{results.SHOWN:g}, with names above; the images with the most objects missed "
        "and detections wrong"
    )
    draw_layers(path, panels, caption)


def _image(split, index):
    try:
        (example,) = split.examples([index])
        return decode.decode(example.image, split.channels)
    except (DataError, decode.DamagedImage):
        return None


def draw_curves(path, split, detections, rule="voc"):
    """Draws each class's precision by recall at an IoU of 0.5, with its AP there.

    The AP is by VOC's rule `rule`. With "coco" it is VOC's area, as the legend says.
    """
    scored = evaluator.curves(split, detections, rule)
    known = [
        (name, one)
        for name, one in zip(split.label_names, scored, strict=True)
        if one.objects
    ]
    drawing, axes = figure(1, 1, 5.0 + 1.5 * math.ceil(len(known) / 20), 4.2)
    axis = axes[0, 0]
    axis.axis("on")
    for number, (name, one) in enumerate(known):
        style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        first = one.precision[:1]  # none, if nothing was found
        axis.plot(
            np.concatenate([0 * first, one.recall]),
            np.concatenate([first, one.precision]),
            style,
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.2,
            label=f"{short(name)} {100 * one.ap:.1f}",
        )
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.spines[["top", "right"]].set_visible(False)
    mean = 100 * np.mean([one.ap for _, one in known])
    axis.set_title(f"{split.split}: mean AP at an IoU of 0.5: {mean:.1f} %", fontsize=9)
    axis.legend(
        title="AP by VOC's area, IoU 0.5" if rule == "coco" else None,
        title_fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8,
        ncols=math.ceil(len(known) / 20),
    )
    save(drawing, path)
