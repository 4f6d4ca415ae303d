"""What a trained network says about image files: the five best classes of each."""

import pathlib

import jax
import numpy as np

import data_source
import evaluate
import input_pipeline
from analysis import pictures
from transforms import decode, resizing


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
    image_shape = tuple(dataset["image_shape"])
    preprocessing = evaluate.make_preprocessing(config, image_shape)
    preprocessing = evaluate.with_statistics(preprocessing, run)
    images = np.stack([read_image(path, image_shape, preprocessing) for path in paths])
    names = dataset["label_names"]
    model = evaluate.make_model(config, len(names))
    variables, step = evaluate.load_variables(
        run, model, evaluate.input_shape(preprocessing, image_shape), which
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


def read_image(path, shape, preprocessing):
    """An image file as the network is tested with it, uint8 [H, W, C].

    C is 1 (grey) or 3 (RGB). Where the data set's images all have the `shape`
    [H, W, C], this one is brought to it; where they differ, it gets the view that they
    get.

    Raises:
      data_source.DataError: no such file, or not an image that can be read.
    """
    height, width, channels = shape
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
    view = preprocessing.view(shape)
    return view(image) if view else image
