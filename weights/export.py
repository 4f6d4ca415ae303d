"""Exports a trained network to a file, which is loaded back and compared.

safetensors  our arrays under our names; `config.init_from` takes it
torchvision  the state dict of the twin in torchvision or timm
stablehlo    the whole computation, by jax.export, for any batch size and platform
onnx         the same for ONNX runtimes, by jax2onnx

All compute in float32, on normalised images [B, H, W, C] (torchvision's network on
[B, C, H, W]). labels.txt, with one class per line, and preprocessing.json lie beside
each file.
"""

import dataclasses
import functools
import importlib
import json
import logging
import pathlib
import shutil

import flax
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import weights
from experiment import image_statistics, trained
from kernels import ops
from weights import formats, names, twins
from weights.formats import WeightsError

FORMATS = ("safetensors", "torchvision", "stablehlo", "onnx")

# The largest difference, relative to the largest logit. Runtimes add in different
# orders; the parity of our networks with other implementations bounds the effect in
# float32. A wrong layer gives 1.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Export:
    """A file that was written, and how close its logits are, in words."""

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
      WeightsError: the network has no such form, a package is missing, or the file does
        not give the network's logits.
    """
    opened = trained.open_run(run, checkpoint)
    network, shape = opened.config.model.name, opened.input_shape
    model = opened.model.clone(dtype=jnp.float32)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    folder = pathlib.Path(output).expanduser() if output else run.path / "export"
    fields = opened.config.model.fields.to_dict()
    path, line = export(model, network, opened.variables, images, form, folder, fields)
    labels = "".join(f"{name}\n" for name in opened.label_names)
    (folder / "labels.txt").write_text(labels)
    preprocessing = run.read_json("preprocessing.json") | {"input_shape": shape}
    (folder / "preprocessing.json").write_text(
        json.dumps(preprocessing, indent=2) + "\n"
    )
    statistics = run.path / image_statistics.FILE
    if statistics.exists():
        shutil.copy(statistics, folder)
    return Export(path, line, network, opened.step, str(run))


def export(model, network, variables, images, form, folder, fields=None):
    """Writes `variables` of a network, reads them back and compares logits on images.

    Args:
      model: the linen module.
      network: its name in models.MODELS.
      images: float32 [B, H, W, C], of the network's size.
      form: one of FORMATS.
      folder: a directory, which is made.
      fields: config.model.fields, which our safetensors record.

    Returns:
      (path, line): the file, and the result of the comparison in words.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    variables = jax.tree.map(np.asarray, variables)
    logits = functools.partial(model.apply, train=False)
    writers = {
        "safetensors": functools.partial(_safetensors, fields=fields),
        "torchvision": _torchvision,
        "stablehlo": _stablehlo,
        "onnx": _onnx,
    }
    expected = np.asarray(jax.jit(logits)(variables, images))
    path, others, by = writers[form](logits, network, variables, images, folder)
    difference = np.abs(others - expected).max() / np.abs(expected).max()
    if not difference < TOLERANCE:
        notes = names.notes("torch", network)
        path.unlink()
        raise WeightsError(
            f"{network} as {form}: the logits of what was written differ by "
            f"{difference:.1e} of the largest ({by}); {path} was removed"
            + (f"; {'; '.join(notes)}" if form == "torchvision" else "")
        )
    return path, f"logits differ by {difference:.1e} of the largest ({by})"


# Each function writes a file and returns (path, logits of what it read back, how).


def _safetensors(logits, network, variables, images, folder, fields):
    path = folder / f"{network}.safetensors"
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    metadata = {"format": formats.OURS, "network": network}
    if fields is not None:
        metadata["fields"] = json.dumps(fields)
    formats.write_safetensors(path, flat, metadata)
    back = _read_back(path, network, variables)
    return path, np.asarray(jax.jit(logits)(back, images)), "read by weights.load"


def _read_back(path, network, variables):
    """Reads the variables back from `path`.

    Raises:
      WeightsError: some of them are missing, or cannot be weights; the file is
        removed.
    """
    nothing = jax.tree.map(np.zeros_like, variables)
    try:
        back, report = weights.load(path, network, nothing)
    except WeightsError:
        path.unlink()
        raise
    if lost := report.missing + report.reinitialized:
        path.unlink()
        raise WeightsError(
            f"{network}: {', '.join(lost)} did not come back from {path}"
        )
    return back


def _torchvision(logits, network, variables, images, folder):
    """Writes a .pth for the twin by torch, or, without a twin, a .safetensors."""
    arrays = weights.to_foreign(network, variables)
    if network not in names.TWINS:
        path = folder / f"{network}.torchvision.safetensors"
        formats.write_safetensors(path, arrays, {"format": "pt", "network": network})
        back = _read_back(path, network, variables)
        found = np.asarray(jax.jit(logits)(back, images))
        return path, found, "no twin, names only; read by weights.load"
    package, _, _ = names.TWINS[network]
    try:
        import torch

        classes = jax.eval_shape(logits, variables, images).shape[-1]
        net = twins.create(network, num_classes=classes)
    except (ImportError, OSError) as error:
        raise WeightsError(
            f"{network} as torchvision is compared with the network of {package} "
            f"({error}): pip install torch==2.13.0, then pip install --no-deps -r "
            "requirements-parity.txt"
        ) from error
    path = folder / f"{network}.pth"
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in arrays.items()}, path)
    found = _run_twin(net, path, network, images)
    return path, found, f"by {package}'s network"


def _run_twin(net, path, network, images):
    import torch

    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except RuntimeError as error:
        path.unlink()
        raise WeightsError(
            f"{network} as torchvision: {' '.join(str(error).split())[:300]}"
        ) from error
    inputs = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return net.eval()(inputs).numpy()


def _portable(logits, variables):
    """The function: images -> logits, with the weights inside, in common operations."""

    def program(images):
        with ops.portable():
            return logits(variables, images)

    return program


def _stablehlo(logits, network, variables, images, folder):
    path = folder / f"{network}.stablehlo"
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
    exported = jax.export.export(
        jax.jit(_portable(logits, variables)),
        platforms=("cpu", "cuda", "rocm", "tpu"),
    )(inputs)
    path.write_bytes(exported.serialize())
    back = jax.export.deserialize(bytearray(path.read_bytes()))
    return path, np.asarray(back.call(images)), "by jax.export"


def _onnx(logits, network, variables, images, folder):
    # They log at length what they skip, for libraries that are not used here.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax2onnx, onnx, onnxruntime = (
        _import(name) for name in ("jax2onnx", "onnx", "onnxruntime")
    )
    path = folder / f"{network}.onnx"
    try:
        proto = jax2onnx.to_onnx(
            _portable(logits, variables),
            [("batch", *images.shape[1:])],
            model_name=network,
            input_names=["images"],
            output_names=["logits"],
        )
        onnx.save(proto, path)
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(None, {"images": images})
    except Exception as error:  # converter and runtime have no common base
        path.unlink(missing_ok=True)
        raise WeightsError(f"{network} as onnx: {formats.first_line(error)}") from error
    return path, found, "by onnxruntime"


def _import(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"--format=onnx needs {name} ({error}): "
            "pip install --no-deps -r requirements-exchange.txt"
        ) from error
