"""The networks by name: `create`, MODELS for classifiers, and DETECTORS.

A network elsewhere is named by its module and class, as in "mine.networks:Small", which
Python must find (PYTHONPATH, or the folder of main.py).
"""

import dataclasses
import difflib
import functools
import importlib
import os

import jax
import jax.numpy as jnp

from models import layers

# The files of the classifiers. One is imported when a network of it is asked for.
FILES = (
    "alexnet bn_inception densenet dpn fractalnet googlenet googlenet_bn "
    "inception_v3 inception_v4 lenet lenet_modern nin overfeat preact_resnet resnet "
    "resnext senet vgg wide_resnet zfnet"
).split()
# Networks for detection, each in the file of its name; no table of classifiers lists
# them.
DETECTORS = ("faster_rcnn",)


def __getattr__(name):
    """MODELS has the constructors of all classifiers by name, and imports them all."""
    if name != "MODELS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _all_networks()


@functools.cache
def _all_networks():
    return {name: make for file in FILES for name, make in _networks(file).items()}


def _networks(file):
    return importlib.import_module(f"models.{file}").MODELS


def constructor(name):
    """Returns what makes the network called `name`, or "module:Class".

    Raises:
      ValueError: an unknown name; the message names the nearest real ones, or says why
        the module or class cannot be had.
    """
    if ":" not in str(name):
        return _ours(name)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, layers.Classifier)):
        raise ValueError(f"model {name!r} is no models.layers.Classifier")
    return found


def _ours(name):
    if name in DETECTORS:
        return importlib.import_module(f"models.{name}").DETECTORS[name]

    def unlike(file):
        return -len(os.path.commonprefix([file, str(name)]))

    for file in sorted(FILES, key=unlike):  # mostly the first has it
        if name in _networks(file):
            return _networks(file)[name]
    if name in _all_networks():  # which a program may have added to
        return _all_networks()[name]
    raise ValueError(_unknown("model", name, [*_all_networks(), *DETECTORS]))


def is_detector(name):
    """Tells whether a network finds objects; others tell classes."""
    return name in DETECTORS


def fields(name):
    """The names of the fields that `create(name, ...)` takes beside num_classes.

    Raises:
      ValueError: an unknown name, as in `constructor`.
    """
    make = constructor(name)
    fixed = {"parent", "name", "num_classes"}
    while isinstance(make, functools.partial):
        fixed |= make.keywords.keys()
        make = make.func
    names = [field.name for field in dataclasses.fields(make) if field.init]
    return [field for field in names if field not in fixed]


def create(name, *, num_classes, dtype=jnp.float32, **values):
    """Returns the network called `name` as a linen module.

    `module.apply(variables, images, train=...)` takes normalised images [B, H, W, C]
    and returns logits [B, num_classes] in float32; inside, it computes in `dtype`. A
    network of DETECTORS returns `faster_rcnn.Detections`.

    Raises:
      ValueError: unknown name or field (the message names the nearest real ones and
        lists all), or a value that the network refuses (the message names the field).
    """
    known = fields(name)
    for field in values:
        if field not in known:
            raise ValueError(_unknown(f"field of model {name!r}", field, known))
    return constructor(name)(num_classes=num_classes, dtype=dtype, **values)


def class_map(model, variables, images, *, image_size):
    """Class scores [B, h, w, K] of a network slid over larger images [B, H, W, C].

    The network becomes fully convolutional. A fully connected layer becomes a
    convolution with the same parameters. An average over the whole map becomes one over
    windows, of the size that this map has for images of `image_size`: a number or
    (height, width), at which the network was trained. Images of that size give a 1x1
    map of the logits.
    """
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    usual = jax.ShapeDtypeStruct((1, height, width, images.shape[-1]), images.dtype)

    def features(variables, images):
        return model.apply(variables, images, method="features")

    window = jax.eval_shape(features, variables, usual).shape[1:3]
    return model.apply(
        variables, images, train=False, window=window, method="class_map"
    )


def _unknown(what, name, names):
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    choices = ", ".join(sorted(names))
    return f"unknown {what} {name!r}{hint} The choices are: {choices}"
