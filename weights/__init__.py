"""Loads other libraries' weights into our networks, and gives ours their names.

`load` starts a network from a run directory, torchvision's or timm's state dict,
Keras's file or our own safetensors. names.py says which layer is which, formats.py
reads files, and export.py exports.
"""

import dataclasses
import math
import pathlib
import re

import flax
import numpy as np

from experiment import checkpoints, trained, workdir
from weights import formats, hub, names
from weights.formats import WeightsError

__all__ = [
    "Report",
    "WeightsError",
    "class_names",
    "fit",
    "load",
    "takes_head",
    "to_foreign",
]


@dataclasses.dataclass
class Report:
    """What `load` did with each of our arrays, and what else the file holds."""

    source: str
    network: str
    loaded: list = dataclasses.field(default_factory=list)
    missing: list = dataclasses.field(default_factory=list)
    reinitialized: list = dataclasses.field(default_factory=list)
    left_over: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def __str__(self):
        total = len(self.loaded) + len(self.missing) + len(self.reinitialized)
        lines = [
            f"{self.source}: {len(self.loaded)} of {total} arrays of {self.network}"
        ]
        for title, found in (
            ("not in the file, left as initialised", self.missing),
            ("of another number of classes, left as initialised", self.reinitialized),
            ("in the file and not used", self.left_over),
        ):
            if found:
                more = f" and {len(found) - 8} more" if len(found) > 8 else ""
                lines.append(f"  {title}: {', '.join(found[:8])}{more}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def load(source, network, variables, layers=()):
    """Loads arrays from elsewhere into the variables of one of our networks.

    Args:
      source: a run directory; a file .pth, .pt, .bin, .safetensors, .h5 or .keras; or
        "hf:OWNER/NAME" on the Hugging Face hub.
      network: its name in models.MODELS.
      variables: its collections, of arrays or jax.ShapeDtypeStructs, whose shapes and
        dtypes decide.
      layers: regular expressions, searched in paths such as "backbone/conv1_1/kernel":
        what to load, all of which must be there; () loads all that is there.

    Returns:
      (variables, report): the variables are numpy arrays where something was loaded,
      and as given elsewhere.

    Raises:
      WeightsError: there is nothing to read, the source is another network, or an
        array's shape differs in more than the number of classes; the message names both
        sides.
    """
    kind, arrays, origin = _read(source)
    variables, report = fit(source, kind, arrays, network, variables, layers)
    if origin not in (None, network):
        report.notes.append(f"they are the weights of {origin}")
    return variables, report


def fit(source, kind, arrays, network, variables, layers=()):
    """Does what `load` does, with {name: array} of a `kind` that formats.read gives."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    report = Report(str(source), network)
    arrays = dict(arrays)
    if kind == "ours":
        theirs = {name: name for name in flat}
    else:
        if names.table(kind, network) is None:
            origin = {"torch": "torchvision and timm", "keras": "Keras"}[kind]
            raise WeightsError(
                f"{source} has the names of {origin}, for which {network} has no "
                f"table; there are tables for {', '.join(names.TABLES[kind])}"
            )
        report.notes = names.notes(kind, network, arrays)
        arrays = names.canonical(kind, network, arrays)
        arrays, adapted = _adapt(kind, network, arrays)
        report.notes += adapted
        theirs = names.foreign(kind, network, flat)
    chosen = [name for name in flat if not layers or _is_chosen(name, layers)]
    found = sum(theirs.get(name) in arrays for name in chosen)
    if 2 * found < len(chosen):
        raise WeightsError(
            f"{source} is of another network: of {len(chosen)} arrays of {network} it "
            f"has {found}; its names are such as {', '.join(list(arrays)[:3])}, those "
            f"looked for such as {', '.join(list(theirs.values())[:3])}"
        )
    result = dict(flat)
    for name in chosen:
        like = flat[name]
        if theirs.get(name) not in arrays:
            report.missing.append(name)
            continue
        given = arrays.pop(theirs[name])
        array = _to_ours(kind, given, like.shape)
        if array.shape == like.shape:
            result[name] = array.astype(like.dtype)
            report.loaded.append(name)
            continue
        if _is_classifier(name) and array.shape[:-1] == like.shape[:-1]:
            report.reinitialized.append(name)
            continue
        raise WeightsError(
            f"{source}: {theirs[name]} is {_shape(given)}, which does not fit {name} "
            f"of {network}, {_shape(like)}"
        )
    if layers:
        if report.missing:
            raise WeightsError(
                f"{source} lacks {', '.join(report.missing)}, which config.init_layers "
                "chooses"
            )
    else:
        report.left_over = [n for n in arrays if not n.endswith("num_batches_tracked")]
        _check_depth(report, theirs)
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def takes_head(variables, layers=()):
    """Tells whether `load` with `layers` takes the head, whose outputs are classes."""
    heads = filter(_is_classifier, flax.traverse_util.flatten_dict(variables, sep="/"))
    return not layers or any(_is_chosen(name, layers) for name in heads)


def class_names(source):
    """The classes of a source by number: those of a run, or of one of our exports.

    Returns None if it does not name any.
    """
    path = pathlib.Path(source).expanduser()
    if not source or not path.exists():
        return None
    if path.is_dir():
        return trained.class_names(workdir.Workdir(path))
    labels = path.parent / "labels.txt"
    if not labels.exists() or formats.recorded_network(path) is None:
        return None
    return tuple(labels.read_text().split("\n")[:-1])


def _is_chosen(name, layers):
    return any(re.search(layer, name.split("/", 1)[1]) for layer in layers)


def _check_depth(report, theirs):
    """Raises WeightsError if the file belongs to a deeper or shallower network.

    An array that was not loaded then has the name of a loaded one, except for a number.
    """

    def pattern(name):
        return re.sub(r"\d+", "0", name)

    known = {pattern(theirs[name]) for name in report.loaded}
    missing = [n for n in report.missing if pattern(theirs.get(n, "")) in known]
    more = [n for n in report.left_over if pattern(n) in known]
    for found, what in ((missing, "lacks"), (more, "also has")):
        if found:
            raise WeightsError(
                f"{report.source} is of another network than {report.network}: it "
                f"{what} {', '.join(found[:3])}{', ...' if found[3:] else ''}; "
                "config.init_layers takes parts of it"
            )


def to_foreign(network, variables):
    """The state dict of the network's twin in torchvision or timm: {name: numpy array}.

    Raises:
      WeightsError: there is no table of names for the network.
    """
    if names.table("torch", network) is None:
        raise WeightsError(
            f"neither torchvision nor timm has {network}; there are tables for "
            f"{', '.join(names.TORCH)}"
        )
    _, pointwise = names.table("torch", network)
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    theirs = names.foreign("torch", network, flat)
    if nameless := flat.keys() - theirs.keys():
        raise WeightsError(
            f"torchvision and timm have no name for {min(nameless)} of {network}"
        )
    result = {}
    for name, value in flat.items():
        array = np.asarray(value)
        layer, _ = theirs[name].rsplit(".", 1)
        if name.endswith("/kernel"):
            array = np.moveaxis(array, (-1, -2), (0, 1))
            if _is_fully_connected(name):
                array = array.reshape(len(array), -1)
            if re.fullmatch(pointwise, layer):
                array = array[:, :, None, None]
        result[theirs[name]] = np.ascontiguousarray(array)
        if name.endswith("/mean"):  # torch counts batches, which evaluation ignores
            result[f"{layer}.num_batches_tracked"] = np.array(0)
    return result


def _read(source):
    """Reads any `source`: (kind, arrays, network or None if it is not recorded)."""
    source = str(source)
    if source.startswith("hf:"):
        source = hub.download(source.removeprefix("hf:"))
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return "ours", *_read_run(path)
    return *formats.read(path), formats.recorded_network(path)


def _read_run(path):
    """Reads the latest checkpoint's arrays, the Polyak average if the run kept one.

    It also returns the network's name, with the fields that the config sets.
    """
    run = workdir.Workdir(path)
    if not (path / "config.json").exists():
        raise WeightsError(f"{path} is no run directory: it has no config.json")
    model = run.config().model
    fields = model.fields.to_dict()
    origin = f"{model.name} with model.fields={fields}" if fields else model.name
    saved = checkpoints.Checkpoints(run.checkpoints)
    restored = saved.restore()
    saved.close()
    if restored is None:
        raise WeightsError(f"{run} holds no checkpoint yet")
    state, _, _ = restored
    variables = {"params": state["ema"] or state["params"]}
    variables |= {"batch_stats": state["batch_stats"] or {}}
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(array) for name, array in flat.items()}, origin


def _to_ours(kind, array, shape):
    """Brings their array into our layout; the shape differs if it does not fit `shape`.

    Torch's kernels are [out, in, height, width], Keras's are laid out as ours. For a
    fully connected layer on a map they are [out, in * height * width] and
    [height * width * in, out].
    """
    if kind == "ours" or array.ndim < 2:
        return array
    if kind == "keras":
        on_map = array.ndim == 2 and len(shape) == 4
        if on_map and len(array) == math.prod(shape[:-1]):
            array = array.reshape(*shape[:-1], -1)
        return array
    if array.ndim == 2 and len(shape) == 4:
        height, width, channels, _ = shape
        if array.shape[1] == height * width * channels:
            array = array.reshape(-1, channels, height, width)
    elif array.ndim == 4 and len(shape) == 2:
        array = array.reshape(len(array), -1)
    return np.moveaxis(array, (0, 1), (-1, -2))


def _is_fully_connected(name):
    return re.search(r"(^|/)fc\d?/kernel$", name) is not None


def _is_classifier(name):
    layer = name.split("/", 1)[1].rsplit("/", 1)[0]
    return names.CLASSIFIERS.fullmatch(layer) is not None


def _shape(array):
    return "x".join(map(str, array.shape)) or "a number"


def _adapt(kind, network, arrays):
    """Adapts what a table of names cannot express; returns (arrays, notes)."""
    notes = []
    if kind == "keras" and re.match("vgg|resnet", network):
        for name in ("block1_conv1/kernel", "conv1_conv/kernel"):
            if name in arrays and arrays[name].ndim == 4:
                arrays[name] = arrays[name][:, :, ::-1]
    if kind == "keras" and re.match("resnet|densenet", network):
        arrays, folded = _fold_keras(arrays)
        if folded:
            notes.append(
                f"the biases of {folded} convolutions, which ours do not have, are "
                "taken off the means of the batch normalisation that follows"
            )
    if kind == "keras" and network.startswith("inception"):
        for name, mean in list(arrays.items()):
            if name.endswith("/moving_mean"):
                scale = name.replace("moving_mean", "gamma")
                arrays.setdefault(scale, np.ones_like(mean))
    return arrays, notes


def _fold_keras(arrays):
    """Folds biases into means, and turns Keras's epsilon of 1.001e-5 into our 1e-5."""
    result, folded = {}, 0
    for name, array in arrays.items():
        layer, kind = name.rsplit("/", 1)
        bias = arrays.get(layer.removesuffix("_bn") + "_conv/bias")
        if kind == "moving_variance":
            array = array + array.dtype.type(1e-8)
        elif kind == "moving_mean" and bias is not None:
            array, folded = array - bias, folded + 1
        if name.endswith("_conv/bias"):
            continue
        result[name] = array
    return result, folded
