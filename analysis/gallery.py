"""The pictures of an inspection; one that cannot be drawn does not stop the others."""

import contextlib
import dataclasses
import pathlib
import tempfile

import numpy as np
from PIL import Image

from analysis import pictures, retrieval
from errors import UserError
from experiment import reporting, workdir


class NotShown(Exception):
    """The network or its images lack what a picture shows."""


# What inspections leave, of classifiers and of detectors.
PICTURES = "filters activations predictions grad_cam occlusion neighbours codes".split()
PICTURES += "anchors proposals samples".split()
FILES = [*(f"{name}.png" for name in PICTURES), "retrieval.json"]

# Errors whose messages are written for the user.
EXPECTED = (UserError, NotShown, OSError)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The pictures of a run that were drawn, and those that were not.

    `retrieval` is the result of Search.measure, None if it could not be measured;
    `failed` says why each missing picture could not be drawn.
    """

    run: str
    step: int
    retrieval: dict | None
    drawn: list
    failed: list

    def __str__(self):
        lines = [] if self.retrieval is None else [retrieval.describe(self.retrieval)]
        lines.append(f"after step {self.step} of {self.run}:")
        return "\n".join([*lines, *(f"  {path}" for path in self.drawn)])


class Gallery:
    """Draws the pictures of a run's network into a directory.

    What an earlier inspection left there goes: it may be of another step.

    Attributes:
      drawn: their paths.
      failed: why others are missing.
    """

    def __init__(self, run, network, directory=None):
        self.directory = pathlib.Path(directory or run.path / "inspect")
        self._run, self._network = run, network
        self.drawn, self.failed = [], []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self.directory / name).unlink(missing_ok=True)
            tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as e:
            raise workdir.WorkdirError(
                f"cannot draw into {self.directory}: {e.strerror}; --output names "
                "another directory"
            ) from e

    @contextlib.contextmanager
    def attempt(self, name):
        """Notes an error under the name of what could not be had."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, EXPECTED)
            self.failed.append(f"no {name}: {error if known else repr(error)}")

    def draw(self, function, *arguments):
        """Calls function(path, network, *arguments), whose name the picture has."""
        path = self.directory / f"{function.__name__}.png"
        with self.attempt(function.__name__):
            function(path, self._network, *arguments)
            self.drawn.append(path)

    def finish(self, measured=None):
        """Shows the pictures to TensorBoard; returns the `Inspection`."""
        step = self._network.step
        with self.attempt("pictures for TensorBoard"):
            to_tensorboard(self.directory, step, self.drawn)
        return Inspection(str(self._run), step, measured, self.drawn, self.failed)


def to_tensorboard(directory, step, paths):
    if not paths:
        return
    writer = reporting.MetricWriter(directory, first_step=step - 1, scalars=False)
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.write_images(step, {f"inspect/{path.stem}": pixels})
    writer.close()


def draw_kernel(path, kernel, name):
    """Draws the filters of the first convolution, whose kernel is [h, w, C, K].

    Raises:
      NotShown: they see neither grey nor RGB.
    """
    kernel = np.asarray(kernel, np.float32)
    height, width, channels, number = kernel.shape
    if channels not in (1, 3):
        raise NotShown(f"{channels} channels are neither grey nor RGB")
    pictures.draw_filters(
        path,
        kernel,
        f"{name}: {number} filters of {height}x{width}x{channels}, each scaled by its "
        "largest weight; 0 is mid-grey",
    )
