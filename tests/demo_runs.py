"""A run directory of LeNet-5 with random weights, for tests of the page."""

import base64
import io

import jax
import numpy as np
import runs
from PIL import Image

from data_source import open_split
from experiment import build, checkpoints, workdir


def make(path, name="lenet5", variant="minibatch", **overrides):
    """Returns the workdir.Workdir of a network for MNIST that was never trained."""
    config = runs.small_config(variant, model__name=name, **overrides)
    run = workdir.Workdir(path)
    run.create(config)
    split = open_split("mnist", "test[:1]")
    record = {"image_shape": split.image_shape, "label_names": split.label_names}
    run.write_json("dataset.json", record)
    model = build.make_model(config, 10)
    size = config.dataset.image_size or 28
    rng = np.random.default_rng(0)

    def draw(path, x):
        std = np.prod(x.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.3
        return rng.normal(0, std, x.shape).astype(np.float32)

    shapes = build.abstract_variables(model, (size, size, 1))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    saved = checkpoints.Checkpoints(run.checkpoints)
    saved.save(4, {"ema": None, "batch_stats": {}} | variables)
    saved.close()
    return run


def pixels(url):
    """Decodes a picture of sheets.url: uint8 [H, W, C]."""
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        found = np.asarray(image)
    return found if found.ndim == 3 else found[..., None]
