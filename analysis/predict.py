"""Classifies image files with a trained network: the five best classes of each."""

import dataclasses
import pathlib

import jax
import numpy as np

import data_source
from analysis import pictures
from experiment import trained
from transforms import decode, resizing

SHOWN = 5  # classes for each image


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The answers for some image files.

    `probabilities` is [N, K]; `best` [N, 5] has classes, the most probable first.
    `panel` is the picture of the answers; if it could not be drawn, `problem` says why.
    """

    run: str
    step: int
    paths: list
    label_names: tuple
    probabilities: np.ndarray
    best: np.ndarray
    panel: pathlib.Path | None
    problem: str = ""

    def __str__(self):
        lines = []
        for path, row, order in zip(
            self.paths, self.probabilities, self.best, strict=True
        ):
            answers = (f"{self.label_names[k]} {100 * row[k]:.1f} %" for k in order)
            lines.append(f"{path}:  {'  '.join(answers)}")
        drawn = f"panel: {self.panel}" if self.panel else f"no panel: {self.problem}"
        return "\n".join([*lines, f"after step {self.step} of {self.run}; {drawn}"])


def predict_run(run, checkpoint, paths):
    """Classifies image files with the network of a run; returns `Predictions`.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      paths: image files. Each becomes grey or RGB and gets the size of the data set's
        images.

    It writes a picture of the answers to <run>/predictions/step-<step>.png.
    """
    network = trained.open_run(run, checkpoint)
    images = np.stack([read_image(path, network) for path in paths])

    @jax.jit
    def probabilities(variables, images):
        logits = network.model.apply(variables, network.inputs(images), train=False)
        return jax.nn.softmax(logits)

    scores = np.asarray(probabilities(network.variables, images))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN]
    panel, problem = run.path / "predictions" / f"step-{network.step}.png", ""
    try:
        titles = [pathlib.Path(path).name for path in paths]
        pictures.draw_panel(panel, images, titles, network.label_names, scores, best)
    except OSError as error:
        panel, problem = None, f"{panel.parent}: {error.strerror}"
    return Predictions(
        str(run),
        network.step,
        paths,
        network.label_names,
        scores,
        best,
        panel,
        problem,
    )


def read_image(path, network):
    """Reads an image file as `network`, a trained.Trained, takes it: uint8 [H, W, C].

    C is 1 (grey) or 3 (RGB). If all images of the data set have one shape, this one is
    brought to it; if they differ, it gets the view that they get.

    Raises:
      data_source.DataError: there is no such file, or it is not a readable image.
    """
    shape = height, width, channels = network.image_shape
    try:
        image = decode.decode(pathlib.Path(path).read_bytes(), channels)
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
