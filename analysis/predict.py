"""Classifies image files with a trained network: the five best classes of each."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import glob
import itertools
import json
import os
import pathlib
import re
import sys
import typing

import jax
import numpy as np
from absl import logging

import data_source
from analysis import pictures
from data_source.image_folder import EXTENSIONS
from experiment import trained
from transforms import decode, resizing

SHOWN = 5  # classes for each image
DRAWN = 32  # images in the panel: the first
# The first bytes of image files that need not have a NUL soon, as no path has.
MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF|GIF8|P[1-6]\s+[\d#]")


class Answer(typing.NamedTuple):
    """The best classes of an image, [(class, probability)], or why it has none."""

    image: str
    best: list
    problem: str = ""

    def __str__(self):
        answers = [f"{name} {100 * share:.1f} %" for name, share in self.best]
        said = "  ".join(answers) or f"no answer: {self.problem}"
        return f"{data_source.as_text(self.image)}:  {said}"


@dataclasses.dataclass
class Predictions:
    """How many images got an answer, and where the answers and their picture are.

    `problem` says why there is no picture, `first_failure` why the first image without
    an answer has none.
    """

    run: str
    step: int
    output: str | None
    answered: int = 0
    unanswered: int = 0
    first_failure: str = ""
    panel: pathlib.Path | None = None
    problem: str = ""

    @property
    def failed(self):
        """Lists what main.py reports as an error."""
        number = self.answered + self.unanswered
        if not number:
            return ["--images names no image"]
        if not self.unanswered:
            return []
        if number == 1:
            return [self.first_failure]
        return [
            f"{self.unanswered} of {number} images have no answer; the first: "
            f"{self.first_failure}"
        ]

    def __str__(self):
        parts = [
            f"{self.answered} of {self.answered + self.unanswered} images have answers "
            f"after step {self.step} of {self.run}"
        ]
        if self.output:
            parts.append(f"answers: {self.output}")
        if self.panel and self.answered > DRAWN:
            parts.append(f"the first {DRAWN} are in the panel: {self.panel}")
        elif self.answered:
            parts.append(
                f"panel: {self.panel}" if self.panel else f"no panel: {self.problem}"
            )
        return "; ".join(parts)


def predict_run(run, checkpoint, images, output=None):
    """Classifies image files with the network of a run; returns `Predictions`.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      images: what `find` takes. Each image becomes grey or RGB and gets the size of the
        data set's images. One that cannot be read gets no answer.
      output: a .csv or .json for the answers; None prints them.

    Memory holds a batch of images, whose size is eval.batch_size. The picture of the
    first answers is <run>/predictions/step-<step>.png.
    """
    network = trained.open_run(run, checkpoint)
    found = Predictions(str(run), network.step, output)
    shown = []
    with _answers_to(output) as write:
        for name, image, row in _probabilities(find(images), network):
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
            found.answered += not answer.problem
            found.unanswered += bool(answer.problem)
            found.first_failure = found.first_failure or answer.problem
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
    """Yields (name, image, probabilities [K]) of the items of `find`.

    The image is as the network takes it. If it cannot be read, it is the DataError.
    """

    @jax.jit
    def probabilities(variables, images):
        logits = network.model.apply(variables, network.inputs(images), train=False)
        return jax.nn.softmax(logits)

    def read(item):
        name, data = item
        try:
            if isinstance(data, data_source.DataError):
                raise data
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


@contextlib.contextmanager
def _answers_to(output):
    """Gives the function that writes an `Answer` to a .csv or .json, or prints it.

    The file is <output>.part until all answers are in it. Of several processes only
    the first writes.
    """
    if jax.process_index():
        yield lambda answer: None
    elif output is None:
        yield lambda answer: print(answer, flush=True)
    else:
        part = f"{output}.part"
        # A name that is no UTF-8 keeps its bytes.
        kept = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        rows = _csv if output.endswith(".csv") else _json
        with open(part, "w", **kept) as file, rows(file) as write:
            yield write
        os.replace(part, output)


@contextlib.contextmanager
def _csv(file):
    numbers = range(1, SHOWN + 1)
    best = [f"{what}_{n}" for n in numbers for what in ("class", "probability")]
    rows = csv.writer(file)
    rows.writerow(["image", *best, "problem"])

    def write(answer):
        cells = [cell for pair in answer.best for cell in pair]
        cells += [""] * (2 * SHOWN - len(cells))
        rows.writerow([answer.image, *cells, answer.problem])

    yield write


@contextlib.contextmanager
def _json(file):
    file.write("[")
    before = itertools.chain(["\n"], itertools.repeat(",\n"))

    def write(answer):
        best = [{"class": name, "probability": share} for name, share in answer.best]
        row = {"image": answer.image, "best": best, "problem": answer.problem}
        file.write(next(before) + json.dumps(row))

    yield write
    file.write("\n]\n")


def find(images):
    """Yields (name, data) of the images that --images names; data is None for a file.

    A folder stands for the image files in and under it, in the order of their names,
    and a pattern such as "photos/*.jpg" for the files that match. "-" is the standard
    input: an image, or else a list of all these, one a line. Instead of data there may
    be the DataError of a folder.
    """
    for given in images:
        if given != "-":
            yield from _files(given)
            continue
        first = sys.stdin.buffer.peek()
        listed = os.path.exists(first.split(b"\n")[0].rstrip(b"\r"))
        if b"\0" in first or (MAGIC.match(first) and not listed):
            yield "-", sys.stdin.buffer.read()
            continue
        for line in sys.stdin.buffer:
            if line := line.rstrip(b"\r\n"):
                yield from _files(os.fsdecode(line))


def _files(given):
    path = os.path.expanduser(given)
    if os.path.isdir(path):
        yield from _folder(path)
    elif glob.has_magic(path) and not os.path.exists(path):
        found = sorted(glob.iglob(path, recursive=True))
        # A pattern that matches nothing is reported as a missing file.
        for file in [file for file in found if not os.path.isdir(file)] or [path]:
            yield file, None
    else:
        yield path, None


def _folder(path):
    """Yields the image files in and under a folder; hidden ones are left out."""
    errors, images, others = [], 0, 0
    for folder, folders, names in os.walk(path, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                images += 1
                yield os.path.join(folder, name), None
            else:
                others += 1
    if others:
        logging.warning("%s: %d files are no images by their names", path, others)
    for error in errors:
        yield (
            error.filename,
            data_source.DataError(
                f"--images: {error.filename} cannot be listed: {error.strerror}"
            ),
        )
    if not images and not errors:
        yield path, data_source.DataError(f"--images: {path} holds no image files")


def read_image(path, network, data=None):
    """Reads an image file as `network`, a trained.Trained, takes it: uint8 [H, W, C].

    `data` are the file's bytes if they are at hand. C is 1 (grey) or 3 (RGB). If all
    images of the data set have one shape, this one is brought to it; if they differ, it
    gets the view that they get.

    Raises:
      data_source.DataError: there is no such file, or it is not a readable image.
    """
    shape = height, width, channels = network.image_shape
    try:
        if data is None:
            data = pathlib.Path(path).read_bytes()
        image = decode.decode(data, channels)
    except FileNotFoundError as error:
        raise data_source.DataError(f"--images: there is no file {path}") from error
    except (OSError, decode.DamagedImage) as error:
        raise data_source.DataError(
            f"--images: {path} is no readable image: {error}"
        ) from error
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
