"""What a trained network says about image files: the five best classes of each."""

import pathlib

import jax
import numpy as np
from PIL import Image, ImageOps

import data_source
import evaluate
import input_pipeline
from looking import pictures


def predict_run(run, which, paths):
    """Classifies image files with the network of a run.

    Args:
      run: a workdir.Workdir.
      which: the checkpoint: "latest", "best" or a step.
      paths: image files; each is made grey or RGB and resized, as the data set's images
        are.

    Returns:
      A table of the five best classes and their probabilities for each image. A picture
      of the same is written to <run>/predictions/step-<step>.png.
    """
    config, dataset = run.config(), run.read_json("dataset.json")
    images = np.stack([read_image(path, dataset["image_shape"]) for path in paths])
    names = dataset["label_names"]
    model = evaluate.make_model(config, len(names))
    preprocessing = evaluate.make_preprocessing(config, images.shape[1:])
    variables, step = evaluate.load_variables(
        run, model, evaluate.input_shape(preprocessing, images.shape[1:]), which
    )

    @jax.jit
    def probabilities(variables, images):
        inputs = input_pipeline.network_input({"image": images}, preprocessing)
        logits = model.apply(variables, inputs, train=False)
        return jax.nn.softmax(logits)

    scores = np.asarray(probabilities(variables, images))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    lines = []
    for path, row, order in zip(paths, scores, best, strict=True):
        listed = "  ".join(f"{names[k]} {100 * row[k]:.1f} %" for k in order)
        lines.append(f"{path}:  {listed}")
    panel = run.path / "predictions" / f"step-{step}.png"
    try:
        titles = [pathlib.Path(path).name for path in paths]
        pictures.draw_panel(panel, images, titles, names, scores, best)
        drawn = f"panel: {panel}"
    except OSError as error:
        drawn = f"no panel: {panel.parent}: {error.strerror}"
    return "\n".join([*lines, f"after step {step} of {run}; {drawn}"])


def read_image(path, shape):
    """An image file as uint8 of `shape` [H, W, C]; C is 1 (grey) or 3 (RGB).

    Raises:
      data_source.DataError: no such file, or not an image that can be read.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            image = image.convert("L" if channels == 1 else "RGB")
            if abs(image.width * height - image.height * width) > 0.05 * (
                image.width * height
            ):
                raise data_source.DataError(
                    f"--images: {path} is {image.width}x{image.height}; this network "
                    f"takes the shape of {width}x{height}, crop it first"
                )
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise data_source.DataError(f"--images: there is no file {path}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise data_source.DataError(
            f"--images: {path} is no readable image: {error}"
        ) from error
    return np.asarray(image, np.uint8).reshape(height, width, channels)
