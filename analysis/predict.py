"""Classifies image files with a trained network: the five best classes of each."""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import typing

import jax
import numpy as np

import data_source
import models
from analysis import answers, image_files, pictures
from experiment import trained
from models import layers
from training import losses
from transforms import resizing

SHOWN = 5  # classes for each image
DRAWN = 32  # images in the panel: the first
HEADER = [
    "image",
    *(f"{what}_{n}" for n in range(1, SHOWN + 1) for what in ("class", "probability")),
    "problem",
]


class Answer(typing.NamedTuple):
    """The best classes of an image, [(class, probability)], or why it has none."""

    image: str
    best: list
    problem: str = ""

    def __str__(self):
        best = [f"{name} {100 * share:.1f} %" for name, share in self.best]
        said = "  ".join(best) or f"no answer: {self.problem}"
        return f"{data_source.as_text(self.image)}:  {said}"

    def rows(self):
        cells = [cell for pair in self.best for cell in pair]
        cells += [""] * (2 * SHOWN - len(cells))
        return [[self.image, *cells, self.problem]]

    def as_dict(self):
        best = [{"class": name, "probability": share} for name, share in self.best]
        return {"image": self.image, "best": best, "problem": self.problem}


@dataclasses.dataclass
class Predictions(answers.Report):
    """The answers of a classifier, and where their picture is.

    `problem` says why there is no picture, and `note` what the probabilities are.
    """

    panel: pathlib.Path | None = None
    problem: str = ""
    note: str = ""

    def __str__(self):
        parts = self.parts()
        if self.panel and self.answered > DRAWN:
            parts.append(f"the first {DRAWN} are in the panel: {self.panel}")
        elif self.answered:
            parts.append(
                f"panel: {self.panel}" if self.panel else f"no panel: {self.problem}"
            )
        return "; ".join([*parts, self.note] if self.note else parts)


def predict_run(run, checkpoint, images, output=None):
    """Classifies image files with the network of a run, or finds objects in them.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      images: what `image_files.find` takes. Each image becomes grey or RGB and gets
        the size of the data set's images. One that cannot be read gets no answer.
      output: a .csv or .json for the answers; None prints them.

    Returns:
      `Predictions`; of a detector, a detect.Found.

    Memory holds a batch of images, whose size is eval.batch_size. The picture of the
    first answers is <run>/predictions/step-<step>.png.
    """
    if models.is_detector(run.config().model.name):
        from analysis import detect

        return detect.detect_run(run, checkpoint, images, output)
    network = trained.open_run(run, checkpoint)
    found = Predictions(str(run), network.step, output)
    found.note = losses.note(network.config.loss.name)
    shown = []
    with answers.to(output, HEADER) as write:
        for name, image, row in _probabilities(image_files.find(images), network):
            if isinstance(image, data_source.DataError):
                answer = Answer(name, [], data_source.as_text(str(image)))
            elif not np.isfinite(row).all():
                file = data_source.as_text(name)
                answer = Answer(name, [], f"{file}: the network's answer is no number")
            else:
                best = np.argsort(-row, kind="stable")[:SHOWN]
                names = network.label_names
                answer = Answer(name, [(names[k], float(row[k])) for k in best])
                if len(shown) < DRAWN:
                    title = data_source.as_text(os.path.basename(name))
                    shown.append((image, title, row, best))
            write(answer)
            found.count(answer)
    if shown:
        found.panel = run.path / "predictions" / f"step-{network.step}.png"
        pixels, titles, scores, best = zip(*shown, strict=True)
        try:
            pictures.draw_panel(
                found.panel, pixels, titles, network.label_names, scores, best
            )
        except Exception as error:  # a picture never costs a result
            reason = getattr(error, "strerror", None) or repr(error)
            found.problem = f"{found.panel.parent}: {reason}"
            found.panel = None
    return found


def _probabilities(items, network):
    """Yields (name, image, probabilities [K]) of the items of `image_files.find`.

    The image is as the network takes it. If it cannot be read, it is the DataError.
    """

    share = losses.probabilities(network.config.loss.name)

    @jax.jit
    def probabilities(variables, images):
        with layers.shapes_only():  # the network has its kernels
            logits = network.model.apply(variables, network.inputs(images), train=False)
        return share(logits)

    def read(item):
        name, data = item
        try:
            return read_image(name, network, data)
        except data_source.DataError as error:
            return error

    size, most = network.config.eval.batch_size, 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while batch := list(itertools.islice(items, size)):
            images = list(pool.map(read, batch))
            sound = [image for image in images if isinstance(image, np.ndarray)]
            rows = iter(())
            if sound:
                # A smaller batch than one before is filled up: a program for each size
                # would have to be compiled.
                most = max(most, len(sound))
                filled = np.zeros((most, *sound[0].shape), np.uint8)
                filled[: len(sound)] = sound
                rows = iter(np.asarray(probabilities(network.variables, filled)))
            for (name, _), image in zip(batch, images, strict=True):
                failed = isinstance(image, data_source.DataError)
                yield name, image, None if failed else next(rows)


def read_image(path, network, data=None):
    """Reads an image file as `network`, a trained.Trained, takes it: uint8 [H, W, C].

    `data` are the file's bytes if they are at hand. C is 1 (grey) or 3 (RGB). If all
    images of the data set have one shape, this one is brought to it; if they differ, it
    gets the view that they get.

    Raises:
      data_source.DataError: there is no such file, or it is not a readable image.
    """
    shape = height, width, channels = network.image_shape
    image = image_files.read(path, channels, data)
    rows, columns = image.shape[:2]
    if None not in shape:
        if abs(columns * height - rows * width) > 0.05 * columns * height:
            raise data_source.DataError(
                f"--images: {path} is {columns}x{rows}; this network takes the shape "
                f"of {width}x{height}, crop it first"
            )
        if (rows, columns) != (height, width):
            image = resizing.resize(image, height, width)
    return network.view(image) if network.view else image
