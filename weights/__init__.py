"""Loads other libraries' weights into our networks, and gives ours their names.

`load` starts a network from a run directory, torchvision's or timm's state dict,
Keras's file or our own safetensors. names.py says which layer is which, formats.py
reads files, checks.py refuses what cannot be right, shortcuts.py reorders channels, and
export.py exports.
"""

import dataclasses
import json
import math
import pathlib
import re

import flax
import numpy as np

import models
from errors import shortened
from experiment import checkpoints, trained, workdir
from weights import checks, formats, hub, names, shortcuts
from weights.formats import Contents, WeightsError

__all__ = [
    "Report",
    "WeightsError",
    "class_names",
    "fit",
    "load",
    "preprocessing",
    "takes_head",
    "to_foreign",
]


_BOXES = "params/head/reg/"


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
    warnings: list = dataclasses.field(default_factory=list)

    @property
    def new_scores(self):
        """Whether the scores of classes start anew, not only boxes or a side head."""
        return any(
            names.is_class_score(name)
            and not names.side_head(name)
            and not name.startswith(_BOXES)
            for name in self.reinitialized
        )

    def __str__(self):
        total = len(self.loaded) + len(self.missing) + len(self.reinitialized)
        lines = [
            f"{self.source}: {len(self.loaded)} of {total} arrays of {self.network}"
        ]
        for title, found in (
            ("not in the file, left as initialised", self.missing),
            (
                "of another number of classes or boxes, left as initialised",
                self.reinitialized,
            ),
            ("in the file and not used", self.left_over),
        ):
            if found:
                lines.append(f"  {title}: {shortened(found, 8)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines + [f"  warning: {line}" for line in self.warnings])


def load(source, network, variables, layers=(), fields=None, key=""):
    """Loads arrays from elsewhere into the variables of one of our networks.

    Args:
      source: a run directory; a file of torch, safetensors or Keras; or
        "hf:OWNER/NAME" on the Hugging Face hub.
      network: its name in models.MODELS.
      variables: its collections, of arrays or jax.ShapeDtypeStructs, whose shapes and
        dtypes decide.
      layers: regular expressions, searched in paths such as "backbone/conv1_1/kernel":
        what to load, all of which must be there; () loads all, and only side heads may
        be missing.
      fields: the network's fields that config.model.fields states.
      key: which of several sets of weights (`formats.read`); of a run, "ema" or
        "params".

    Returns:
      (variables, report): the variables are numpy arrays where something was loaded,
      and as given elsewhere.

    Raises:
      WeightsError: there is nothing to read, the source is another network, an array's
        shape differs in more than the number of classes, arrays are missing, or their
        numbers cannot be weights; the message names both sides.
    """
    (kind, arrays, notes), (origin, theirs, *_) = _read(source, key)
    needed, why = names.needed_fields(kind, network, arrays)
    differ = {n for n, v in needed.items() if _field(network, fields or {}, n) != v}
    whole = _takes_backbone(variables, layers)
    if whole and not differ <= (fields or {}).keys():
        raise WeightsError(
            f"{source}: {why}; add {names.flags(needed)} for the network of these "
            "weights, or other values for another one"
        )
    if whole and kind == "torch" and network in names.DOUBLES and origin != network:
        raise WeightsError(
            f"{source}: {names.DOUBLES[network]}; config.init_layers takes parts of it"
        )
    try:
        variables, report = fit(source, kind, arrays, network, variables, layers)
    except WeightsError as error:
        raise WeightsError("; ".join([str(error), *notes])) from error
    if differ:
        notes = [*notes, f"{why}: {names.flags(needed)}"]
    report.notes = [*notes, *report.notes]
    if origin not in (None, network):
        stated = f" with model.fields={theirs}" if theirs else ""
        report.notes.append(f"they are the weights of {origin}{stated}")
    elif theirs is not None:
        report.warnings += _compared_fields(network, fields or {}, theirs)
    return variables, report


def _field(network, stated, name):
    """The value of a field of a network, of which the fields `stated` are given."""
    default = models.create(network, num_classes=10)  # LeNet-5 takes no other number
    return stated.get(name, getattr(default, name, None))


def _compared_fields(network, ours, theirs):
    """Warns, in one line, of fields that a source states otherwise than we: a list."""

    def differs(name):  # as JSON, which a file and config.json have them in
        values = (_field(network, stated, name) for stated in (ours, theirs))
        return len({json.dumps(value, default=str) for value in values}) > 1

    if not (differ := sorted(filter(differs, {**ours, **theirs}))):
        return []
    return [
        f"they are the weights of {network} with model.fields={theirs}, and this one "
        f"has {ours}: with another {', '.join(differ)} it may be another network"
    ]


def fit(source, kind, arrays, network, variables, layers=()):
    """Does what `load` does, with {name: array} of a `kind` that formats.read gives."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    report = Report(str(source), network)
    arrays = dict(arrays)
    head, adapted = None, []
    if kind == "ours":
        theirs = {name: name for name in flat}
    else:
        if names.table(kind, network) is None:
            origin = {"torch": "torchvision and timm", "keras": "Keras"}[kind]
            raise WeightsError(
                f"{source} has the names of {origin}, for which {network} has no "
                f"table; there are tables for {', '.join(names.TABLES[kind])}"
            )
        theirs = names.foreign(kind, network, flat)
        arrays, head, adapted = _adapt(source, kind, network, arrays, theirs)
    chosen = [name for name in flat if not layers or _is_chosen(name, layers)]
    found = sum(theirs.get(name) in arrays for name in chosen)
    if 2 * found < len(chosen):
        raise WeightsError(
            f"{source} is of another network: of {len(chosen)} arrays of {network} it "
            f"has {found}; its names are such as {', '.join(list(arrays)[:3])}, those "
            f"looked for such as {', '.join(list(theirs.values())[:3])}"
        )
    given = {n: arrays.pop(theirs[n]) for n in flat if theirs.get(n) in arrays}
    report.left_over = [name for name in arrays if not _is_count(name)]
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        converted = {
            name: _to_ours(kind, array, flat[name].shape).astype(flat[name].dtype)
            for name, array in given.items()
        }
    for name in chosen:
        if name not in converted:
            report.missing.append(name)
        elif converted[name].shape == flat[name].shape:
            report.loaded.append(name)
        elif _is_head_of_others(name, converted[name], flat[name]):
            report.reinitialized.append(name)
        else:
            raise WeightsError(
                f"{source}: {theirs[name]} is {_shape(given[name])}, which does not "
                f"fit {name} of {network}, {_shape(flat[name])}"
            )
    if report.new_scores:
        # Boxes of a class belong to its scores, though their shape may fit others, too.
        anew = [name for name in report.loaded if _is_boxes(name, flat[name])]
        report.loaded = [name for name in report.loaded if name not in anew]
        report.reinitialized += anew
    report.notes = [*names.notes(kind, network, report.loaded), *adapted]
    if not layers:
        checks.check_parts(report, theirs)
    elif report.missing:
        raise WeightsError(
            f"{source} lacks {', '.join(report.missing)}, which config.init_layers "
            "chooses"
        )
    elif _takes_backbone(variables, layers):
        backbone = [name for name in report.loaded if _is_backbone(name)]
        checks.check_no_more(report, theirs, backbone)
    checks.check_numbers(
        source, {n: (theirs[n], given[n], converted[n]) for n in report.loaded}
    )
    if kind == "torch" and names.is_resnet(network):
        plain = network.startswith("plain")
        converted, reordered = shortcuts.reorder(source, converted, head, plain)
        report.notes += reordered
    result = flat | {name: converted[name] for name in report.loaded}
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def takes_head(variables, layers=()):
    """Tells whether `load` with `layers` takes the head, whose outputs are classes."""
    heads = filter(
        names.is_class_score, flax.traverse_util.flatten_dict(variables, sep="/")
    )
    return not layers or any(_is_chosen(name, layers) for name in heads)


def _takes_backbone(variables, layers):
    """Tells whether `load` with `layers` takes the backbone as a whole."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    backbone = filter(_is_backbone, flat)
    return not layers or all(_is_chosen(name, layers) for name in backbone)


def _is_backbone(name):
    return name.split("/")[1] == "backbone"


def class_names(source):
    """The classes of a source by number: those of a run, or of one of our exports.

    Returns None if it does not name any.
    """
    path = pathlib.Path(source).expanduser()
    if not source or not path.exists():
        return None
    if path.is_dir():
        return trained.class_names(workdir.Workdir(path))
    recorded, labels = formats.recorded(path), path.parent / "labels.txt"
    if recorded.labels is not None:
        return tuple(recorded.labels)
    if recorded.network is None or not labels.exists():
        return None
    return tuple(labels.read_text().removesuffix("\n").split("\n"))


def preprocessing(source):
    """The preprocessing.json of a source: that of a run, or of one of our exports.

    Returns None if there is none.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_file() and formats.recorded(path).network is not None:
        path = path.parent
    folder, file = workdir.Workdir(path), "preprocessing.json"
    return folder.read_json(file) if folder.has(file) else None


def _is_chosen(name, layers):
    return any(re.search(layer, name.split("/", 1)[1]) for layer in layers)


def _is_count(name):
    """Whether an array of theirs counts batches or operations."""
    return name.rsplit(".", 1)[-1] in (
        "num_batches_tracked",
        "n_averaged",
        "total_ops",
        "total_params",
    )


def _is_boxes(name, array):
    """Whether an array gives a detector's boxes, those of each class apart."""
    return name.startswith(_BOXES) and array.shape[-1] > 4


def _is_head_of_others(name, array, like):
    """Whether an array gives scores or boxes of another number."""
    return names.is_class_score(name) and array.shape[:-1] == like.shape[:-1]


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


def _read(source, key):
    """Reads any `source`: (its `formats.Contents`, what it `formats.Recorded`)."""
    source = str(source)
    if source.startswith("hf:"):
        source = hub.download(source.removeprefix("hf:"))
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _read_run(path, key)
    return formats.read(path, key), formats.recorded(path)


def _read_run(path, key):
    """Reads the latest checkpoint; the Polyak average if the run kept one, or by `key`.

    It returns what `_read` does.
    """
    run = workdir.Workdir(path)
    if not (path / "config.json").exists():
        raise WeightsError(f"{path} is no run directory: it has no config.json")
    model = run.config().model
    saved = checkpoints.Checkpoints(run.checkpoints)
    restored = saved.restore(parts=trained.PARTS)
    saved.close()
    if restored is None:
        raise WeightsError(f"{run} holds no checkpoint yet")
    state, step, _ = restored
    kept = [name for name in ("ema", "params") if state.get(name)]
    if key and key not in kept:
        raise WeightsError(
            f"{run} has no config.init_key = {key!r}; it has {', '.join(kept)}"
        )
    notes = (f"they are of step {step}, the latest",)
    if len(kept) > 1:
        notes += (
            f"they are the run's {key or kept[0]!r}; config.init_key chooses ema, the "
            "Polyak average, or params, those that were trained",
        )
    variables = {"params": state[key or kept[0]]}
    variables |= {"batch_stats": state.get("batch_stats", {})}
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(array) for name, array in flat.items()}
    recorded = formats.Recorded(model.name, model.fields.to_dict())
    return Contents("ours", arrays, notes), recorded


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


def _shape(array):
    return "x".join(map(str, array.shape)) or "a number"


def _adapt(source, kind, network, arrays, theirs):
    """Adapts what a table of names cannot express.

    Returns:
      (arrays, what a file of torch calls its head, notes).
    """
    head, notes = None, []
    if kind == "torch":
        arrays, notes = names.unwrapped(source, arrays)
    arrays = names.canonical(kind, network, arrays)
    if kind == "torch":
        arrays, head, renamed = names.with_head(arrays, theirs)
        notes += renamed
    if network == "preact_resnet200" and (
        np.less(arrays.get("stages.0.blocks.0.norm1.weight", 0), 0).any()
    ):
        raise WeightsError(
            f"{source}: stages.0.blocks.0.norm1.weight has negative numbers, with "
            "which timm's first pool, which comes ahead of it, is not ours"
        )
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
    return arrays, head, notes


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
