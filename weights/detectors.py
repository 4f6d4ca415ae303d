"""Exports a trained detector to a file, which is loaded back and compared.

safetensors  our arrays under our names
torchvision  the state dict of twins.faster_rcnn, which torchvision's parts make
stablehlo    images and their sizes -> detections, with all NMS inside

The program takes any number of images [B, H, W, C], float32, normalised and padded with
0 below and right, and their sizes int32 [B, 2], height and width. H and W hold every
image of the run's view. It returns the arrays of models.faster_rcnn.Detections in a
dict. For ONNX there is none: jax2onnx 0.17.1 does not convert RoIPool's loop nor the
gathers of NMS for several images.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import weights
from experiment import detectors
from weights import exported, twins
from weights.formats import WeightsError

REGIONS = 4  # pooled regions that the second stage is compared on
# Detections are the same if their scores, and their boxes in units of the image's
# longer side, differ by less. Rounding in float32 gave 3e-7 in a thin ResNet-18.
SAME = 1e-3
# NMS turns differences of rounding into other boxes, but few; a wrong layer into nearly
# all others.
OTHERS = 0.05


def open_run(run, checkpoint):
    """Opens the detector of a run: (the detectors.Opened, [H, W, C] of its input)."""
    opened = detectors.open_run(run, checkpoint)
    sides = np.max(opened.preprocessing.view.buckets, 0).tolist()
    return opened, (*sides, opened.channels)


def export(opened, shape, form, folder):
    """Writes a detectors.Opened as `form` into a folder, which is made.

    Args:
      shape: [H, W, C] of the images that it is compared on, and that a program takes.

    Returns:
      (the file, the result of the comparison in words).

    Raises:
      WeightsError: the network has no such form, a package is missing, or the file does
        not give the network's outputs.
    """
    if form == "onnx":
        raise WeightsError(
            "a detector has no --format=onnx: jax2onnx converts neither RoIPool nor "
            "NMS; --format=stablehlo has them inside"
        )
    folder.mkdir(parents=True, exist_ok=True)
    model = opened.model.clone(dtype=jnp.float32)
    variables = jax.tree.map(np.asarray, opened.variables)
    path = folder / f"{opened.config.model.name}{exported.SUFFIXES[form]}"
    writers = {
        "safetensors": _safetensors,
        "torchvision": _torchvision,
        "stablehlo": _stablehlo,
    }
    with exported.verified(path) as part:
        line = writers[form](opened, model, variables, shape, part)
    return path, line


# Each function writes a file, compares what it reads back, and says the result.


def _safetensors(opened, model, variables, shape, path):
    network = opened.config.model.name
    back = exported.safetensors(path, network, variables, exported.metadata(opened))
    expected, inputs = _expected(model, variables, shape)
    found = jax.jit(_outputs(model))(back, *inputs)
    how = "read by weights.load"
    return _compared(path, network, "safetensors", found, expected, how)


# What both stages say, without boxes: the map of an image, scores and codes of its
# anchors, and scores and codes of pooled regions.


def _outputs(model):
    def run(model, images, regions):
        found = model.judged([regions[None]], train=False)
        return *model.first_stage(images, train=False), *found

    return functools.partial(model.apply, method=run)


def _expected(model, variables, shape):
    """Returns the outputs of random inputs, and these: an image and pooled regions."""
    rng, size = np.random.default_rng(0), model.pool_size
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    first = functools.partial(model.apply, method="first_stage", train=False)
    channels = jax.eval_shape(first, variables, image)[0].shape[-1]
    regions = rng.normal(size=(REGIONS, size, size, channels)).astype(np.float32)
    inputs = image, np.maximum(regions, 0)
    return jax.jit(_outputs(model))(variables, *inputs), inputs


def _compared(path, network, form, found, expected, how):
    difference = exported.difference(found, expected)
    said = f"differ by {difference:.1e} of the largest ({how})"
    if not difference < exported.TOLERANCE:
        problem = f"the scores and codes of what was written {said}"
        exported.refuse(path, network, form, problem)
    return f"scores and codes {said}"


def _torchvision(opened, model, variables, shape, path):
    network = opened.config.model.name
    moments = opened.preprocessing.mean, opened.preprocessing.std
    moments = (tuple(np.divide(values, 255).tolist()) for values in moments)
    view = opened.preprocessing.view
    try:
        net = twins.faster_rcnn(model, *moments, view.short_side, view.long_side)
    except (ImportError, OSError) as error:
        raise exported.torch_missing(network, "torchvision", error) from error
    exported.state_dict(path, network, weights.to_foreign(network, variables), net)
    expected, inputs = _expected(model, variables, shape)
    found = _run_twin(net, *map(exported.to_torch, inputs))
    how = "by torchvision's parts"
    line = _compared(path, network, "torchvision", found, expected, how)
    return f"{line}; its labels count from 1: label i is line i of labels.txt"


def _run_twin(net, image, regions):
    import torch

    with torch.no_grad():
        x = net.backbone(image)
        (scores,), (codes,) = net.rpn.head([x])
        second = net.roi_heads.box_predictor(net.roi_heads.box_head(regions))
    maps = (y.permute(0, 2, 3, 1).numpy() for y in (x, scores, codes))
    x, scores, codes = maps
    return (
        x,
        scores.reshape(1, -1),
        codes.reshape(1, -1, 4),
        second[0].numpy()[None],
        second[1].numpy().reshape(1, REGIONS, -1, 4),
    )


# The whole program.


def _stablehlo(opened, model, variables, shape, path):
    def detect(images, sizes):
        return model.apply(variables, images, sizes, train=False)._asdict()

    inputs = _scenes(shape)
    call = exported.stablehlo(path, detect, *inputs)
    expected, found = (jax.device_get(jax.jit(f)(*inputs)) for f in (detect, call))
    agree, number, difference = agreement(found, expected, max(shape[:2]))
    said = f"{agree} of {number} detections agree to {difference:.1e} (by jax.export)"
    if not number:
        said = "no detections in the made-up images to compare (by jax.export)"
    if number - agree > OTHERS * number:
        exported.refuse(path, opened.config.model.name, "stablehlo", f"only {said}")
    if opened.preprocessing.view.test_scales:
        said += "; it sees one scale, not those of detection.test_scales"
    return said


def _scenes(shape):
    """Returns two images, float32, of noise and rectangles, and their sizes.

    The second one is smaller, and padded with 0.
    """
    rng = np.random.default_rng(0)
    images = 0.3 * rng.normal(size=(2, *shape)).astype(np.float32)
    sizes = np.array([shape[:2], [3 * side // 4 for side in shape[:2]]], np.int32)
    for image, size in zip(images, sizes, strict=True):
        for centre in rng.uniform(size=(8, 2)):
            low, high = (size * np.clip(centre + x, 0, 1) for x in (-0.15, 0.15))
            rows, columns = map(slice, low.astype(int), high.astype(int))
            image[rows, columns] = rng.uniform(-2, 2, shape[-1])
        image[size[0] :] = image[:, size[1] :] = 0
    return images, sizes


def agreement(found, expected, side):
    """Compares two dicts of detections, as arrays of a batch.

    Returns:
      (how many agree, of how many, their largest difference). A difference is of scores
      or of boxes divided by `side`; detections agree whose label is the same and whose
      difference is below SAME.
    """
    agree, number, largest = 0, 0, 0.0
    for one, other in zip(_rows(found, side), _rows(expected, side), strict=True):
        apart = np.abs(one[:, None] - other[None]).max(2)
        nearest = [apart.min(axis, initial=np.inf) for axis in (0, 1)]
        same = [row[row < SAME] for row in nearest]
        agree += min(map(len, same))
        number += max(len(one), len(other))
        largest = max([largest, *same[0].tolist()])
    return agree, number, largest


def _rows(found, side):
    """Returns the detections [N, 6] of each image: label, score and box."""
    columns = (
        found["labels"],
        found["scores"],
        *np.moveaxis(found["boxes"] / side, 2, 0),
    )
    rows = np.stack(columns, 2)
    return [own[there] for own, there in zip(rows, found["there"], strict=True)]
