"""Draws what a detector's two stages see, in <run>/inspect/ (--mode=inspect).

The pictures are of images as the network sees them: resized, and without their padding.
"""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

import data_source
import input_pipeline
from analysis import detect, gallery, image_files
from analysis.gallery import NotShown
from detection import objective, pictures, results, views
from evaluation.drawing import BLUE, RED, short
from experiment import detectors, trained

SHOWN = 4  # images of a picture, spread over the split
BEST = 12  # proposals of an image
GREEN, GREY, ORANGE = "#009e73", "0.6", "#e69f00"


class Seen(NamedTuple):
    """An image as the network sees it: the arrays of views.View in a batch of one."""

    title: str
    batch: dict

    @property
    def image(self):
        """uint8 [h, w, C], without padding."""
        height, width = self.batch["image_size"][0]
        return self.batch["image"][0, :height, :width]


def inspect_run(run, checkpoint, paths=(), output=None):
    """Draws all pictures of a detector's run; returns the gallery.Inspection.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      paths: image files to look at. The default is test images.
      output: the directory of the pictures; None: <run>/inspect.

    Raises:
      DataError: one of `paths` is not an image.
      WorkdirError: the directory cannot be written to.
    """
    network = Network(run, checkpoint)
    shown = [network.file(path) for path in paths]
    drawing = gallery.Gallery(run, network, output)
    drawing.draw(filters)
    with drawing.attempt("test images"):
        shown = shown or network.images(network.config.dataset.eval_split)
    if shown:
        drawing.draw(anchors, shown[0])
        drawing.draw(proposals, shown)
    with drawing.attempt("training images"):
        seen = network.images(network.config.dataset.train_split)
        drawing.draw(samples, seen)
    return drawing.finish()


class Network:
    """A run's detector with its weights; reads and prepares images for it."""

    def __init__(self, run, checkpoint):
        opened = detectors.open_run(run, checkpoint)
        self.run, self.config, self.model = run, opened.config, opened.model
        self.names, self.step = opened.label_names, opened.step
        self.variables = jax.device_put(opened.variables)
        self.channels, self._preprocessing = opened.channels, opened.preprocessing

    def file(self, path):
        """Returns the `Seen` of an image file."""
        image = image_files.read(path, self.channels)
        return self.show(pathlib.Path(path).name, image)

    def show(self, title, image):
        """Returns the `Seen` of an image uint8 [H, W, C] of any size."""
        shown, arrays = self._show(self._preprocessing.view, image, None)
        batch = {"image": shown, **arrays}
        return Seen(title, {n: x[None] for n, x in batch.items()})

    def open_split(self, name):
        """Opens a split, with its classes numbered as the network's."""
        split = detectors.open_split(self.config, name)
        return trained.of_run(split, self.run, self.config, name)

    def images(self, name):
        """Returns the `Seen` of a few images of a split, of those that can be read."""
        split = self.open_split(name)
        view = self._preprocessing.view
        most = max(view.max_boxes, split.most_objects)
        view = dataclasses.replace(view, max_boxes=most)

        def show(at, image, objects):
            return self._show(view, image, objects)

        found = []
        for index in np.linspace(0, len(split) - 1, min(SHOWN, len(split))).astype(int):
            try:
                batch = input_pipeline.read_views(split, [index], show, "fail")
            except data_source.DataError as error:
                logging.warning("%s; it is not shown", error)
                continue
            places = {"index": np.int32([index]), "epoch": np.zeros(1, np.int32)}
            title = pathlib.Path(split.objects[index].name).name
            found.append(Seen(title, batch | places))
        return found

    def _show(self, view, image, objects):
        view, group = detect.bucket(view, image.shape[:2])
        return view.test(image, objects, group)

    @functools.cached_property
    def _look(self):
        def look(model, batch):
            images, sizes, scaled, _ = self._preprocessing.seen(batch)
            x, logits, deltas = model.first_stage(images, sizes, train=False)
            rois, there, scores = model.scored_proposals(
                logits, deltas, x.shape[1:3], sizes, train=False
            )
            maps = model.scale_maps((x, sizes), scaled, train=False)
            found = model.detected(maps, rois, there, sizes, train=False)
            return rois, there, jax.nn.sigmoid(scores), found

        return jax.jit(functools.partial(self.model.apply, method=look))

    def look(self, seen):
        """Returns the proposals of an image, its detections, and all their scores.

        They are boxes [N, 4] by falling score, scores [N], and a metrics.Detections.
        """
        names = self._preprocessing.view.tested
        batch = {name: seen.batch[name] for name in names}
        found = jax.device_get(self._look(self.variables, batch))
        rois, there, scores, found = jax.tree.map(lambda x: x[0], found)
        return rois[there], scores[there], detect.there(found)

    @functools.cached_property
    def _samples(self):
        objective = detectors.make_objective(
            self.config, self.model, self._preprocessing
        )
        # An image alone would have other statistics than a batch.
        objective = dataclasses.replace(objective, frozen_statistics=True)
        return jax.jit(objective.samples)

    def samples(self, seen):
        """Returns the AnchorTargets and RoiTargets of a training image (targets.py)."""
        found = self._samples(self.variables, seen.batch, self.config.seed)
        return jax.tree.map(lambda x: np.asarray(x[0]), found)


# The pictures; each function has the name of its file.


def filters(path, network):
    kernel = network.variables["params"]["backbone"]["conv1"]["kernel"]
    gallery.draw_kernel(path, kernel, "conv1")


def anchors(path, network, seen):
    """Draws the anchors of the middle of an image, once for each size."""
    model, image = network.model, seen.image
    base = model.anchor_boxes((1, 1))
    rows, columns = (side // views.STRIDE // 2 for side in image.shape[:2])
    own = base + views.STRIDE * np.array([columns, rows, columns, rows])
    own = own[np.argsort(np.prod(own[:, 2:] - own[:, :2], 1), kind="stable")]
    by_size = np.split(own, len(model.anchor_sizes))
    panels = [
        (f"size {size:g}", image, [pictures.Layer(boxes, GREEN)])
        for size, boxes in zip(sorted(model.anchor_sizes), by_size, strict=True)
    ]
    caption = (
        f"the {len(base)} anchors of one position; there are as many every "
        f"{views.STRIDE} pixels"
    )
    pictures.draw_layers(path, panels, caption)


def proposals(path, network, shown):
    """Draws the best proposals of each image, and beside them what is detected."""
    panels = []
    for seen in shown:
        rois, scores, found = network.look(seen)
        found = results.shown(found)
        objects = _objects(seen, network.names)
        texts = tuple(f"{score:.2f}" for score in scores[:BEST])
        best = pictures.Layer(rois[:BEST], ORANGE, texts)
        title = f"{short(seen.title, 24, 10)}: {len(rois)} proposals"
        panels.append((title, seen.image, [objects, best]))
        detected = pictures.found_layer(found, network.names, RED)
        title = f"{len(found.scores)} detections"
        panels.append((title, seen.image, [objects, detected]))
    caption = (
        f"orange: the {BEST} best proposals, with their scores of being an object; "
        f"red: detections with a score of at least {results.SHOWN:g}; blue: objects "
        "except crowds and difficult ones, with names below"
    )
    pictures.draw_layers(path, panels, caption)


def samples(path, network, shown):
    """Draws the anchors and, beside them, the regions that a training step samples.

    Of a run that trains the first stage alone, they are the anchors.
    """
    stage = network.config.detection.stage
    trained_stages = objective.STAGES[stage].stages
    if "rpn" not in trained_stages:
        raise NotShown(
            f"a run with detection.stage={stage} samples regions from stored proposals"
        )
    panels = []
    for seen in shown:
        objects = _objects(seen, network.names)
        on_anchors, on_rois = network.samples(seen)
        shape = [side // views.STRIDE for side in seen.batch["image"].shape[1:3]]
        own = network.model.anchor_boxes(shape)[on_anchors.index]
        on, off = _split(on_anchors.positive, on_anchors.sampled)
        layers = [_faint(own[off]), objects, pictures.Layer(own[on], GREEN)]
        title = f"{on.sum()} positive anchors, {off.sum()} negative"
        panels.append((title, seen.image, layers))
        if "regions" not in trained_stages:
            continue
        on, off = _split(on_rois.classes > 0, on_rois.sampled)
        texts = tuple(short(network.names[k - 1]) for k in on_rois.classes[on])
        foreground = pictures.Layer(on_rois.rois[on], RED, texts)
        layers = [_faint(on_rois.rois[off]), objects, foreground]
        title = f"{on.sum()} regions of objects, {off.sum()} of background"
        panels.append((title, seen.image, layers))
    caption = (
        "what a step of training samples; green: positive anchors; grey: negative ones"
    )
    if "regions" in trained_stages:
        caption += (
            " and background; red: regions of objects, with the class that they are to "
            "get"
        )
    caption += "; blue: objects except crowds and difficult ones, with names below"
    pictures.draw_layers(path, panels, caption)


def _split(positive, sampled):
    return positive & sampled, ~positive & sampled


def _faint(boxes):
    return pictures.Layer(boxes, GREY, width=0.4)


def _objects(seen, names):
    """Returns the layer of an image's objects, with names below."""
    real = seen.batch["real"][0]
    texts = tuple(short(names[k]) for k in seen.batch["labels"][0][real])
    return pictures.Layer(seen.batch["boxes"][0][real], BLUE, texts, below=True)
