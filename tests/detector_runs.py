"""A run directory of a small detector with random weights, for tests of its uses."""

import jax
import numpy as np

from configs import faster_rcnn
from detection import digits, inputs, views
from experiment import build, checkpoints, checks, workdir
from models import resnet

FIELDS = {"depth": 18, "features": 8, "rpn_channels": 8, "pool_size": 4}
FIELDS |= {"anchor_sizes": (12, 24), "pre_nms": (60, 60), "post_nms": (30, 20)}
SIDE = 64


def shrink(patch):
    """Leaves few digits, and resnet18 one block in each stage."""
    for split in digits.SIZES:
        patch.setitem(digits.SIZES, split, 6)
    block, _ = resnet.TABLE_1[18]
    patch.setitem(resnet.TABLE_1, 18, (block, (1, 1, 1, 1)))


def random(shapes, seed=0):
    """Random variables that let a detector find objects, without a compilation."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        std = (2 / np.prod(x.shape[:-1])) ** 0.5 if name == "kernel" else 0.1
        std /= 10 if path[-2].key == "reg" else 1  # proposals resemble anchors
        return rng.normal(0, std, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make(path, channels=1, buckets=((SIDE, SIDE),), **fields):
    """Returns the workdir.Workdir of a detector that was never trained."""
    config = faster_rcnn.get_config("digits")
    config.detection.short_side = config.detection.long_side = SIDE
    config.model.fields.update(FIELDS | fields)
    config.eval.batch_size = 3
    checks.check(config)
    run = workdir.Workdir(path)
    run.create(config)
    shape = SIDE, SIDE, channels
    names = {"image_shape": [None, None, channels], "label_names": digits.NAMES}
    run.write_json("dataset.json", names)
    view = views.View(buckets, 5, SIDE, SIDE, flip=False)
    run.write_json(
        "preprocessing.json", inputs.Preprocessing(view, (0,), (255,)).as_dict()
    )
    model = build.make_model(config, len(digits.NAMES))
    variables = random(build.abstract_variables(model, shape))
    saved = checkpoints.Checkpoints(run.checkpoints)
    saved.save(4, {"ema": None} | variables)
    saved.close()
    return run
