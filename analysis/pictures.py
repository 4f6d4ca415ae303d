"""Draws what the other files find; every draw_ function writes one PNG.

Images are uint8 [H, W, C], where C is 1 (grey) or 3 (RGB).
"""

import math

import numpy as np

from analysis import tiles
from evaluation.drawing import BLUE, RED, figure, save, short, show, wrapped

COLOURED = 6  # classes with a colour of their own in a map of answers


def draw_panel(path, images, titles, names, scores, best, labels=None):
    """Draws each image with bars for its five best classes (AlexNet, Figure 4, left).

    scores [N, K] are probabilities, best [N, 5] classes; with `labels` [N], the bar of
    the true class is marked. Titles are classes, or file names without labels.
    """
    columns = min(len(images), 4)
    rows = math.ceil(len(images) / columns)
    drawing, axes = figure(rows, 2 * columns, 2.0, 1.9)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, columns)
        picture, bars = axes[row, 2 * column], axes[row, 2 * column + 1]
        show(picture, image, short(title, 16, 0 if labels is not None else 9))
        order = best[number][::-1]
        true = order == (-1 if labels is None else labels[number])
        bars.axis("on")
        bars.barh(
            range(len(order)),
            100 * scores[number][order],
            color=np.where(true, RED, BLUE),
        )
        bars.set_yticks(range(len(order)), [short(names[k]) for k in order], fontsize=8)
        for label, marked in zip(bars.get_yticklabels(), true, strict=True):
            label.set_color(RED if marked else "black")
        bars.set_xlim(0, 100)
        bars.set_xticks([0, 50, 100], ["0", "50", "100 %"], fontsize=8)
        bars.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        drawing.supxlabel(
            wrapped(
                "above each image its class, beside it the five best answers; "
                "red: the true class",
                drawing,
            ),
            fontsize=9,
        )
    save(drawing, path)


def draw_filters(path, kernel, title):
    """Draws the filters of a convolution [h, w, C, K] (AlexNet, Figure 3).

    Each is scaled by its own largest weight; 0 is mid-grey. One channel is drawn in
    grey, three in colours.
    """
    columns = min(kernel.shape[-1], 16)
    sheet = tiles.tiled(tiles.filters(kernel), columns)
    rows = math.ceil(kernel.shape[-1] / columns)
    inches = 0.45
    drawing, axes = figure(1, 1, max(inches * columns, 5.6), inches * rows + 0.35)
    show(axes[0, 0], sheet, wrapped(title, drawing), interpolation="nearest")
    save(drawing, path)


def draw_activations(path, image, stages, title, number=12):
    """Draws the image and a row of maps for each stage, brightest where most active.

    stages is {name: [h, w, D]}. A stage with many maps shows the `number` that vary
    most over the image, in the network's order, each from its lowest to its highest
    value; a stage without an extent, [1, 1, D], shows all units as a strip.
    """
    drawing, axes = figure(len(stages) + 1, 1, 0.72 * number, 0.98)
    axes[0, 0].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=_cell(0))
    for axis, (name, maps) in zip(axes[1:, 0], stages.items(), strict=True):
        shape = "x".join(map(str, maps.shape))
        if maps.shape[:2] != (1, 1) and maps.shape[2] > number:
            shape += f", the {number} of {maps.shape[2]} maps that vary most"
        axis.set_title(f"{name}  {shape}", fontsize=8, loc="left")
        if maps.shape[:2] == (1, 1):
            axis.imshow(maps.reshape(1, -1), extent=_cell(0, number))
            continue
        varied = np.argsort(-maps.std((0, 1)), kind="stable")[:number]
        for place, k in enumerate(np.sort(varied)):
            axis.imshow(maps[..., k], extent=_cell(place), interpolation="nearest")
    for axis in axes[:, 0]:
        axis.set(xlim=(0, number), ylim=(0, 1), aspect="equal")
    drawing.suptitle(wrapped(title, drawing), fontsize=9)
    save(drawing, path)


def _cell(place, number=1):
    """The extent of an image drawn in cell `place` of a row of `number` cells."""
    return (place, place + number - 0.06, 0, 0.94)


def draw_neighbours(path, queries, found, title):
    """Draws queries in the first column, their nearest beside (Figure 4, right).

    queries is a list of (image, name or ""); found has for each a list of (image,
    name), the nearest first. A name other than the query's is red.
    """
    number = len(found[0])
    drawing, axes = figure(
        len(queries), number + 2, 1.0, 1.15, width_ratios=[1, 0.15] + [1] * number
    )
    for row, (query, others) in enumerate(zip(queries, found, strict=True)):
        show(axes[row, 0], query[0], short(query[1], 12))
        for axis, (image, name) in zip(axes[row, 2:], others, strict=True):
            show(axis, image, short(name, 12))
            if query[1] and name != query[1]:
                axis.title.set_color(RED)
    drawing.suptitle(wrapped(title, drawing), fontsize=9)
    save(drawing, path)


def draw_grad_cam(path, images, maps, titles, answers, caption):
    """Draws each image, and beside it its map [h, w] over it, scaled to its maximum.

    titles name the classes explained; an answer [N] that differs is given in red.
    """
    columns = min(len(images), 4)
    rows = math.ceil(len(images) / columns)
    drawing, axes = figure(rows, 2 * columns, 1.5, 1.85)
    for number, (image, heat) in enumerate(zip(images, maps, strict=True)):
        row, column = divmod(number, columns)
        picture, overlay = axes[row, 2 * column], axes[row, 2 * column + 1]
        show(picture, image, short(titles[number]))
        show(overlay, image)
        overlay.imshow(
            heat,
            cmap="inferno",
            alpha=0.6,
            vmin=0,
            vmax=max(heat.max(), 1e-12),
            extent=_extent(image),
            interpolation="bilinear",
        )
        if (answer := answers[number]) != titles[number]:
            overlay.set_title(f"answer: {short(answer, 12)}", fontsize=9, color=RED)
        if heat.max() == 0:
            overlay.text(
                0.5,
                0.5,
                "nothing speaks for it",
                color="white",
                fontsize=8,
                horizontalalignment="center",
                transform=overlay.transAxes,
            )
    drawing.supxlabel(wrapped(caption, drawing), fontsize=9)
    save(drawing, path)


def draw_occlusion(path, images, maps, classes, names, size):
    """Draws ZFNet's Figure 7: image, probability of its class, most probable class.

    maps has probabilities [rows, columns, K] by the position of the square's centre;
    classes is [N]; size is the square's side in pixels.
    """
    from matplotlib import colormaps, colors, patches

    drawing, axes = figure(len(images), 3, 2.4, 2.2)
    for row, (image, found) in enumerate(zip(images, maps, strict=True)):
        label, best = classes[row], found.argmax(-1)
        extent = _extent(image)
        show(axes[row, 0], image, short(names[label]))
        probability = found[..., label]
        shown = axes[row, 1].imshow(
            probability, vmin=0, vmax=max(probability.max(), 1e-12), extent=extent
        )
        bar = drawing.colorbar(shown, ax=axes[row, 1], shrink=0.85, pad=0.03)
        bar.set_ticks([0, probability.max()], labels=["0", f"{probability.max():.2g}"])
        bar.ax.tick_params(labelsize=8)
        # The class itself is light grey; those that win most have colours, and the rest
        # one dark grey.
        number = np.bincount(best.ravel(), minlength=found.shape[-1])
        number[label] = 0
        others = [k for k in np.argsort(-number, kind="stable") if number[k]]
        palette = np.tile(colors.to_rgb("0.3"), (found.shape[-1], 1))
        palette[label] = colors.to_rgb("0.85")
        for i, k in enumerate(others[:COLOURED]):
            palette[k] = colormaps["tab10"](i)[:3]
        axes[row, 2].imshow(palette[best], extent=extent)
        handles = [
            patches.Patch(color=palette[k], label=short(names[k]))
            for k in [label, *others[:COLOURED]]
        ]
        if len(others) > COLOURED:
            handles.append(patches.Patch(color="0.3", label="others"))
        axes[row, 2].legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=8,
        )
        axes[row, 0].add_patch(
            patches.Rectangle((-0.5, -0.5), size, size, color="0.5", linewidth=0)
        )
    axes[0, 1].set_title("probability of the class", fontsize=9)
    axes[0, 2].set_title("most probable class", fontsize=9)
    drawing.supxlabel(
        f"by the centre of a grey square of {size}x{size} pixels, shown in the corner",
        fontsize=9,
    )
    save(drawing, path)


def _extent(image):
    """Where imshow puts an image; with this extent, a smaller one covers it exactly."""
    height, width = image.shape[:2]
    return (-0.5, width - 0.5, height - 0.5, -0.5)
