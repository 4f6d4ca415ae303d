"""Exports a trained network to a file, which is loaded back and compared.

safetensors  our arrays under our names; `config.init_from` takes it
torchvision  the state dict of the twin in torchvision or timm
stablehlo    the whole computation, by jax.export, for any batch size and platform
onnx         the same for ONNX runtimes, by jax2onnx

All compute in float32, on normalised images [B, H, W, C] (torchvision's network on
[B, C, H, W]). labels.txt, with one class per line, and preprocessing.json lie beside
each file. detectors.py says what is different of a detector.
"""

import dataclasses
import functools
import importlib
import json
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import models
import weights
from experiment import image_statistics, trained, workdir
from weights import detectors, exported, formats, names, twins
from weights.formats import WeightsError

FORMATS = ("safetensors", "torchvision", "stablehlo", "onnx")


@dataclasses.dataclass(frozen=True)
class Export:
    """A file that was written, and how close its outputs are, in words."""

    path: pathlib.Path
    compared: str
    network: str
    step: int
    run: str

    def __str__(self):
        return (
            f"{self.path}: {self.compared}; {self.network} after step {self.step} of "
            f"{self.run}"
        )


def export_run(run, checkpoint, form, output=None):
    """Writes the network of a run as `form`, one of FORMATS; returns the `Export`.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      output: the directory; <run>/export by default.

    Raises:
      WeightsError: the network has no such form, a package is missing, the file does
        not give the network's outputs, or the directory is of a run or another export.
    """
    folder = pathlib.Path(output) if output else run.path / "export"
    if workdir.Workdir(folder).has("dataset.json"):
        raise WeightsError(
            f"--output={folder} is a run directory, whose preprocessing.json an export "
            "would replace; choose another, such as its folder export"
        )
    if models.is_detector(run.config().model.name):
        write, (opened, shape) = detectors.export, detectors.open_run(run, checkpoint)
    else:
        write, opened = _export_classifier, trained.open_run(run, checkpoint)
        shape = opened.input_shape
    beside = _beside(run, opened, shape)
    for name, content in beside.items():
        if (folder / name).exists() and (folder / name).read_bytes() != content:
            raise WeightsError(
                f"{folder / name} belongs to another export, and that of {run} "
                "differs: choose another --output, or remove that export"
            )
    earlier = {*folder.glob("*")}
    path, line = write(opened, shape, form, folder)
    if path in earlier:
        line += "; it replaces the file of before"
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    return Export(path, line, opened.config.model.name, opened.step, str(run))


def _beside(run, opened, shape):
    """Returns the files that lie beside an export of a run: {name: bytes}."""
    labels = "".join(f"{name}\n" for name in opened.label_names)
    preprocessing = run.read_json("preprocessing.json") | {"input_shape": shape}
    texts = {
        "labels.txt": labels,
        "preprocessing.json": json.dumps(preprocessing, indent=2) + "\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    statistics = run.path / image_statistics.FILE
    if statistics.exists():
        files[image_statistics.FILE] = statistics.read_bytes()
    return files


def _export_classifier(opened, shape, form, folder):
    """Does what `export` does with a trained.Trained, for images of `shape`."""
    network = opened.config.model.name
    model = opened.model.clone(dtype=jnp.float32)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    recorded = exported.metadata(opened)
    return export(model, network, opened.variables, images, form, folder, recorded)


def export(model, network, variables, images, form, folder, recorded=None):
    """Writes `variables` of a network, reads them back and compares logits on images.

    Args:
      model: the linen module.
      network: its name in models.MODELS.
      images: float32 [B, H, W, C], of the network's size.
      form: one of FORMATS.
      folder: a directory, which is made.
      recorded: what our safetensors record, by `exported.metadata`.

    Returns:
      (path, line): the file, and the result of the comparison in words.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    variables = jax.tree.map(np.asarray, variables)
    logits = functools.partial(model.apply, train=False)
    writers = {
        "safetensors": functools.partial(_safetensors, recorded=recorded),
        "torchvision": _torchvision,
        "stablehlo": _stablehlo,
        "onnx": _onnx,
    }
    expected = np.asarray(jax.jit(logits)(variables, images))
    names_only = form == "torchvision" and network not in names.TWINS
    suffix = ".torchvision.safetensors" if names_only else exported.SUFFIXES[form]
    path = folder / f"{network}{suffix}"
    with exported.verified(path) as part:
        others, by = writers[form](logits, network, variables, images, part)
        difference = exported.difference(others, expected)
        if not difference < exported.TOLERANCE:
            problem = "the logits of what was written differ by"
            problem += f" {difference:.1e} of the largest ({by})"
            exported.refuse(part, network, form, problem)
    return path, f"logits differ by {difference:.1e} of the largest ({by})"


# Each function writes a file and returns (logits of what it read back, how).


def _safetensors(logits, network, variables, images, path, recorded):
    back = exported.safetensors(path, network, variables, recorded)
    return np.asarray(jax.jit(logits)(back, images)), "read by weights.load"


def _torchvision(logits, network, variables, images, path):
    """Writes what the twin takes by torch, or, without a twin, safetensors."""
    arrays = weights.to_foreign(network, variables)
    if network not in names.TWINS:
        formats.write_safetensors(path, arrays, {"format": "pt", "network": network})
        back = exported.read_back(path, network, variables)
        found = np.asarray(jax.jit(logits)(back, images))
        return found, "no twin, names only; read by weights.load"
    package, _, _ = names.TWINS[network]
    try:
        import torch

        classes = jax.eval_shape(logits, variables, images).shape[-1]
        net = twins.create(network, num_classes=classes)
    except (ImportError, OSError) as error:
        raise exported.torch_missing(network, package, error) from error
    exported.state_dict(path, network, arrays, net)
    with torch.no_grad():
        found = net(exported.to_torch(images)).numpy()
    return found, f"by {package}'s network"


def _stablehlo(logits, network, variables, images, path):
    call = exported.stablehlo(path, functools.partial(logits, variables), images)
    return np.asarray(call(images)), "by jax.export"


def _onnx(logits, network, variables, images, path):
    # They log at length what they skip, for libraries that are not used here.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax2onnx, onnx, onnxruntime = (
        _import(name) for name in ("jax2onnx", "onnx", "onnxruntime")
    )
    try:
        proto = jax2onnx.to_onnx(
            exported.portable(functools.partial(logits, variables)),
            [("batch", *images.shape[1:])],
            model_name=network,
            input_names=["images"],
            output_names=["logits"],
        )
        onnx.save(proto, path)
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(None, {"images": images})
    except Exception as error:  # converter and runtime have no common base
        raise WeightsError(f"{network} as onnx: {formats.first_line(error)}") from error
    return found, "by onnxruntime"


def _import(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"--format=onnx needs {name} ({error}): "
            "pip install --no-deps -r requirements-exchange.txt"
        ) from error
