"""Finds objects in image files with a trained detector."""

import dataclasses
import itertools
import math
import os
import pathlib
import typing

import jax
import numpy as np

import data_source
from analysis import answers, image_files
from detection import metrics, pictures, results, views
from experiment import detectors

DRAWN = 32  # images of which pictures are drawn: the first
HEADER = ["image", "class", "score", "x1", "y1", "x2", "y2", "problem"]


class Answer(typing.NamedTuple):
    """The objects of an image, or why it has no answer.

    An object is (class, score, [x1, y1, x2, y2]), the box in pixels of the upright
    image; those with a low score are in it, too.
    """

    image: str
    objects: list
    problem: str = ""

    def __str__(self):
        name = data_source.as_text(self.image)
        if self.problem:
            return f"{name}:  no answer: {self.problem}"
        sure = [row for row in self.objects if row[1] >= results.SHOWN]
        lines = [
            f"  {label:20} {score:.2f}  {' '.join(f'{x:7.1f}' for x in box)}"
            for label, score, box in sure
        ]
        number = f"{len(sure)} object{'s' * (len(sure) != 1)}"
        return "\n".join([f"{name}:  {number} with a score of 0.5 or more", *lines])

    def rows(self):
        found = [
            [self.image, label, score, *box, ""] for label, score, box in self.objects
        ]
        empty = [self.image, *[""] * (len(HEADER) - 2), self.problem]
        return found or [empty]

    def as_dict(self):
        found = [
            {"class": label, "score": score, "box": box}
            for label, score, box in self.objects
        ]
        return {"image": self.image, "objects": found, "problem": self.problem}


@dataclasses.dataclass(kw_only=True)
class Found(answers.Report):
    """The answers of a detector, and where their pictures are."""

    folder: pathlib.Path
    drawn: int = 0
    picture_problem: str = ""

    def __str__(self):
        parts = self.parts()
        if self.drawn:
            plural = "s" * (self.drawn != 1)
            parts.append(f"{self.drawn} picture{plural} in {self.folder}")
        if self.picture_problem:
            parts.append(f"no more pictures: {self.picture_problem}")
        return "; ".join(parts)


def detect_run(run, checkpoint, images, output=None):
    """Finds objects in image files with the detector of a run; returns `Found`.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      images: what `image_files.find` takes. One that cannot be read gets no answer.
      output: a .csv or .json for the answers; None prints them.

    The pictures of the first images are in <run>/predictions/step-<step>, and those of
    an earlier call go. They show the objects with a score of at least 0.5, as what is
    printed does; a file has all.
    """
    opened = detectors.open_run(run, checkpoint)
    find = Detector(opened)
    folder = run.path / "predictions" / f"step-{opened.step}"
    report = Found(str(run), opened.step, output, folder=folder)
    names = itertools.count(1)
    with answers.to(output, HEADER) as write:
        for name, data in image_files.find(images):
            try:
                image = image_files.read(name, opened.channels, data)
            except data_source.DataError as error:
                answer = Answer(name, [], data_source.as_text(str(error)))
                report.count(answer)
                write(answer)
                continue
            found = find(image)
            columns = (np.asarray(column).tolist() for column in found)
            rows = zip(*columns, strict=True)
            objects = [(opened.label_names[k], score, box) for box, score, k in rows]
            answer = Answer(name, objects)
            report.count(answer)
            write(answer)
            if report.drawn < DRAWN and not report.picture_problem:
                stem = pathlib.Path(os.path.basename(data_source.as_text(name))).stem
                path = folder / f"{next(names):02}-{stem}.png"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    if not report.drawn:
                        for earlier in folder.glob("[0-9][0-9]-*.png"):
                            earlier.unlink()
                    pictures.draw_found(path, image, found, opened.label_names)
                    report.drawn += 1
                except Exception as error:  # a picture never costs a result
                    reason = getattr(error, "strerror", None) or repr(error)
                    report.picture_problem = f"{path}: {reason}"
    return report


class Detector:
    """Finds the objects of one image after another.

    An image that no bucket of the run holds gets one of its own size, for which the
    network is compiled once more.

    Args:
      opened: a detectors.Opened.
    """

    def __init__(self, opened):
        self._view = opened.preprocessing.view
        self._variables = jax.device_put(opened.variables)
        self._step = jax.jit(detectors.make_step(opened.model, opened.preprocessing))

    def __call__(self, image):
        """Finds objects in uint8 [H, W, C]; returns a metrics.Detections."""
        height, width = image.shape[:2]
        view, group = bucket(self._view, (height, width))
        shown, arrays = view.test(image, None, group)
        size = arrays["image_size"]
        arrays["image"] = shown
        batch = {name: arrays[name][None] for name in view.tested}
        found = jax.device_get(self._step(self._variables, batch))
        found = there(jax.tree.map(lambda x: x[0], found))
        scale = np.tile([width / size[1], height / size[0]], 2)
        return found._replace(boxes=np.float32(found.boxes * scale))


def there(found):
    """Returns the metrics.Detections of one image's faster_rcnn.Detections."""
    return metrics.Detections(
        *(x[found.there] for x in (found.boxes, found.scores, found.labels))
    )


def bucket(view, size):
    """Finds the first bucket that holds an image of `size` (height, width).

    Returns:
      The views.View and the bucket's number. If there is none, it is another view, with
      a bucket for this size.
    """
    resized = views.resized_size(size, view.short_side, view.long_side)
    number = views.bucket_of(resized, view.buckets)
    if number is not None:
        return view, number
    own = tuple(views.STRIDE * math.ceil(side / views.STRIDE) for side in resized)
    return dataclasses.replace(view, buckets=(own,)), 0
